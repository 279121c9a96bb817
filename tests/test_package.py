"""What is published is what runs, and all of it, and nothing else.

A missing file breaks the app only once it is deployed; a stray one may hold a secret.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from devhost.host import Host
from tests.conftest import KEY, StartHost

ROOT = Path(__file__).parent.parent
# The first run makes an environment, with what the app requires and nothing else.
pytestmark = pytest.mark.timeout(600)


def package(to: Path) -> Path:
    subprocess.run([sys.executable, ROOT / "scripts/package", "--to", to], check=True, capture_output=True)
    return to


@pytest.fixture(scope="module")
def unzipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    with zipfile.ZipFile(package(folder / "shim.zip")) as content:
        content.extractall(folder / "app")
    return folder / "app"


@pytest.fixture(scope="module")
def python(unzipped: Path) -> Path:
    """Of an environment with the requirements that are in the package."""
    assert (unzipped / "requirements.txt").read_bytes() == (ROOT / "requirements.txt").read_bytes()
    made = subprocess.run(
        [ROOT / "scripts/venv", "requirements.txt"], check=True, capture_output=True, text=True
    )
    return Path(made.stdout.strip()) / "bin" / "python"


@pytest.fixture(scope="module")
async def published(unzipped: Path, python: Path, start_host: StartHost) -> Host:
    return await start_host(unzipped, python=python)


def sources(unzipped: Path) -> set[str]:
    return {
        file.relative_to(unzipped).as_posix()
        for file in unzipped.rglob("*")
        if file.is_file() and file.parent.name != "__pycache__"
    }


def test_each_module_brings_bytecode_that_python_uses_as_long_as_the_source_is_the_same(
    unzipped: Path,
) -> None:
    modules = list(unzipped.rglob("*.py"))
    compiled = {Path(importlib.util.cache_from_source(str(file))) for file in modules}
    assert compiled == set(unzipped.rglob("*.pyc"))
    for file in modules:
        content = Path(importlib.util.cache_from_source(str(file))).read_bytes()
        assert content[:4] == importlib.util.MAGIC_NUMBER
        assert int.from_bytes(content[4:8], "little") == 0b11  # by hash, checked: PEP 552
        assert content[8:16] == importlib.util.source_hash(file.read_bytes())


def test_the_package_holds_what_runs_and_nothing_else(unzipped: Path) -> None:
    assert {entry.name for entry in unzipped.iterdir()} == {
        "function_app.py",
        "host.json",
        "requirements.txt",
        "shim",
        "__pycache__",
    }
    inside = sources(unzipped)
    assert not [
        name for name in inside if not name.endswith((".py", ".json", ".txt", ".html", ".js", ".css"))
    ]
    assert not [name for name in inside if "settings.json" in name]
    assert "shim/service.py" in inside


def test_what_operators_run_at_their_own_machine_is_not_published(unzipped: Path) -> None:
    """It would be more to load and to attack, in the process that holds the keys."""
    assert (ROOT / "shim/__main__.py").exists()
    assert (ROOT / "shim/cli/doctor").is_dir()
    assert (ROOT / "shim/cli/keys").is_dir()
    assert not (unzipped / "shim/__main__.py").exists()
    assert not (unzipped / "shim/cli").exists()
    # What the timer imports keys with runs in Azure.
    assert (unzipped / "shim/keys/admin/importing.py").exists()


def test_local_settings_and_caches_stay_here_even_where_they_exist(tmp_path: Path) -> None:
    """In a copy: other tests, at the same time, read what is in the work tree."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "shim", copy / "shim")
    for name in ("function_app.py", ".funcignore", "scripts/package"):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for name in ("local.settings.json", ".vscode/stray.json", "shim/stray.pyc"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("{}")
    listing = subprocess.run(
        [sys.executable, "-c", _LISTING], check=True, capture_output=True, text=True, cwd=copy
    ).stdout.split()
    assert "function_app.py" in listing
    assert "shim/service.py" in listing
    assert not [name for name in listing if "stray" in name or name.startswith((".", "local"))]


_LISTING = """
from runpy import run_path
module = run_path("scripts/package")
print(*(file.relative_to(module["ROOT"]).as_posix() for file in module["published"]()), sep="\\n")
"""


def core_tools_ignore(path: str, *, boundary: str) -> bool:
    """Whether Core Tools leave a path out: they turn each line into a regular expression for a path's beginning.

    https://github.com/Azure/azure-functions-core-tools/blob/main/src/Cli/func/Common/GitIgnoreParser.cs
    """
    lines = [line.strip().removeprefix("/") for line in (ROOT / ".funcignore").read_text().splitlines()]
    assert not [line for line in lines if line.startswith("!")]
    patterns = [
        re.escape(line).replace(r"\*\*", "(.+)").replace(r"\*", "([^/]+)")
        for line in lines
        if line and not line.startswith("#")
    ]
    return re.match(f"(({')|('.join(patterns)})){boundary}", path, re.ASCII) is not None


# Core Tools ask for the end of a word after the pattern, and used not to.
@pytest.mark.parametrize("boundary", [r"\b", ""], ids=["new", "old"])
def test_core_tools_read_funcignore_as_git_would(unzipped: Path, boundary: str) -> None:
    skipped = {".git", ".venv", ".venvs", "node_modules"}
    here = []
    for folder, folders, names in ROOT.walk():
        folders[:] = [name for name in folders if name not in skipped]
        here += [(folder / name).relative_to(ROOT).as_posix() for name in names]
    here += [
        ".git/HEAD",
        ".venv/bin/python",
        "node_modules/a/b.js",
        "dist/shim.zip",
        "package.json",
        "package-lock.json",
        "shim/stray.pyc",
        "shim/keys/__pycache__/a.pyc",
        "shim/.DS_Store",
    ]
    always = ("local.settings.json", ".git/", ".vscode/")
    left = {
        path
        for path in here
        if not path.startswith(always) and not core_tools_ignore(path, boundary=boundary)
    }
    assert left == sources(unzipped)


def test_the_same_files_make_the_same_package(tmp_path: Path) -> None:
    # In a folder that has to be made, as dist/ is in a fresh clone.
    one = package(tmp_path / "new" / "folder" / "one.zip")
    assert one.read_bytes() == package(tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(one) as content:
        entries = content.infolist()
        modules = [content.read(entry) for entry in entries if entry.filename.endswith(".pyc")]
    # At any time, with any umask, and in any folder.
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {(entry.external_attr >> 16, entry.compress_type) for entry in entries} == {
        (0o644, zipfile.ZIP_DEFLATED)
    }
    assert modules
    assert not [module for module in modules if str(ROOT).encode() in module]


def test_the_package_goes_where_git_does_not_look(tmp_path: Path) -> None:
    for name in ("function_app.py", ".funcignore", "scripts/package"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, tmp_path / "scripts/package"], check=True, capture_output=True)
    assert zipfile.is_zipfile(tmp_path / "dist/shim.zip")
    assert "dist/" in (ROOT / ".gitignore").read_text().splitlines()


def test_nothing_is_missing_from_the_package_or_its_requirements(unzipped: Path, python: Path) -> None:
    everything = """
import importlib, pathlib, sys
sys.path.insert(0, ".")
for file in sorted(pathlib.Path("shim").rglob("*.py")):
    importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
"""
    # Isolated: neither this repository nor its environment can lend what is missing.
    run = subprocess.run(
        [python, "-I", "-c", everything],
        cwd=unzipped,
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert run.returncode == 0, run.stderr


async def test_the_published_app_serves_an_openai_client(published: Host) -> None:
    async with AsyncOpenAI(base_url=f"{published.url}/openai/v1", api_key=KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(pieces) == "You said: Hello"
