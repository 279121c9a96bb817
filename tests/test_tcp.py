"""What the kernel knows of a connection, asked of real sockets on this machine.

By it the pool tells a connection that upstream has closed from one that is good for the next call.
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator

import pytest
import trustme

from shim.transport.tcp import Tcp, probe_when_silent
from shim.transport.tls import said_close_notify


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        peers, _ = listening.accept()
    with ours, peers:
        yield ours, peers


def test_there_is_news_once_bytes_or_the_end_have_arrived(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peers = pair
    tcp = Tcp(ours)
    assert not tcp.has_news()
    peers.sendall(b"x")
    assert ours.recv(1, socket.MSG_PEEK) == b"x"  # it has arrived
    assert tcp.has_news()
    ours.recv(1)
    assert not tcp.has_news()
    peers.close()
    assert ours.recv(1, socket.MSG_PEEK) == b""
    assert tcp.has_news()


def test_bytes_count_as_acknowledged_once_the_peer_has_them(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peers = pair
    tcp = Tcp(ours)
    before = tcp.bytes_acknowledged()
    assert before is not None
    ours.sendall(b"x" * 1000)
    assert peers.recv(1000, socket.MSG_WAITALL)
    peers.sendall(b"an answer carries the acknowledgement")
    ours.recv(1)
    assert tcp.bytes_acknowledged() == before + 1000


class Elsewhere(socket.socket):
    """A socket of a kernel that does not count, or that tells less."""

    told = b""

    def getsockopt(self, *_: int) -> bytes:  # type: ignore[override]
        return self.told


@pytest.mark.parametrize(
    ("told", "acknowledged"), [(b"", None), (b"\1" * 104, None), (b"\0" * 127, None), (b"\0" * 128, 0)]
)
def test_where_the_kernel_does_not_count_nobody_knows(told: bytes, acknowledged: int | None) -> None:
    # Linux's struct tcp_info has tcpi_bytes_acked at 120, in 8 bytes.
    with Elsewhere() as connected:
        connected.told = told
        assert Tcp(connected).bytes_acknowledged() == acknowledged


def test_the_count_is_read_where_linux_has_it() -> None:
    with Elsewhere() as connected:
        connected.told = b"\xff" * 120 + (123_456_789_012).to_bytes(8, "little")
        assert Tcp(connected).bytes_acknowledged() == 123_456_789_012


def test_a_closed_socket_has_acknowledged_nobody_knows_what() -> None:
    connected = socket.socket()
    tcp = Tcp(connected)
    connected.close()
    assert tcp.bytes_acknowledged() is None


def test_a_silent_peer_is_asked_after_thirty_seconds_three_times_ten_seconds_apart() -> None:
    with socket.socket() as connected:
        probe_when_silent(connected)
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [connected.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [30, 10, 3]


def test_where_options_have_another_name_or_none_the_others_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS calls the first TCP_KEEPALIVE; some systems have no count of probes."""
    first, interval = socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    monkeypatch.delattr(socket, "TCP_KEEPCNT")
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", first, raising=False)
    with socket.socket() as connected:
        probe_when_silent(connected)
        assert [connected.getsockopt(socket.IPPROTO_TCP, option) for option in (first, interval)] == [30, 10]


def handshaken() -> tuple[ssl.SSLObject, ssl.SSLObject, ssl.MemoryBIO]:
    """A client and a server that have shaken hands, and what the client receives."""
    authority = trustme.CA()
    serving, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(serving)
    authority.configure_trust(trusting)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                """It is the other side's turn."""
    return client, server, to_client


def test_tls_says_itself_that_it_is_closed() -> None:
    client, server, _ = handshaken()
    with pytest.raises(ssl.SSLWantReadError):
        server.unwrap()  # sends its close_notify, and waits for the client's
    assert said_close_notify(client)


def test_tls_says_so_to_a_side_that_has_closed_as_well() -> None:
    client, server, _ = handshaken()
    for side in (client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.unwrap()
    assert said_close_notify(client)


def test_the_end_of_the_connection_alone_is_no_end_of_tls() -> None:
    client, _, received = handshaken()
    assert not said_close_notify(client)  # nothing has arrived
    received.write_eof()
    assert not said_close_notify(client)


def test_bytes_that_are_left_are_no_end_of_tls() -> None:
    client, server, _ = handshaken()
    server.write(b"more")
    assert not said_close_notify(client)
