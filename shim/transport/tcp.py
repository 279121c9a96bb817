"""What the kernel knows of a TCP connection: whether something has arrived, and what the peer has acknowledged."""

import select
import socket
import struct

# A peer that is gone is noticed within about a minute: 30 s of silence, then three probes, 10 s apart.
_PROBE_AFTER_SECONDS = 30
_PROBE_INTERVAL_SECONDS = 10
_PROBES = 3
# Linux's struct tcp_info (include/uapi/linux/tcp.h): 8 bytes of flags, 24 words, two pacing rates, tcpi_bytes_acked.
_BYTES_ACKED = struct.Struct("=Q")
_BYTES_ACKED_OFFSET = 120
_TCP_INFO_BYTES = _BYTES_ACKED_OFFSET + _BYTES_ACKED.size


class Tcp:
    """One connected socket, looked at from outside the event loop that owns it.

    The socket itself, not what a transport's `get_extra_info` gives: uvloop's stand-in for it knows no options.
    """

    __slots__ = ("_poll", "_socket")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected.fileno(), select.POLLIN | select.POLLPRI)

    def has_news(self) -> bool:
        """Whether bytes, the end or an error have arrived that the event loop has not read yet."""
        return bool(self._poll.poll(0))

    def bytes_acknowledged(self) -> int | None:
        """How many bytes the peer's kernel has acknowledged so far; None where this kernel does not count them."""
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except (AttributeError, OSError):
            return None
        return (
            _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_OFFSET)[0] if len(info) == _TCP_INFO_BYTES else None
        )


def probe_when_silent(connected: socket.socket) -> None:
    """Has TCP ask a silent peer whether it is still there, so that a long wait is neither dropped nor endless."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # macOS calls the first TCP_KEEPALIVE.
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    for name, value in (
        (idle, _PROBE_AFTER_SECONDS),
        ("TCP_KEEPINTVL", _PROBE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", _PROBES),
    ):
        if option := getattr(socket, name, None):
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
