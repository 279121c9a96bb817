"""Upstream's response, on its way to the caller."""
