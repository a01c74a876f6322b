"""Stored runs: notes beside them, the trash and the way back, and runs that travel as files."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from analysis.errors import StorageError
from analysis.storage import runs_folder
from slicing import library
from slicing.library import (
    Note,
    annotate,
    annotate_block,
    block_notes,
    bring_in,
    note_of,
    pack,
    take_back,
    throw_away,
    trashed,
)
from slicing.studies.results import Run
from slicing.studies.store import BUNDLED_RUN, bundled_run, find_details, find_run, keep_run, list_runs


@pytest.fixture
def run() -> Run:
    """The run that ships, stored like one's own."""
    return bring_in(zipped({path.name: path.read_bytes() for path in BUNDLED_RUN.iterdir()}), "it")


def zipped(files: dict[str, bytes]) -> bytes:
    """The same files give the same bytes: they are names of tests, which two processes have to agree on."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def test_a_note_lies_beside_the_outcome_and_changes_nothing_of_it(run):
    before = (runs_folder() / run.key / "run.json").read_bytes()
    assert note_of(run.key) == Note()
    annotate(run.key, Note(label="the good one", text="shown in the talk"))
    assert note_of(run.key) == Note(label="the good one", text="shown in the talk")
    assert (runs_folder() / run.key / "run.json").read_bytes() == before
    assert sorted(p.name for p in (runs_folder() / run.key).iterdir()) == [
        "note.json",
        "profile.json",
        "profile.safetensors",
        "run.json",
    ]
    (runs_folder() / run.key / "note.json").write_text("{")
    assert note_of(run.key) == Note()


@pytest.mark.parametrize("said", [{"label": "x" * 101}, {"text": "x" * 10_001}])
def test_a_note_is_bounded(said):
    with pytest.raises(StorageError, match=r"characters, but .* are the most: shorten it\."):
        Note(**said)


def test_a_note_on_a_block_outlives_a_new_name_and_travels(run):
    annotate_block(run.key, 7, " spare this one ")
    annotate_block(run.key, 3, "the first to go")
    annotate(run.key, note_of(run.key).renamed("mine", "a word"))
    assert note_of(run.key) == Note(
        label="mine", text="a word", blocks={3: "the first to go", 7: "spare this one"}
    )
    packed = pack(run.key)
    throw_away(run.key)
    brought = bring_in(packed, "it")
    assert block_notes(brought) == {3: "the first to go", 7: "spare this one"}
    annotate_block(run.key, 7, "")
    assert block_notes(brought) == {3: "the first to go"}


@pytest.mark.parametrize(
    ("block", "text", "told"),
    [
        (30, "too far", r"no block 30 in this profile: they go from 0 to 29\."),
        (-1, "before", "no block -1"),
        (0, "x" * 201, "note on block 0 has 201 characters"),
        (0, "two\nlines", "one line"),
    ],
)
def test_a_note_on_a_block_is_one_short_line_on_a_block_that_is_there(run, block, text, told):
    with pytest.raises(StorageError, match=told):
        annotate_block(run.key, block, text)
    assert note_of(run.key) == Note()


@pytest.mark.parametrize("key", ["", "nothing", "..", "../runs", ".trash", "a/b"])
def test_what_is_no_run_is_left_alone(run, key):
    for act in (lambda: annotate(key, Note()), lambda: throw_away(key), lambda: pack(key)):
        with pytest.raises(StorageError):
            act()
    assert find_run(run.key) == run


def test_a_deleted_run_can_be_taken_back_whole(run):
    annotate(run.key, Note(label="mine"))
    name = throw_away(run.key)
    assert list_runs() == ([], [])
    assert trashed() == [name]
    assert take_back(name) == run.key
    assert find_run(run.key) == run
    assert note_of(run.key).label == "mine"
    assert find_details(run) is not None
    assert trashed() == []


def test_a_run_made_again_meanwhile_is_not_replaced(run):
    annotate(run.key, Note(label="the first"))
    name = throw_away(run.key)
    bring_in(run.to_json().encode(), "it")
    assert take_back(name) == f"{run.key}-2"
    assert trashed() == []
    assert [note_of(key).label for key in (run.key, f"{run.key}-2")] == ["", "the first"]
    assert {each.key for each in list_runs()[0]} == {run.key, f"{run.key}-2"}


@pytest.mark.parametrize("name", ["", "x", "../x", ".."])
def test_only_what_is_in_the_trash_is_taken_back(run, name):
    with pytest.raises(StorageError, match="trash"):
        take_back(name)


def test_the_trash_keeps_the_newest_and_for_a_while(run, monkeypatch):
    monkeypatch.setattr(library, "KEPT_IN_TRASH", 2)
    names = []
    for _ in range(4):
        names.append(throw_away(run.key))
        bring_in(run.to_json().encode(), "it")
    assert trashed() == names[:1:-1]
    monkeypatch.setattr(library, "KEPT_SECONDS", -1)
    throw_away(run.key)
    assert trashed() == []


def test_a_packed_run_comes_in_elsewhere_as_it_was(run, monkeypatch, tmp_path):
    annotate(run.key, Note(label="travels"))
    (runs_folder() / run.key / "model").mkdir()
    (runs_folder() / run.key / "bases.safetensors").write_bytes(b"large")
    packed = pack(run.key)
    assert set(zipfile.ZipFile(io.BytesIO(packed)).namelist()) == {
        "run.json",
        "note.json",
        "profile.safetensors",
    }
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "elsewhere"))
    assert bring_in(packed, "it") == run
    assert find_run(run.key) == run
    assert note_of(run.key).label == "travels"


def test_a_stored_run_is_not_replaced_by_one_that_comes_in(run):
    annotate(run.key, Note(label="mine"))
    with pytest.raises(StorageError, match="is stored here already and stays as it is"):
        bring_in(run.to_json().encode(), "it")
    later = run.model_copy(update={"created": run.created + timedelta(days=1)})
    assert bring_in(later.to_json().encode(), "it").key == f"{run.key}-2"
    assert note_of(run.key).label == "mine"


GOOD = bundled_run().to_json().encode()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not a readable Run"),
        (b"{}", "not a readable Run"),
        (b"PK but no zip", "damaged zip file"),
        (zipped({"run.json": GOOD})[:-30], "damaged zip file"),
        (zipped({"note.json": b"{}"}), "holds no run.json"),
        (zipped({"run.json": GOOD, "evil.py": b""}), "holds 'evil.py'"),
        (zipped({"run.json": GOOD, "../run.json": GOOD}), "holds '../run.json'"),
        (zipped({"run.json": GOOD, "/etc/passwd": b""}), "holds '/etc/passwd'"),
        (zipped({"run.json": GOOD, "model/": b""}), "holds 'model/'"),
        (zipped({"run.json": b"{}"}), "not a readable Run"),
        (zipped({"run.json": GOOD, "note.json": b"[]"}), "not a readable Note"),
        (zipped({"run.json": GOOD, "profile.safetensors": b"no tensors"}), "cannot be read"),
    ],
)
def test_what_is_no_run_is_refused_and_leaves_nothing(content, part):
    with pytest.raises(StorageError, match=part):
        bring_in(content, "'given.zip'")
    assert list_runs() == ([], [])
    assert not runs_folder().exists() or [path.name for path in runs_folder().glob("[!.]*")] == []


def test_a_zip_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(library, "LARGEST", 100_000)
    bomb = zipped({"run.json": b" " * 10_000_000})
    assert len(bomb) < 20_000
    with pytest.raises(StorageError, match="holds more than"):
        bring_in(bomb, "it")
    with pytest.raises(StorageError, match="holds more than"):
        bring_in(b" " * 100_001, "it")


def test_a_zip_that_names_a_file_twice_is_refused():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("run.json", GOOD)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("run.json", b"{}")
    with pytest.raises(StorageError, match="once each"):
        bring_in(packed.getvalue(), "it")


def test_a_copied_folder_is_a_run_of_its_own_and_can_be_deleted(run: Run):
    copy: Path = runs_folder() / "a copy"
    shutil.copytree(runs_folder() / run.key, copy)
    assert {each.key for each in list_runs()[0]} == {run.key, "a copy"}
    throw_away("a copy")
    assert list_runs() == ([run], [])


@pytest.mark.timeout(20)
def test_what_is_no_file_is_refused_without_reading_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(StorageError, match="is no file"):
            library.read_packed(path)


@pytest.mark.parametrize(
    ("label", "text"), [("a \x1b[31m b", ""), ("two\nlines", ""), ("\udcff", ""), ("", "\udcff")]
)
def test_a_note_that_is_no_text_is_refused_in_one_sentence(label, text):
    keep_run(bundled_run())
    (stored,), _ = list_runs()
    with pytest.raises(StorageError, match=r"text, but this one has the character '.*': leave it out"):
        annotate(stored.key, Note(label=label, text=text))
    assert note_of(stored.key) == Note()
