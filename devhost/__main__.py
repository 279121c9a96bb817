"""`make start`: the app at http://localhost:7071, with a stand-in for the APIM API where none is named."""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from devhost.host import Host
from devhost.platform import CORE_TOOLS, PLATFORMS, Platform
from devhost.playground import Playground
from devhost.process import WorkerFailed
from devhost.spawning import Loop
from devhost.standin import Standin
from shim.cli.local_settings import environment
from shim.settings import SettingsError

FOLDER = Path(__file__).parent.parent
_NOT_IMITATED = "authorization levels, TLS, admin endpoints, scaling, triggers other than HTTP"

# Unless the platform's own list is set, which then counts.
_DEMO_CORS = {"CORS_ORIGINS": "http://localhost:*,http://127.0.0.1:*"}


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devhost", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=int(os.environ.get("PORT") or 7071), help="default: $PORT or 7071"
    )
    parser.add_argument(
        "--func", choices=["auto", "never"], default="auto", help="use Core Tools where installed"
    )
    parser.add_argument(
        "--platform",
        choices=PLATFORMS,
        default=CORE_TOOLS.name,
        help="what to do as: Core Tools (the default), Flex Consumption, or nothing but routes and forwarding",
    )
    parser.add_argument(
        "--loop",
        choices=["uvloop", "asyncio"],
        default="asyncio" if sys.platform == "win32" else "uvloop",
        help="the worker's event loop; default: uvloop, as on the platform, but on Windows",
    )
    options = parser.parse_args()
    try:
        # Nobody but this machine's user can ask /readyz, and they want the reasons.
        environ = {"READYZ_DETAILS": "true", **environment()}
    except SettingsError as error:
        print("; ".join(error.problems), file=sys.stderr)
        return 1
    async with _upstream(environ) as settings:
        environ = {**settings, **environ}
        platform = PLATFORMS[options.platform]
        if options.func == "auto" and platform is CORE_TOOLS and (func := shutil.which("func")):
            return await _run_func(func, options.port, environ)
        return await _run_devhost(options.port, environ, platform, options.loop)


@contextlib.asynccontextmanager
async def _upstream(environ: dict[str, str]) -> AsyncIterator[dict[str, str]]:
    """The settings for the stand-in, running; none where an upstream is named."""
    if environ.get("APIM_BASE_URL"):
        yield {}
        return
    demo = {"LOCAL_SUBSCRIPTION_KEYS": f"demo={secrets.token_hex(16)}", **environ}
    standin = await Standin.start(keys=_local_keys(demo))
    print(f"Stand-in for the APIM API: {standin.base_url} (set APIM_BASE_URL to use a real one)")
    try:
        cors = {} if environ.get("CORS_ALLOWED_ORIGINS") else _DEMO_CORS
        yield {**cors, **demo, "APIM_BASE_URL": standin.base_url}
    finally:
        await standin.stop()


async def _run_devhost(port: int, environ: dict[str, str], platform: Platform, loop: Loop) -> int:
    interrupted = _listen_for_interrupt()
    try:
        host = await Host.start(FOLDER, environ, platform=platform, loop=loop, port=port)
    except (WorkerFailed, ValueError) as failure:
        print(f"The Functions app did not start.\n{failure}", file=sys.stderr)
        return 1
    except OSError:
        print(f"Port {port} is taken. Choose another: PORT=7072 make start", file=sys.stderr)
        return 1
    print(
        f"devhost runs the app on azure-functions-runtime, as {platform.name} would (--platform to choose)."
        f" Not imitated: {_NOT_IMITATED}."
    )
    url = host.url.replace("127.0.0.1", "localhost")
    try:
        async with _playground(url) as playground:
            await _greet(url, environ, playground)
            await interrupted.wait()
    finally:
        await host.stop()
    if dropped := len(host.logs.dropped):
        print(f"{dropped} log records were dropped, as on the platform; --platform none shows them.")
    return 0


async def _run_func(func: str, port: int, environ: dict[str, str]) -> int:
    # Core Tools take the Python of the active virtual environment.
    virtual = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{environ['PATH']}"}
    process = await asyncio.create_subprocess_exec(
        func,
        "start",
        "--port",
        str(port),
        cwd=FOLDER,
        env={"FUNCTIONS_WORKER_RUNTIME": "python", **environ, **virtual},
    )
    interrupted = _listen_for_interrupt()
    ended = asyncio.create_task(process.wait())
    waiting = asyncio.create_task(interrupted.wait())
    url = f"http://localhost:{port}"
    async with _playground(url) as playground:
        greeting = asyncio.create_task(_greet(url, environ, playground))
        await asyncio.wait([ended, waiting], return_when=asyncio.FIRST_COMPLETED)
        greeting.cancel()
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    return await ended


@contextlib.asynccontextmanager
async def _playground(shim_url: str) -> AsyncIterator[str]:
    """The playground's URL: one port above the shim's, where that is free."""
    playground = await Playground.start(shim_url, ((urlsplit(shim_url).port or 0) + 1) % 65_536)
    try:
        yield playground.url
    finally:
        await playground.stop()


async def _greet(url: str, environ: dict[str, str], playground: str) -> None:
    """Waits until the app answers, then prints what to paste."""
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with session.get(f"{url}/readyz") as response:
                    for check in (await response.json())["checks"]:
                        if not check["ok"]:
                            print(f"Not ready: {check['name']}: {check['reason']}", file=sys.stderr)
                    break
            await asyncio.sleep(0.2)
    key = next(iter(_local_keys(environ)), "<an APIM subscription key>")
    print(
        f"""
The shim listens on {url}. Paste this into another shell ({sys.executable} has the `openai` package):

{Path(sys.executable)} - <<'EOF'
from openai import OpenAI

client = OpenAI(base_url="{url}/openai/v1", api_key="{key}")
messages = [{{"role": "user", "content": "Hello!"}}]
print(client.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message.content)
for chunk in client.chat.completions.create(model="gpt-4o", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)
print()
EOF

Or try it from a web page: {playground}

Stop with Ctrl+C.""",
        flush=True,
    )


def _local_keys(environ: Mapping[str, str]) -> tuple[str, ...]:
    pairs = environ.get("LOCAL_SUBSCRIPTION_KEYS", "").split(",")
    return tuple(key.strip() for _, divider, key in (pair.partition("=") for pair in pairs) if divider)


def _listen_for_interrupt() -> asyncio.Event:
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    return interrupted


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    sys.exit(asyncio.run(main()))
