"""Folders are written whole or not at all."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.errors import ModelError, StorageError
from analysis.storage import cache_folder, runs_folder, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_when_the_block_ends(tmp_path):
    with whole_folder(tmp_path / "a" / "b") as draft:
        (draft / "file").write_text("new")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "new"
    assert names(tmp_path / "a") == ["b"]


def test_folder_is_replaced_only_when_asked(tmp_path):
    for content in ("old", "new"):
        with whole_folder(tmp_path / "b", replace=True) as draft:
            (draft / content).touch()
    assert names(tmp_path / "b") == ["new"]
    with pytest.raises(StorageError, match="exists already"), whole_folder(tmp_path / "b"):
        pass
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize(
    ("error", "raised", "sentence"),
    [
        (OSError(errno.ENOSPC, "full"), StorageError, "the disk is full; free some space and try again"),
        (OSError(errno.EACCES, "no"), StorageError, "there is no permission"),
        (OSError(errno.EROFS, "no"), StorageError, "the disk is read-only"),
        (ValueError("mine"), ValueError, "mine"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_nothing_is_left_and_the_old_folder_stays_when_the_block_fails(tmp_path, error, raised, sentence):
    with whole_folder(tmp_path / "b") as draft:
        (draft / "old").touch()
    with pytest.raises(raised, match=sentence), whole_folder(tmp_path / "b", replace=True) as draft:
        (draft / "new").touch()
        raise error
    assert names(tmp_path) == ["b"]
    assert names(tmp_path / "b") == ["old"]


def test_old_folder_steps_back_in_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with whole_folder(tmp_path / "b") as draft:
        (draft / "old").touch()
    rename = Path.rename

    def refuse_drafts(path: Path, target: Path) -> Path:
        if path.name.startswith(".b-") and not path.name.endswith("-old"):
            raise OSError(errno.EACCES, "no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_drafts)
    with pytest.raises(StorageError, match="no permission"), whole_folder(tmp_path / "b", replace=True):
        pass
    assert names(tmp_path) == ["b"]
    assert names(tmp_path / "b") == ["old"]


def test_error_of_ours_is_not_taken_for_one_of_the_disk(tmp_path):
    error = ModelError("The model cannot be read: No such file or directory (os error 2).")
    with pytest.raises(ModelError) as raised, whole_folder(tmp_path / "b"):
        raise error
    assert raised.value is error


def test_rare_error_is_told_in_the_words_of_the_system(tmp_path):
    with (
        pytest.raises(
            StorageError, match=r"b' cannot be read or written: .*quota.*; choose another folder and"
        ),
        whole_folder(tmp_path / "b"),
    ):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(StorageError, match="choose another folder"), whole_folder(tmp_path / "a" / "b"):
        pass


def test_home_moves_both_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "x"))
    assert (cache_folder(), runs_folder()) == (tmp_path / "x" / "cache", tmp_path / "x" / "runs")
    monkeypatch.delenv("SLICESCOPE_HOME")
    assert "slicescope" in str(cache_folder())


def dead_pid() -> int:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    here = platform.node()
    left = tmp_path / f".b-{here}-{dead_pid()}-01234567-abcd"
    living = tmp_path / f".b-{here}-{os.getppid()}-01234567-abcd"
    elsewhere = tmp_path / f".b-another-machine-{dead_pid()}-01234567-abcd"
    other = tmp_path / f".bb-{here}-{dead_pid()}-01234567-abcd"
    for folder in (left, living, elsewhere, other):
        folder.mkdir()
    with whole_folder(tmp_path / "b"):
        pass
    assert set(names(tmp_path)) == {"b", living.name, elsewhere.name}


def test_folder_that_had_stepped_aside_when_its_process_was_killed_comes_back(tmp_path):
    old = tmp_path / f".b-{platform.node()}-{dead_pid()}-01234567-abcd-old"
    old.mkdir()
    (old / "precious").touch()
    with pytest.raises(ValueError, match="mine"), whole_folder(tmp_path / "b", replace=True):
        raise ValueError("mine")
    assert names(tmp_path) == ["b"]
    assert names(tmp_path / "b") == ["precious"]
