"""How the process keeps its memory: garbage is looked for rarely, and what was freed stays for the next call."""

import ctypes
import gc
import sys

# Of the garbage collector: a call leaves few objects that only it could find, so that it need not look as often.
_COLLECTOR_THRESHOLDS = (10_000, 20, 20)
# Of glibc's malloc (mallopt(3)): how much free memory at its end it keeps, and from which size on a piece of memory is
# the kernel's again once it is freed.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 8 * 1024 * 1024
_MAPPED_BYTES = 4 * 1024 * 1024


def settle() -> None:
    """For a process that has imported all it needs, and serves from now on."""
    # What the app consists of is never garbage: it need not be looked at again, 12 ms each time (bench/NOTES.md).
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Large bodies pass in pieces of up to 256 KiB. With malloc's own thresholds each piece is memory that the kernel
    clears and takes back again, page by page: a third of the time of an upload (bench/NOTES.md).
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # which musl, for one, has not
            libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
            libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
