"""One change to a body whose other bytes stay as they are."""

from typing import NamedTuple


class Splice(NamedTuple):
    """`replacement` takes the place of the bytes from `start` to `end`."""

    start: int
    end: int
    replacement: bytes

    @property
    def growth(self) -> int:
        """How many bytes longer the body becomes."""
        return len(self.replacement) - (self.end - self.start)
