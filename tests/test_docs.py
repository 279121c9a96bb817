"""The documents say what the code does: settings, error codes, commands, links, code and figures, both ways.

A reader follows them to the letter: what they leave out is as good as not there, and what they get wrong costs an
afternoon.
"""

import ast
import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main

from bench import documents
from devhost.host import Host
from shim.__main__ import app
from shim.errors import ShimError
from shim.settings import Settings
from shim.transport.choice import choose_transport
from tests.conftest import KEY, ROOT
from tests.test_settings import LEAST, Asked

README, JAPANESE = ROOT / "README.md", ROOT / "README.ja.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "bench" / "NOTES.md"])
SETTINGS, ERRORS = ROOT / "docs" / "settings.md", ROOT / "docs" / "troubleshooting.md"

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# With an underscore: words in capitals may mean anything.
_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b")
_INVOCATION = re.compile(r"(?:python -m shim|scripts/shim)\b([^`#|\n]*)")
_OPTION = re.compile(r"(?<=\s)--[a-z][a-z-]*")
_OURS = re.compile(r"(?:shim|devhost|infra|docs|bench|tests|scripts|\.github)/[\w./-]*\w")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT))
)


def blocks(document: Path, language: str) -> list[str]:
    return [content for _, kind, content in _FENCED.findall(document.read_text()) if kind == language]


def prose(document: Path) -> str:
    return _FENCED.sub("", document.read_text())


def code(document: Path) -> Iterator[str]:
    """What stands in a document as code, in a block or within a line."""
    yield from (content for _, _, content in _FENCED.findall(document.read_text()))
    yield from _INLINE.findall(prose(document))


def first_cells(document: Path) -> set[str]:
    """The names that the rows of a document's tables begin with."""
    rows = re.findall(r"^\| (`.*?) \|", document.read_text(), re.MULTILINE)
    return set(chain.from_iterable(_INLINE.findall(row) for row in rows))


def settings_read() -> set[str]:
    """Every variable that the shim asks the environment for; a proxy's are read in small letters as well."""
    proxy = {"ALL_PROXY": "http://proxy.example:3128"}  # NO_PROXY is read where there is one
    asked = Asked({**LEAST, **proxy, "CORS_ALLOWED_ORIGINS": '["https://app.example"]'})
    settings = Settings.from_environment(asked)
    for base_url in (settings.apim_base_url, "http://localhost:7073"):
        choose_transport(replace(settings, apim_base_url=base_url), asked)
    return {name.upper() for name in asked.names}


# Settings.


def test_every_setting_is_documented_and_no_other() -> None:
    assert first_cells(SETTINGS) == settings_read()


