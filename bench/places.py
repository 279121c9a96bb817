"""Where things are."""

from pathlib import Path

BENCH = Path(__file__).parent
ROOT = BENCH.parent
RESULTS = BENCH / "results"
# Environments, logs and everything else that can be made again; not in git.
CACHE = BENCH / ".cache"
LOGS = CACHE / "logs"
