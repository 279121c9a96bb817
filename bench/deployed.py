"""The app as it is deployed: what the package holds, unpacked into a folder of its own."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from bench.places import CACHE, ROOT
from bench.processes import Failed


def unpack(root: Path = ROOT) -> Path:
    """Builds the package of a checkout and unpacks it; the folder. Raises Failed."""
    package, folder = CACHE / "deployed.zip", CACHE / "deployed"
    done = subprocess.run(
        [sys.executable, str(root / "scripts/package"), "--to", str(package)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"scripts/package: {done.stderr[-300:]}")
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(package) as content:
        content.extractall(folder)
    return folder