DEFAULTS = dict(re.findall(r"^\| `([A-Z_]+)` \|.*\| `([^`<]+)`[^|]*\|$", SETTINGS.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_has_the_default_that_is_documented(name: str) -> None:
    assert Settings.from_environment({**LEAST, name: DEFAULTS[name]}) == Settings.from_environment(LEAST)


def test_most_settings_have_a_documented_default() -> None:
    assert len(DEFAULTS) > 20


def test_the_sample_has_the_defaults_but_for_what_helps_at_ones_desk() -> None:
    values = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
    assert {name: values[name] for name in DEFAULTS if values[name] != DEFAULTS[name]} == {
        "READYZ_DETAILS": "true",
        "LOG_CALLS": "all",
    }


def known_variables() -> set[str]:
    """The settings, the choices that azd hands on, what scripts and `make` take, the platform's own, and constants."""
    texts = [
        (ROOT / "Makefile").read_text(),
        (ROOT / "tests" / "data" / "platform-names.toml").read_text(),
        (ROOT / "infra" / "main.parameters.json").read_text(),
        *re.findall(r"^output (\w+)", (ROOT / "infra" / "main.bicep").read_text(), re.MULTILINE),
        *(file.read_text() for file in (ROOT / "scripts").rglob("*") if file.is_file()),
    ]
    constants = chain.from_iterable(
        re.findall(r"^([A-Z][A-Z0-9_]+)\b.*=", file.read_text(), re.MULTILINE)
        for folder in ("shim", "devhost")
        for file in (ROOT / folder).rglob("*.py")
    )
    return settings_read().union(constants, *map(_VARIABLE.findall, texts))


@each_document
def test_no_document_names_a_variable_that_nothing_reads(document: Path) -> None:
    named = set(chain.from_iterable(map(_VARIABLE.findall, code(document))))
    assert named - known_variables() == set()


# Errors.


def codes_of_the_shim() -> set[str]:
    """The codes of the refusals that are made anywhere in shim/; a base class may have one that never is."""
    made = {
        node.id
        for file in (ROOT / "shim").rglob("*.py")
        for parent in ast.walk(ast.parse(file.read_text()))
        if isinstance(node := getattr(parent, "func", getattr(parent, "exc", None)), ast.Name)
    }
    return {error.code for error in subclasses(ShimError) if error.__name__ in made}


def subclasses(error: type[ShimError]) -> Iterator[type[ShimError]]:
    for each in error.__subclasses__():
        yield each
        yield from subclasses(each)


def codes_of_apim() -> set[str]:
    source = (ROOT / "shim" / "answer" / "apim_errors.py").read_text()
    return set(re.findall(r'"(apim_[a-z_]+)"', source))


def test_every_error_code_is_documented_and_no_other() -> None:
    documented = {name for name in first_cells(ERRORS) if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)}
    assert documented == codes_of_the_shim() | codes_of_apim()


def test_an_error_is_documented_with_its_status() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", ERRORS.read_text(), re.MULTILINE))
    for error in subclasses(ShimError):
        if error.__dict__.get("code") in rows:
            assert rows[error.code] == str(error.status), error.code


# Commands.


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below one of typer's, which brings a Click of its own, by its words."""
    if isinstance(command, typer.core.TyperGroup):
        for name, below in command.commands.items():
            yield from commands(below, (*path, name))
    else:
        yield path, command


def test_every_command_is_documented_and_no_other() -> None:
    known = dict(commands(typer.main.get_command(app)))
    groups = {path[:-1] for path in known}
    shown = set()
    for text in chain.from_iterable(map(code, DOCUMENTS)):
        for typed in _INVOCATION.findall(text):
            words = tuple(re.match(r"( [a-z-]+)*", typed)[0].split())[:2]  # type: ignore[index]  # it may be empty
            path = words if words in known else words[:1]
            assert path in known or words in groups, typed
            shown.update({path} & set(known))
            options = known[path].params if path in known else []
            assert set(_OPTION.findall(typed)) <= {
                *chain.from_iterable(each.opts for each in options),
                "--help",
            }
    assert shown == set(known)


# Options of commands that are not ours.
OTHERS_OPTIONS = {"--cors", "--no-prompt", "--purge", "--python"}


@each_document
def test_options_that_a_document_names_by_themselves_exist(document: Path) -> None:
    ours = chain.from_iterable(
        each.opts for _, command in commands(typer.main.get_command(app)) for each in command.params
    )
    sources = [
        *(ROOT / "devhost").glob("*.py"),
        *(ROOT / "bench").glob("*.py"),
        ROOT / "tests" / "conftest.py",
    ]
    parsed = chain.from_iterable(re.findall(r'"(--[a-z-]+)"', file.read_text()) for file in sources)
    named = re.findall(r"^--[a-z][a-z-]*", "\n".join(_INLINE.findall(prose(document))), re.MULTILINE)
    assert set(named) <= {*ours, *parsed, *OTHERS_OPTIONS}


@each_document
def test_every_target_that_a_document_makes_is_in_the_makefile(document: Path) -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = chain.from_iterable(
        re.findall(r"(?:^|[ `])make ([a-z][\w./-]*)", text, re.M) for text in code(document)
    )
    assert set(made) <= targets


@each_document
def test_files_that_a_document_names_are_there(document: Path) -> None:
    for text in _INLINE.findall(prose(document)):
        for path in _OURS.findall(text) if _OURS.match(text) else ():
            assert path.startswith("bench/.cache") or (ROOT / path).exists(), path


# Links.


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)}


@each_document
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(prose(document)):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [README]
    while waiting:
        document = waiting.pop()
        if document not in reached and document.suffix == ".md":
            reached.add(document)
            links = (link.partition("#")[0] for link in _LINK.findall(prose(document)) if "://" not in link)
            waiting += [(document.parent / path).resolve() for path in links if path]
    assert set(DOCUMENTS) - reached == set()


# Code.


@each_document
def test_code_in_documents_is_well_formed(document: Path) -> None:
    for block in blocks(document, "python"):
        compile(block, str(document), "exec")
    for block in blocks(document, "json"):
        json.loads(block)


