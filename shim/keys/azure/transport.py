"""What the Azure SDK speaks HTTP with: azure-core's aiohttp transport, on sockets that only the loop closes."""

import aiohttp
from azure.core.pipeline.transport._aiohttp import AioHttpTransport

from shim.transport.sockets import make_socket


class SdkTransport(AioHttpTransport):
    """azure-core's own, but for its connector, which it gives no way to choose before the event loop runs."""

    async def open(self) -> None:
        if self.session is None and not self._has_been_opened:
            self.session = aiohttp.ClientSession(
                trust_env=True,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                connector=aiohttp.TCPConnector(socket_factory=make_socket),
            )
        await super().open()  # type: ignore[no-untyped-call]
