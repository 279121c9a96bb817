"""A page to try the shim from: of another origin than the shim's, as every page that calls it is."""

from devhost.playground.server import Playground

__all__ = ["Playground"]
