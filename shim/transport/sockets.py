"""Sockets that are closed by their event loop alone."""

import socket

from aiohappyeyeballs.types import AddrInfoType


class LoopsOwnSocket(socket.socket):
    """A socket that the collector does not close.

    uvloop 0.21, which the Functions worker runs (`uvloop ~= 0.21.0` in proxy_worker's pyproject), can close a socket's
    file descriptor on an error path and leave the object as if it were open. Collected later, the object would close
    that number again, which by then may be another caller's connection
    (https://github.com/MagicStack/uvloop/issues/738).
    """

    def __del__(self) -> None:
        self.detach()


def make_socket(address: AddrInfoType) -> LoopsOwnSocket:
    """A socket factory, as aiohappyeyeballs takes one."""
    family, kind, protocol, *_ = address
    return LoopsOwnSocket(family, kind, protocol)
