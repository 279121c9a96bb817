"""npm packages for tests: those that a folder's package.json pins, installed there once."""

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

_INSTALL_SECONDS = 100


@functools.cache
def install(folder: Path) -> str | None:
    """Installs what `folder`'s package.json names, unless it is there. The reason if that cannot be done."""
    if _is_installed(folder):
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed (Debian: apt-get install nodejs npm)"
    # No lock file, for that would name a registry: the versions are pinned in package.json.
    command = [
        npm,
        "install",
        "--no-package-lock",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"npm install did not end within {_INSTALL_SECONDS} s"
    if done.returncode:
        return f"npm install failed in {folder.name}: {done.stderr.strip()}"
    return None


def require(folder: Path) -> None:
    """Installs a folder's packages, or skips the test; in CI it fails instead."""
    if reason := install(folder):
        cannot_run(reason)


def cannot_run(reason: str) -> NoReturn:
    """Skips the test that lacks something here. CI has everything: there it is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _is_installed(folder: Path) -> bool:
    wanted: dict[str, str] = json.loads((folder / "package.json").read_text())["dependencies"]
    return all(_version_of(folder / "node_modules" / name) == version for name, version in wanted.items())


def _version_of(package: Path) -> str | None:
    try:
        version: str = json.loads((package / "package.json").read_text())["version"]
    except FileNotFoundError:
        return None
    return version
