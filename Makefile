# The same steps for people and for CI (.ci/run).

export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup demo check test bench

setup: ## .venv as the lock files say, and bubblewrap
	@scripts/system-packages
	@scripts/setup

demo: setup ## the whole market on this machine
	.venv/bin/spare demo

check: setup ## in seconds: style, types, which way imports run, the house rules
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy --strict
	.venv/bin/lint-imports --no-logo
	.venv/bin/pytest -q tests/test_house.py

test: setup ## every test, end to end included
	.venv/bin/pytest

bench: setup ## how long the hot paths take
	.venv/bin/python -m tests.benchmarks
