# make demo: the whole road on synthetic data, from nothing to a report. make test: lint, types, tests.
# make optimum: Optimum on our folders, in an environment of its own, which its version of transformers needs.
# make embed: an artifact's own listings in Node, a browser and C++ (needs npm, Chromium, g++; headers: RD_ORT_INCLUDE=FOLDER).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test embed optimum lint install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("rd-distill needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/rd-distill --config benchmarks/demo.yaml --out $(DEMO)/student --overwrite
	$(BIN)/rd-export --target onnx --student-dir $(DEMO)/student --out $(DEMO)/artifact --overwrite
	$(BIN)/rd-verify $(DEMO)/artifact
	@echo "report: $(abspath $(DEMO)/student/report.html)"

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

embed: install
	npm install --silent --no-save --no-package-lock --ignore-scripts --prefix $(VENV)/npm onnxruntime-node@1.30.0 onnxruntime-web@1.30.0
	RD_NODE_MODULES=$(abspath $(VENV)/npm/node_modules) $(BIN)/python -m pytest -m embed -rs -n 0 tests/export/targets/test_listings.py

optimum:
	$(PYTHON) -m venv $(VENV)-optimum
	$(VENV)-optimum/bin/python -m pip install --quiet --editable '.[train,optimum]' pytest hypothesis
	$(VENV)-optimum/bin/python -m pytest -rs tests/export/test_optimum.py

clean:
	rm -rf $(VENV) $(VENV)-optimum $(DEMO) build *.egg-info
