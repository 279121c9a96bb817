# Two commands do everything on a fresh machine: `make start` and `make test`. Neither needs root.
.PHONY: start test check format package clean

VENV := .venv/bin
PYTEST_ARGS ?=

start: .venv/installed
	@$(VENV)/python -m devhost

test: .venv/installed
	@$(VENV)/python -m pytest $(PYTEST_ARGS)

check: .venv/installed
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/python -m pytest -q -m static

format: .venv/installed
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

package: .venv/installed
	@$(VENV)/python scripts/package

.venv/installed: requirements.txt requirements-dev.txt scripts/install
	@scripts/install
	@touch $@

clean:
	rm -rf .venv .venvs dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
