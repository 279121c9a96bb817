"""One change in a body that goes on otherwise as it came."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Splice:
    """The bytes from `start` to `end` give way to `replacement`."""

    start: int
    end: int
    replacement: bytes

    @property
    def growth(self) -> int:
        """How many bytes longer the body becomes."""
        return len(self.replacement) - (self.end - self.start)