@each_document
async def test_commands_in_documents_are_well_formed(document: Path) -> None:
    script = "\n".join(blocks(document, "sh"))
    shell = await asyncio.create_subprocess_exec(
        "bash", "-n", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await shell.communicate(script.encode())
    assert (shell.returncode, complaint) == (0, b"")


async def run(*command: str, **environ: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, complaint.decode()
    return output.decode()


async def test_the_readmes_clients_work_as_they_stand(host: Host) -> None:
    """Against the app in the real worker: only the address and the key are put in."""
    programs = [block for block in blocks(README, "python") if "import" in block]
    assert len(programs) == 2
    here = [
        re.sub(r'api_key="[^"]*"', f'api_key="{KEY}"', program).replace("http://localhost:7071", host.url)
        for program in programs
    ]
    assert await run(sys.executable, "-c", here[0]) == "You said: Hello!\nYou said: Hello!"
    assert "content='You said: Hello!'" in await run(sys.executable, "-c", here[1])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_readmes_curl_streams(host: Host) -> None:
    (call,) = (block for block in blocks(README, "sh") if block.startswith("curl"))
    output = await run("bash", "-c", call.replace("http://localhost:7071", host.url), KEY=KEY)
    lines = output.split()
    assert lines.count("data:") > 1
    assert lines[-2:] == ["data:", "[DONE]"]


# The READMEs.


@pytest.mark.parametrize("readme", [README, JAPANESE], ids=["English", "Japanese"])
def test_a_readme_stays_short(readme: Path) -> None:
    assert readme.read_text().count("\n") <= 150


def test_the_japanese_readme_says_the_same() -> None:
    assert _FENCED.findall(JAPANESE.read_text()) == _FENCED.findall(README.read_text())
    links = [sorted(_LINK.findall(prose(readme))) for readme in (README, JAPANESE)]
    same = [
        [link for link in found if "learn.microsoft.com" not in link and "README" not in link]
        for found in links
    ]
    assert same[0] == same[1]
    for level in ("# ", "## "):
        counts = [len(re.findall(f"^{level}", prose(readme), re.MULTILINE)) for readme in (README, JAPANESE)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("readme", [README, JAPANESE])
def test_a_readme_states_the_costs_that_the_reckoning_comes_to(readme: Path) -> None:
    rows = re.findall(
        r"^\| [^|]*\|.*\| (?:about|below) (\d+) USD", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE
    )
    assert re.findall(r"(\d+) USD", readme.read_text()) == rows != []


def test_the_readme_says_first_that_azure_itself_has_not_been_tried() -> None:
    top = README.read_text().split("\n## ")[0]
    assert "Not yet tried on Azure itself" in top


# Figures.


def test_figures_in_documents_are_those_of_the_latest_run() -> None:
    """`make figures` writes them."""
    content = documents.latest()
    for name in documents.DOCUMENTS:
        document = (ROOT / name).read_text()
        assert documents.filled(document, content) == document, f"{name} differs: run `make figures`"


def test_every_document_with_figures_is_written_by_the_script() -> None:
    marked = {str(file.relative_to(ROOT)) for file in DOCUMENTS if "<!--figure:" in file.read_text()}
    assert marked == set(documents.DOCUMENTS)


def test_another_run_shows_in_the_documents() -> None:
    content = documents.latest()
    content["figures"]["json_32"]["shim"]["median"] = 123456
    document = documents.filled(README.read_text(), content)
    assert re.search(r"\*\*(<!--.*?-->)123,000(<!--/-->) small calls a second\*\*", document)


@pytest.mark.parametrize(
    ("value", "text"), [(3281, "3,280"), (258667.5, "259,000"), (73.8, "74"), (9.03, "9")]
)
def test_figures_have_as_many_digits_as_they_can_stand_for(value: float, text: str) -> None:
    assert documents.shown(value) == text


def test_a_run_that_did_not_measure_what_is_quoted_is_refused() -> None:
    content = documents.latest()
    del content["cold_start"]["shim+vault"]
    with pytest.raises(documents.Missing, match="no cold_start/shim"):
        documents.filled(README.read_text(), content)


def test_results_are_the_latest_run_and_its_plots() -> None:
    kept = {file.name for file in (ROOT / "bench" / "results").iterdir()}
    assert {name for name in kept if not name.endswith(".svg")} == {"latest.json"}
