# make demo, make test, make check, make bench: each sets everything up in .venv first (setup.sh), then does its work.
python := .venv/bin/python
# by themselves: train_gpu, which needs a GPU; ablations and curation, which train for an hour
benchmarks := $(filter-out harness train_gpu ablations curation test_%,$(basename $(notdir $(sort $(wildcard tests/benchmarks/[a-z]*.py)))))
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench clean

help:   ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 13

setup:  ## set up and do nothing else
	@./setup.sh

demo: setup  ## one run from web pages to trained features; SOURCE=path: your images, WARCs or URL list; OUT=folder; SET="key=value ..."
	@$(python) -m spark_jobs.demo $(if $(SOURCE),--source "$(SOURCE)") $(if $(OUT),--out "$(OUT)") $(SET)

test: setup  ## all tests
	@$(python) -m pytest

check: setup  ## lint, format and types
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy

bench: setup  ## every benchmark in turn; one JSON line at the end of each
	@set -e; for name in $(benchmarks); do echo "== $$name"; $(python) -m tests.benchmarks.$$name; done

clean:  ## remove the demo's run and caches; .venv and other runs stay
	rm -rf runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .venv/bin/spark-distribution/work
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
