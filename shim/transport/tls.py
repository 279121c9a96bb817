"""TLS to other servers: whom to trust, sessions that new connections resume, and how a connection ended."""

import ssl
from functools import lru_cache
from typing import NamedTuple, Self


class Sessions:
    """The last session with each host, which takes a handshake less than half of its CPU time: no chain to check.

    Only sessions that a check of the certificates began are kept, so that none is resumed for ever: their tickets hold
    for seven days at most (RFC 8446, section 4.6.1). A server that takes none of it is checked as any other.
    """

    def __init__(self) -> None:
        self._by_host: dict[str, ssl.SSLSession] = {}

    def resumed_by(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """The context, whose connections now resume what is kept here."""
        sessions = self._by_host

        class Resuming(ssl.SSLObject):
            _has_begun = False

            def do_handshake(self) -> None:
                if not self._has_begun and (session := sessions.get(self.server_hostname or "")):
                    self.session = session
                self._has_begun = True
                super().do_handshake()

        context.sslobject_class = Resuming
        return context

    def keep(self, tls: ssl.SSLObject) -> None:
        """Call it once something has been read: TLS 1.3 gives tickets after the handshake."""
        # Only a session that is kept is read, and once: Python before 3.13.1 frees none that was read, 6 KB each
        # (https://github.com/python/cpython/issues/116810).
        if not tls.session_reused and tls.server_hostname and (session := tls.session):
            self._by_host[tls.server_hostname] = session


class Trust(NamedTuple):
    """A context, and the sessions that its connections resume."""

    context: ssl.SSLContext
    sessions: Sessions

    @classmethod
    def of(cls, context: ssl.SSLContext) -> Self:
        sessions = Sessions()
        return cls(sessions.resumed_by(context), sessions)


@lru_cache(maxsize=1)
def default_trust() -> Trust:
    """The system's, for all who name none. Its certificates are read once, which takes 20 ms."""
    return Trust.of(ssl.create_default_context())


def said_close_notify(tls: ssl.SSLObject) -> bool:
    """Whether TLS itself was closed: without that, anybody on the way can have cut it (RFC 8446, section 6.1).

    asyncio reports both alike.
    """
    try:
        return tls.read(1) == b""
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False
