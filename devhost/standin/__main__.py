"""`python -m devhost.standin`: the stand-in as a program, until SIGTERM or SIGINT."""

import argparse
import asyncio
import signal
from collections.abc import Sequence

from devhost.standin.server import Standin


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m devhost.standin", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--key", action="append", help="a subscription key to accept; may be repeated")
    parser.add_argument("--key-header", default="api-key", help="the header that carries it")
    parser.add_argument("--chunk-delay", type=float, default=0.02, help="seconds between a stream's events")
    return parser.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    """Serve until told to stop; the line on stdout says that the port is open, and which."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    standin = await Standin.start(
        options.port,
        options.key or ("standin-upstream-key",),
        options.host,
        key_header=options.key_header,
        chunk_delay=options.chunk_delay,
    )
    print(f"standin listening on {standin.base_url}", flush=True)
    await stop.wait()
    await standin.stop()


if __name__ == "__main__":
    asyncio.run(serve(parse()))
