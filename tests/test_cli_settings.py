"""Where commands get their settings: local.settings.json as Core Tools read it, and the environment over it.

A command that read another vault's name than the app does would change the wrong keys.
"""

import json
from pathlib import Path

import pytest

from shim.cli.local_settings import LOCAL_SETTINGS, environment, local_settings
from shim.settings import SettingsError
from tests.conftest import ROOT


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "local.settings.json"
    file.write_text(json.dumps({"Values": {"KEY_VAULT_URL": "https://file.example", "KEY_LOOKUP": "scan"}}))
    seen = environment(file, {"KEY_VAULT_URL": "https://environment.example", "PATH": "/bin"})
    assert seen == {
        "KEY_VAULT_URL": "https://environment.example", "KEY_LOOKUP": "scan", "PATH": "/bin",
    }  # fmt: skip


def test_without_a_file_there_is_the_environment(tmp_path: Path) -> None:
    assert environment(tmp_path / "none.json", {"A": "1"}) == {"A": "1"}


@pytest.mark.parametrize("content", ["{}", '{"Values": null}', '{"IsEncrypted": false, "Values": {}}'])
def test_a_file_without_values_sets_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "local.settings.json"
    file.write_text(content)
    assert environment(file, {"A": "1"}) == {"A": "1"}


def test_what_is_no_file_is_explained(tmp_path: Path) -> None:
    folder = tmp_path / "local.settings.json"
    folder.mkdir()
    with pytest.raises(SettingsError) as raised:
        environment(folder, {})
    assert str(raised.value) == "local.settings.json is not a JSON object with an object `Values`"
    # Nor is it quoted by what had been raised before.
    assert raised.value.__suppress_context__


def test_the_file_is_the_one_beside_host_json() -> None:
    assert LOCAL_SETTINGS.parent == ROOT
    assert (LOCAL_SETTINGS.parent / "host.json").exists()


def test_a_file_as_windows_editors_save_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "local.settings.json"
    file.write_text(json.dumps({"IsEncrypted": False, "Values": {"CORS_MAX_AGE": 60}}), encoding="utf-8-sig")
    assert local_settings(file) == {"CORS_MAX_AGE": "60"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"Values": {"KEY": "s3cret"', "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"Values": "s3cret"}', "is not a JSON object"),
        ('{"IsEncrypted": true, "Values": {"KEY": "s3cret"}}', "func settings decrypt"),
    ],
)
def test_a_file_that_cannot_be_read_is_explained_and_not_quoted(
    tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "local.settings.json"
    file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        environment(file, {})
    assert words in str(raised.value)
    assert "s3cret" not in str(raised.value)
