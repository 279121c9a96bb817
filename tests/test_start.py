"""`make start`, as a newcomer meets it.

Whoever fails here never gets to see anything else.
"""

import asyncio
import functools
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest

from devhost.spawning import Loop
from devhost.standin import Standin
from tests.conftest import KEY, ROOT

type Running = tuple[asyncio.subprocess.Process, str]
type Started = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def started(loop: Loop) -> Started:
    return functools.partial(_started, loop)


@asynccontextmanager
async def _started(loop: Loop, *arguments: str, **environ: str) -> AsyncIterator[Running]:
    """The process, and what it has printed up to the point where it says how to stop it."""
    bare = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "devhost", "--loop", loop, *(arguments or ("--port", "0", "--func", "never")),
        cwd=ROOT, env={**bare, **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        printed = await asyncio.wait_for(process.stdout.readuntil(b"Stop with Ctrl+C."), 60)
        yield process, printed.decode()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.communicate(), 20)


async def test_it_prints_a_snippet_that_works_and_ends_with_ctrl_c(started: Started) -> None:
    async with started() as (process, printed):
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        snippet = re.search(r"<<'EOF'\n(.*)\nEOF\n", printed, re.DOTALL)
        assert snippet is not None, printed
        pasted = await asyncio.create_subprocess_exec(
            sys.executable, "-c", snippet[1], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, complaint = await asyncio.wait_for(pasted.communicate(), 60)
        assert complaint == b""
        assert output == b"You said: Hello!\nYou said: Hello!\n"
        playground = re.search(r"from a web page: (\S+)", printed)
        assert playground is not None, printed
        async with aiohttp.ClientSession() as session, session.get(playground[1]) as page:
            assert "playground" in await page.text()
        process.send_signal(signal.SIGINT)
        rest, _ = await asyncio.wait_for(process.communicate(), 20)
        assert b"Traceback" not in rest
        assert process.returncode == 0
        assert psutil.wait_procs(children, timeout=5)[1] == []


async def test_an_upstream_that_is_named_takes_the_stand_ins_place(
    started: Started, standin: Standin
) -> None:
    settings = {"APIM_BASE_URL": standin.base_url, "LOCAL_SUBSCRIPTION_KEYS": f"me={KEY}"}
    async with started(**settings) as (_, printed):
        assert "Stand-in" not in printed
        assert KEY in printed
        url = re.search(r'base_url="(.*?)"', printed)
        assert url is not None
        async with aiohttp.ClientSession() as session:
            headers = {"authorization": f"Bearer {KEY}", "x-request-id": "through-make-start"}
            async with session.get(f"{url[1]}/models", headers=headers) as response:
                assert response.status == 200
    assert standin.received["through-make-start"].header("api-key") == KEY


@pytest.mark.parametrize("platform", ["flex", "core-tools", "none"])
async def test_the_platforms_own_list_of_origins_is_enough(started: Started, platform: str) -> None:
    origin = "https://app.example"
    arguments = ("--port", "0", "--func", "never", "--platform", platform)
    async with started(*arguments, CORS_ALLOWED_ORIGINS=json.dumps([origin])) as (_, printed):
        assert "Not ready" not in printed
        url = re.search(r'base_url="(.*?)"', printed)
        assert url is not None
        preflight = {"origin": origin, "access-control-request-method": "GET"}
        async with aiohttp.ClientSession() as session:
            async with session.options(f"{url[1]}/models", headers=preflight) as response:
                assert response.headers["access-control-allow-origin"] == origin
            async with session.get(f"{url[1]}/models", headers={"origin": origin}) as response:
                assert response.headers["access-control-allow-origin"] == origin


async def test_core_tools_run_the_app_where_they_are_installed(started: Started, tmp_path: Path) -> None:
    """Core Tools cannot be had everywhere; this `func` is devhost, and so shows what Core Tools are given."""
    func = tmp_path / "func"
    func.write_text(
        f"#!/bin/sh\necho func $1 runtime=$FUNCTIONS_WORKER_RUNTIME venv=$VIRTUAL_ENV python=$(command -v python)\n"
        f'exec {sys.executable} -m devhost --func never --port "$3"\n'
    )
    func.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    async with started("--port", str(port), PATH=path) as (process, printed):
        assert f"func start runtime=python venv={sys.prefix} python={sys.prefix}/bin/python" in printed
        assert f'base_url="http://localhost:{port}/openai/v1"' in printed
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "devhost", "--func", "never",
            cwd=ROOT, env={**os.environ, "PORT": str(port)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, complaint = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert f"Port {port} is taken" in complaint.decode()
    assert "Unclosed" not in complaint.decode()


async def test_missing_settings_are_listed(started: Started) -> None:
    async with started(APIM_BASE_URL="https://contoso.azure-api.net/openai") as (_, printed):
        assert "Not ready: settings: KEY_VAULT_URL is missing" in printed


# A Python that says to be of another version.
OF_VERSION = """#!/bin/sh
exec {python} -c 'import sys; code = sys.argv[1]; sys.version_info = {version}; exec(code)' "$2"
"""


@pytest.mark.parametrize("without", ["any Python", "a Python that starts", (3, 12, 9), (3, 14, 0)], ids=str)
async def test_without_python_3_13_the_message_says_what_to_do(
    without: str | tuple[int, ...], tmp_path: Path
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "which", "dirname"):
        (tools / name).symlink_to(Path("/usr/bin") / name if name != "sh" else "/bin/sh")
    if without != "any Python":
        other = tools / "python3"
        other.write_text("#!/bin/sh\nexit 1\n")
        if isinstance(without, tuple):
            other.write_text(OF_VERSION.format(python=sys.executable, version=without))
        other.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        ROOT / "scripts" / "find-python", env={"PATH": str(tools), "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, complaint = await process.communicate()
    assert (process.returncode, output) == (1, b"")
    assert b"Python 3.13 is needed" in complaint
    assert b"uv python install 3.13" in complaint


async def test_a_python_3_13_is_found_among_pyenvs_versions(tmp_path: Path) -> None:
    place = tmp_path / "versions" / "3.13.9" / "bin"
    place.mkdir(parents=True)
    (place / "python").symlink_to(sys.executable)
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", ROOT / "scripts" / "find-python", env={"PATH": "/nowhere", "PYENV_ROOT": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert output.decode().strip() == str(place / "python")


@pytest.mark.parametrize("place", ["further along PATH", "at uv"])
async def test_a_python_3_13_is_looked_for_wherever_it_may_be(tmp_path: Path, place: str) -> None:
    tools, further = tmp_path / "bin", tmp_path / "further"
    tools.mkdir()
    further.mkdir()
    for name in ("sh", "which", "dirname"):
        (tools / name).symlink_to(Path("/usr/bin") / name if name != "sh" else "/bin/sh")
    # pyenv's, for a version that is not chosen.
    (tools / "python3.13").write_text("#!/bin/sh\nexit 1\n")
    name = "python3.13" if place == "further along PATH" else "python-of-uv"
    (further / name).symlink_to(sys.executable)
    (tools / "uv").write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '"python install --quiet 3.13") echo installed; : >"$HOME/installed" ;;\n'
        f'"python find 3.13") [ -e "$HOME/installed" ] && echo {further / name} ;;\n'
        "esac\n"
    )
    for made in ("python3.13", "uv"):
        (tools / made).chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        ROOT / "scripts" / "find-python",
        env={"PATH": f"{tools}:{further}", "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert (process.returncode, output.decode()) == (0, f"{further / name}\n")
