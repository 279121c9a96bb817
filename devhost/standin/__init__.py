"""A stand-in for the legacy APIM API in front of Azure OpenAI: the upstream of tests, demos and benchmarks."""

from devhost.standin.received import Ended, Received
from devhost.standin.script import Handler
from devhost.standin.server import Standin

__all__ = ["Ended", "Handler", "Received", "Standin"]
