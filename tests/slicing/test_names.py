"""A file or folder of the user's that takes the name of one of our packages is told in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.errors import SlicescopeError
from slicing.cluster import on_ray
from slicing.names import check_names

ROOT = Path(__file__).parents[2]
LOAD = "import slicing; print(slicing.load.__name__)"
ENGINE = "from app.engine import compute_for"  # how the engine's process starts


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python, started in the folder of a user."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def take(folder: Path, name: str) -> Path:
    """Put a file or a folder there that must not be run."""
    taken = folder / name
    taken.parent.mkdir(exist_ok=True)
    taken.write_text("raise SystemExit('the file of the user was run')")
    return taken


def package_of(name: str) -> str:
    return name.partition("/")[0].removesuffix(".py")


def sentence(taken: Path, name: str) -> str:
    return (
        f"'{taken}' hides the package '{name}' of slicescope: rename it, or start Python in another folder."
    )


@pytest.mark.parametrize("name", ["analysis.py", "analysis/__init__.py", "slicing.py"])
@pytest.mark.parametrize("first", [True, False], ids=["before the path", "on the path"])
def test_what_is_in_the_way_is_named(tmp_path, monkeypatch, name, first):
    taken = take(tmp_path, name)
    if not first:
        monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError) as told:
        check_names("analysis", "slicing", first=str(tmp_path) if first else None)
    assert str(told.value) == sentence(taken, package_of(name))


def test_a_mere_folder_is_in_the_way_of_an_editable_installation_only(tmp_path, monkeypatch):
    take(tmp_path, "analysis/notes.txt")
    check_names("analysis", first=str(tmp_path))  # ours, which has an __init__.py, is found behind it
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "analysis").is_dir()])
    with pytest.raises(ImportError) as told:
        check_names("analysis", first=str(tmp_path))
    assert str(told.value) == sentence(tmp_path / "analysis", "analysis")


def test_a_script_of_such_a_name_is_itself_in_the_way(tmp_path):
    (tmp_path / "analysis.py").write_text(LOAD)
    answer = python(tmp_path, "analysis.py")
    assert answer.stdout == ""
    assert answer.stderr.splitlines()[-1] == f"ImportError: {sentence(tmp_path / 'analysis.py', 'analysis')}"


def test_ray_is_not_started_where_its_workers_would_find_something_else(tmp_path, monkeypatch):
    taken = take(tmp_path, "slicing.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SlicescopeError) as told:
        on_ray(None)
    assert str(told.value) == sentence(taken, "slicing")


@pytest.mark.parametrize("name", ["analysis.py", "slicing/__init__.py"])
@pytest.mark.parametrize("start", [("-m", "app.cli", "runs"), ("-c", ENGINE)], ids=["cli", "engine"])
def test_the_program_says_it_without_a_traceback(tmp_path, name, start):
    taken = take(tmp_path, name)
    answer = python(tmp_path, *start)
    assert answer.returncode == 1 and answer.stdout == ""
    assert answer.stderr == f"slicescope: {sentence(taken, package_of(name))}\n"


def test_other_files_are_in_nobodys_way(tmp_path):
    take(tmp_path, "names.py")
    take(tmp_path, "runs/__init__.py")
    assert python(tmp_path, "-c", "import app.cli; " + LOAD).stdout == "load\n"
