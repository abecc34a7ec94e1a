# The commands of this project. `make` alone explains them.
#
# Needs only GNU make, Python >= 3.11 and, for what is missing, apt-get as root or with sudo.

PYTHON := .venv/bin/python
TEST ?= tests
ARGS ?=

# A test run starts hundreds of short commands; without byte code each of them compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

REALITY := .venv/bin/mcphub check --dir .cache/reality-check/hub --manifest docs/reference/reality-check.servers.json

.DEFAULT_GOAL := help
.PHONY: help demo test check serve bench bench-starts bench-instances reality-check lock clean

help:
	@echo 'MCPHub: one MCP endpoint for a team, each user isolated.'
	@echo
	@echo '  make demo    install what is missing, then show the point with two users and real servers;'
	@echo '               keeps serving until Ctrl-C. CHECK=1 exits instead (non-zero if anything leaks);'
	@echo '               DATABASES=1 also installs PostgreSQL and MariaDB for the database rows'
	@echo '  make test    install what is missing, then all checks and tests'
	@echo '               TEST=tests/unit takes a part, ARGS="-k words" goes to pytest'
	@echo '  make check   ruff, basedpyright, import contracts; changes nothing'
	@echo '  make serve   run the hub from this checkout (MCPHUB_DIR, default ~/.mcphub); ARGS go to it'
	@echo '  make bench   measure a call through the hub, nginx, other gateways and none (ten minutes);'
	@echo '               ARGS=--docs writes table and chart into docs/reference'
	@echo '  make bench-starts   measure what the start of an instance costs, by its program and by the hub'
	@echo '  make bench-instances   measure what 10 to 1,000 live instances cost (15 GB of memory; five minutes)'
	@echo '  make reality-check   check the published servers of the manifest, shared and behind the hub, and write'
	@echo '               the page about them; ARGS=--resume goes on with a run that was ended'
	@echo '  make lock    resolve pyproject.toml into requirements/ again (ARGS=--upgrade for newer versions)'
	@echo '  make clean   remove .venv and everything that was built or cached here'
	@echo
	@echo 'Start reading in README.md; docs/ has a tutorial, how-tos, references and explanations.'

demo:
	@scripts/setup demo $(if $(DATABASES),databases)
	@$(PYTHON) -m mcphub.testing.demo $(if $(CHECK),--check) $(if $(DATABASES),--databases) $(ARGS)

test: check
	@$(PYTHON) -m pytest -n 2 $(ARGS) $(TEST)
	@$(if $(filter tests,$(TEST)),$(PYTHON) benchmarks/gate.py)

check:
	@scripts/setup test
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/basedpyright
	.venv/bin/lint-imports

serve:
	@scripts/setup run
	@.venv/bin/mcphub serve $(ARGS)

bench:
	@scripts/setup bench
	@$(PYTHON) benchmarks/relay.py $(ARGS)

bench-starts:
	@scripts/setup bench
	@$(PYTHON) benchmarks/starts.py $(ARGS)

bench-instances:
	@scripts/setup bench
	@$(PYTHON) benchmarks/instances.py $(ARGS)

reality-check:
	@scripts/setup test
	-$(REALITY) --results .cache/reality-check/shared.jsonl --total 6000 $(ARGS) > /dev/null
	-$(REALITY) --through-hub --results .cache/reality-check/behind.jsonl --total 6000 $(ARGS) > /dev/null
	$(PYTHON) -m mcphub.testing.reality_check .cache/reality-check/shared.jsonl .cache/reality-check/behind.jsonl \
		docs/reference/reality-check.servers.json docs/reference
	-$(PYTHON) -m mcphub.testing.scores .cache/reality-check/shared.jsonl docs/reference/reality-check.servers.json

lock:
	@scripts/setup run
	@scripts/lock $(ARGS)

clean:
	rm -rf .venv .cache .demo .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src sdk tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
