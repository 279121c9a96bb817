"""Bodies held back while their `model` is looked for: mostly on disk, and bounded over all calls together."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import SpooledTemporaryFile

from shim.errors import TooBusy

PIECE_BYTES = 64 * 1024
# Of one body in memory; what is longer goes to disk.
MEMORY_BYTES = 1024 * 1024
# Of all bodies. The smallest plan has 0.5 GB of temporary storage, Flex Consumption 0.8 GB, and the Functions host
# keeps its own copy there of each body that came with a length:
# https://learn.microsoft.com/azure/azure-functions/functions-scale#service-limits
TOTAL_BYTES = 256 * 1024 * 1024


class SpoolSpace:
    """How many bytes the spools of this process may hold together; at least one body of `largest_body` bytes."""

    def __init__(self, largest_body: int, total: int = TOTAL_BYTES) -> None:
        self._free = max(largest_body, total)

    @property
    def free(self) -> int:
        return self._free

    def take(self, size: int) -> None:
        """Raises TooBusy where that much is not free."""
        if size > self._free:
            raise _no_space()
        self._free -= size

    def give_back(self, size: int) -> None:
        self._free += size


class Held:
    """What has been read of one body where it came in one piece."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = content

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if piece := self._content[start:end]:
            yield piece

    def close(self) -> None:
        self._content = b""


class Spool:
    """What has been read of one body. Close it in any case: until then it takes up space."""

    def __init__(self, space: SpoolSpace) -> None:
        self.size = 0
        self._space = space
        self._file = SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 - `close` closes it

    def write(self, piece: bytes) -> None:
        """Raises TooBusy where there is no space left, by our own bound or on the disk."""
        self._space.take(len(piece))
        self.size += len(piece)
        with _disk():
            self._file.write(piece)

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to `end`, at most PIECE_BYTES at a time. Raises TooBusy as `write` does."""
        left = (self.size if end is None else end) - start
        with _disk():
            self._file.seek(start)  # which first writes what was buffered
        while left > 0 and (piece := self._file.read(min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece

    def close(self) -> None:
        with suppress(OSError):  # a full disk does not take what was buffered, and nobody wants that any more
            self._file.close()
        self._space.give_back(self.size)
        self.size = 0


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _no_space() from error


def _no_space() -> TooBusy:
    return TooBusy("Too many large bodies are being read at once. Try again shortly.", retry_after=1)
