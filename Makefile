# make demo: install, render faces, train on them, verify, dump features.  make test: ruff and all tests.
# Each makes a virtual environment of its own, once, and again only when setup.py changes.

SUITABLE = import sys; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3 python3.11 python3.10 python3.9 python3.12 python3.8; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && exit; done; echo python3)

.PHONY: demo test clean

.venv/ready: setup.py
	@$(PYTHON) common/check_python.py
	rm -rf .venv && $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check ".[cpu]"
	@touch $@

.venv-test/ready: setup.py
	@$(PYTHON) common/check_python.py
	rm -rf .venv-test && $(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check ".[cpu,test]"
	@touch $@

demo: .venv/ready
	.venv/bin/python benchmarks/demo.py

test: .venv-test/ready
	.venv-test/bin/ruff check .
	.venv-test/bin/python -m pytest

clean:
	rm -rf .venv .venv-test demo datasets/demo
