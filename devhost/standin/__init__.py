"""A stand-in for the legacy APIM API in front of Azure OpenAI: the upstream of tests, demos and benches."""

from devhost.standin.received import Ended, Received
from devhost.standin.server import Handler, Standin, raw_answer

__all__ = ["Ended", "Handler", "Received", "Standin", "raw_answer"]
