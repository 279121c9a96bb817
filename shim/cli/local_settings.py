"""local.settings.json, as Core Tools read it: its `Values` stand in for environment variables, which win over them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from shim.settings import SettingsError

LOCAL_SETTINGS = Path(__file__).parent.parent.parent / "local.settings.json"


def local_settings(file: Path = LOCAL_SETTINGS) -> dict[str, str]:
    """The file's `Values`; none if there is no such file. Raises SettingsError if it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        values = content.get("Values") or {}
        encrypted = content.get("IsEncrypted", False)
        settings = {str(name): str(value) for name, value in values.items()}
    except FileNotFoundError:
        return {}
    except (AttributeError, OSError, ValueError):
        # The parser's message would quote the file, which may hold keys.
        raise SettingsError([f"{file.name} is not a JSON object with an object `Values`"]) from None
    if encrypted:
        raise SettingsError([f"{file.name} is encrypted: run 'func settings decrypt' first"])
    return settings


def environment(file: Path = LOCAL_SETTINGS, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What commands run with: the environment over the file. Raises SettingsError if the file cannot be read."""
    return {**local_settings(file), **environ}
