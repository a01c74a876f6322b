"""The library and the command line work where the packages of the app are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("segno", "starlette", "streamlit"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def without_the_app(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    """What a Python script does where the packages of the extra ``app`` cannot be imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLICESCOPE_HOME": str(home)}
    command = [sys.executable, "-c", BLOCKED + script]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120)


def told(words: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return without_the_app(f"sys.argv = {['slicescope', *words]!r}\nfrom app.cli import main\nmain()", home)


def test_the_blocker_blocks(tmp_path):
    assert "No module named 'streamlit'" in without_the_app("import streamlit", tmp_path).stderr


def test_the_library_is_imported_without_the_app(tmp_path):
    script = "import analysis, analysis.profile, slicing, slicing.studies.run, app.report"
    done = without_the_app(script, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [["--help"], ["runs", "list"], ["compress", "--methods"], ["report", "demo", "--out", "report.html"]],
    ids=" ".join,
)
def test_commands_run_without_the_app(words, tmp_path):
    done = told(words, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_command_of_the_app_names_the_extra(tmp_path):
    done = told(["app", "--no-open"], tmp_path)
    assert done.returncode == 1
    assert "pip install 'slicescope[app]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
