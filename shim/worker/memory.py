"""How the process keeps its memory: garbage is looked for rarely, and what was freed stays for the next call."""

import asyncio
import ctypes
import gc
import sys

# Of the garbage collector: a call leaves few objects that only it could find, so that it need not look as often.
_COLLECTOR_THRESHOLDS = (10_000, 20, 20)
# Of glibc's malloc (mallopt(3)): how much free memory at its end it keeps, and from which size on a piece of memory
# comes from the kernel by itself and goes back when it is freed.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 8 * 1024 * 1024
_MAPPED_BYTES = 256 * 1024
_TRIM_SECONDS = 60.0


def settle() -> None:
    """For a process that has imported all it needs, and serves from now on."""
    # What the app consists of is never garbage: it need not be looked at again, 12 ms each time (bench/NOTES.md).
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
    gc.enable()  # function_app.py switches it off
    if libc := _glibc():
        # The pieces in which a body passes, of 250 KB at most, are kept for those that follow: with malloc's own
        # thresholds each is memory that the kernel clears and takes back again, a third of the time of an upload. The
        # buffers of TLS connections, 256 KiB each, of which a stream of short records uses the beginning, are not.
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


async def trim_forever(interval: float = _TRIM_SECONDS) -> None:
    """Gives back, every `interval` seconds, what is free between pieces in use: malloc itself looks at its end alone.

    Without it each burst of 1,000 TLS streams left 20 MiB. Takes 4 ms where there is much to give back, else 0.2.
    """
    libc = _glibc()
    while libc is not None:
        await asyncio.sleep(interval)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None  # musl has none
