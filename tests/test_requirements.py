"""The lock files hold what their .in files ask for, no more and no less, for every platform that people work on.

Nothing is resolved here, so that no registry is needed: every locked package is installed, and its metadata says what
it depends on in its turn.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

pytestmark = pytest.mark.static

LOCKS = ["requirements", "requirements-dev"]
REFRESH = "run `make lock`, and commit what it writes"

# What differs between those who install: https://packaging.python.org/en/latest/specifications/dependency-specifiers/
PLATFORMS = {
    "linux": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64"},
    "linux-arm": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "aarch64"},
    "macos": {"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64"},
    "windows": {"sys_platform": "win32", "os_name": "nt", "platform_machine": "AMD64"},
}
SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
for _platform in PLATFORMS.values():
    _platform["platform_system"] = SYSTEMS[_platform["sys_platform"]]


class Pin(NamedTuple):
    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version


def lines_of(file: Path) -> list[str]:
    """Its lines without comments, continued ones joined."""
    text = file.read_text().replace("\\\n", " ")
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()) if line]


def locked(name: str) -> dict[str, Pin]:
    pins: dict[str, Pin] = {}
    for line in lines_of(ROOT / f"{name}.txt"):
        text, *hashes = re.split(r"\s+--hash=", line)
        requirement = Requirement(text)
        pins[canonicalize_name(requirement.name)] = Pin(requirement, tuple(hashes))
    return pins


def asked(name: str) -> Iterator[Requirement]:
    """What an .in file asks for, and those that it includes."""
    for line in lines_of(ROOT / f"{name}.in"):
        if line.startswith("-r "):
            yield from asked(line.removeprefix("-r ").removesuffix(".in"))
        elif not line.startswith("-c "):
            yield Requirement(line)


def applies(requirement: Requirement, platform: Mapping[str, str], extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**platform, "extra": extra})


def needed(name: str, platform: Mapping[str, str]) -> dict[str, list[tuple[Requirement, str]]]:
    """Everything that is needed on a platform, directly or not; by package, each with what it is needed by."""
    found: dict[str, list[tuple[Requirement, str]]] = {}
    waiting = [(requirement, f"{name}.in") for requirement in asked(name) if applies(requirement, platform)]
    while waiting:
        requirement, by = waiting.pop()
        demands = found.setdefault(canonicalize_name(requirement.name), [])
        if (requirement, by) not in demands:
            demands.append((requirement, by))
            waiting += [
                (dependency, requirement.name)
                for dependency in map(Requirement, dependencies(requirement.name))
                if any(applies(dependency, platform, extra) for extra in (requirement.extras or {""}))
            ]
    return found


def dependencies(package: str) -> list[str]:
    """Of a package that is only for other platforms than this one, none are known: it has to do without."""
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_everything_needed_is_locked_in_a_version_that_will_do(name: str, platform: str) -> None:
    pins = locked(name)
    for package, demands in needed(name, PLATFORMS[platform]).items():
        for requirement, by in demands:
            pin = pins.get(package)
            assert pin, f"{by} needs {requirement}, which {name}.txt lacks: {REFRESH}"
            assert applies(pin.requirement, PLATFORMS[platform]), f"{name}.txt: {package}'s marker: {REFRESH}"
            assert requirement.specifier.contains(pin.version, prereleases=True), (
                f"{by} needs {requirement}, and {name}.txt has {pin.version}: {REFRESH}"
            )


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_nothing_is_locked_that_nobody_needs(name: str, platform: str) -> None:
    pins = {package for package, pin in locked(name).items() if applies(pin.requirement, PLATFORMS[platform])}
    assert pins - needed(name, PLATFORMS[platform]).keys() == set(), REFRESH


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_installed_is_what_is_locked(name: str) -> None:
    pins = {package: pin for package, pin in locked(name).items() if applies(pin.requirement, {})}
    installed = {package: version(package) for package in pins}
    assert installed == {package: pin.version for package, pin in pins.items()}, "run scripts/install"


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_locked_by_hash(name: str) -> None:
    for pin in locked(name).values():
        assert pin.hashes, f"{pin.requirement} has no hash: {REFRESH}"
        assert [text for text in pin.hashes if not re.fullmatch(r"sha256:[0-9a-f]{64}", text)] == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index(name: str) -> None:
    """Which index packages come from is a matter of whoever installs them; the hashes say that they are the same."""
    text = (ROOT / f"{name}.txt").read_text()
    assert "://" not in text
    assert set(re.findall(r"^\s*(--?[a-z-]+)", text, re.M)) == {"--hash"}


def test_the_tests_run_on_what_is_deployed() -> None:
    deployed, tested = locked("requirements"), locked("requirements-dev")
    assert {package: tested.get(package) for package in deployed} == deployed


def test_what_the_shim_knows_the_insides_of_is_pinned_by_hand() -> None:
    """docs/runtime.md lists what those insides are. A beta is pinned too, since any next one may differ."""
    by_hand = {
        requirement.name
        for requirement in asked("requirements")
        if [specifier.operator for specifier in requirement.specifier] == ["=="]
    }
    assert by_hand == {
        *("azure-functions-runtime", "azurefunctions-extensions-base"),
        "azure-monitor-opentelemetry-exporter",
    }


def test_no_lock_made_anew_brings_another_major_version_to_azure() -> None:
    for requirement in asked("requirements"):
        (specifier,) = requirement.specifier
        assert specifier.operator in ("~=", "=="), requirement
        assert not requirement.specifier.contains(f"{int(specifier.version.split('.')[0]) + 1}.0"), (
            requirement
        )


@pytest.mark.parametrize(
    ("name", "package", "newer"),
    [("requirements", "protobuf", "5.30.0"), ("requirements-dev", "uvloop", "0.22.0")],
)
def test_what_the_platforms_worker_brings_is_taken_in_its_series(name: str, package: str, newer: str) -> None:
    (requirement,) = (each for each in asked(name) if each.name == package)
    assert not requirement.specifier.contains(newer)


def test_a_lock_is_for_every_platform_with_hashes_and_without_an_index(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/lock", tmp_path / "scripts/lock")
    uv = tmp_path / ".venv/bin/uv"
    uv.write_text('#!/bin/sh\necho "$UV_CUSTOM_COMPILE_COMMAND: $*"\n')
    uv.chmod(0o755)
    ran = subprocess.run(
        [tmp_path / "scripts/lock", "--upgrade-package", "httpx"], capture_output=True, text=True, check=True
    )
    always = "pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-emit-index-url"
    assert ran.stdout.splitlines() == [
        f"make lock: {always} --no-emit-find-links --upgrade-package httpx {name}.in --output-file {name}.txt"
        for name in ("requirements", "requirements-dev")
    ]
