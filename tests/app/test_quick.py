"""Commands that only read what is stored, and pages: they start in a moment, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from analysis.device import DRIVERS
from app.cli import app
from slicing.studies.store import bundled_run, keep_run, list_runs

HEAVY = {"torch", "transformers", "pandas", "pyarrow", "datasets", "plotly", "streamlit"}
SECONDS = 2.5
"""Of CPU time at most: four times what they take, and less than half of what importing torch takes."""
COMMAND = f"""
import json, resource, sys
from app.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
used = resource.getrusage(resource.RUSAGE_SELF)
told = {{"heavy": sorted({HEAVY!r} & set(sys.modules)), "seconds": used.ru_utime + used.ru_stime}}
print(json.dumps(told), file=sys.stderr)
"""


def carried_out(*words: object) -> str:
    """What a command prints, in a process of its own that imports nothing heavy and is soon done."""
    command = [sys.executable, "-c", COMMAND, *map(str, words)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stderr.splitlines()[-1])
    assert told["heavy"] == []
    assert told["seconds"] < SECONDS
    return answer.stdout


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"], ["compress", "--methods"], ["cite"]])
def test_what_needs_no_run_is_quick(words):
    assert carried_out(*words)


@pytest.mark.parametrize("words", [["runs"], ["runs", "show"], ["cite"]])
def test_stored_runs_are_read_without_torch(words):
    keep_run(bundled_run())
    ((run,), _) = list_runs()
    assert carried_out(*words, *([run.key] if words != ["runs"] else []))


def test_a_plan_on_a_stored_profile_needs_no_torch(tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged, that a tensor must want a basis. " * 20)
    where = ["--model", tiny_folder, "--text", text, "--windows", 2, "--window-length", 16, "--rounding", 1]
    first = CliRunner().invoke(app, ["plan", *map(str, where)])
    assert first.exit_code == 0, first.output
    assert "mean slice" in carried_out("plan", *where, "--base", 0.2)


ORDERS = """
import os, sys
import torch  # takes most of the time, and knows nothing of either

for order in sys.argv[1:]:
    if not os.fork():
        exec(order)
        print("sliced" in transformers.CONFIG_MAPPING, "narrow" in transformers.CONFIG_MAPPING, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_our_models_are_told_to_transformers_whenever_it_is_imported():
    before = "import transformers, slicing"
    after = "import slicing, transformers"
    ours = "import slicing.modeling_narrow, transformers"
    command = [sys.executable, "-c", ORDERS, before, after, ours]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["True True"] * 3


PAGES = """
import logging, sys
from pathlib import Path
from streamlit.testing.v1 import AppTest
import app
logging.disable(logging.WARNING)
script = Path(app.__file__).with_name("main.py")
session = AppTest.from_file(str(script), default_timeout=60).run()
for page in ("shrink", "profile", "tune", "study", "compare", "play", "runs", "notes"):
    session.switch_page(f"app_pages/{page}.py").run()
    assert not session.exception and session.title, page
    print(session.title[0].value, sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or any(map(os.path.exists, DRIVERS)), reason="torch says which device there is"
)
def test_pages_need_no_torch() -> None:
    answer = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert [line.endswith(" []") for line in answer.stdout.splitlines()] == [True] * 8, answer.stdout
