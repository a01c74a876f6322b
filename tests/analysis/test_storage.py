"""Folders are written whole or not at all."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from analysis.errors import ModelError, StorageError
from analysis.storage import (
    cache_folder,
    check_new_file,
    check_new_folder,
    check_output,
    clear_abandoned,
    runs_folder,
    whole_folder,
    write_whole,
)


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


def test_half_of_a_folder_that_had_stepped_aside_never_comes_back(tmp_path, monkeypatch):
    old = tmp_path / f".b-{platform.node()}-{dead_pid()}-01234567-abcd-old"
    for folder in (old, tmp_path / "b"):
        folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed in the middle of it
        clear_abandoned(tmp_path)
    (tmp_path / "b").rmdir()
    clear_abandoned(tmp_path)
    assert names(tmp_path) == []


def test_many_who_write_one_folder_at_once_all_end_well(tmp_path):
    problems: list[BaseException] = []

    def write(name: str) -> None:
        for turn in range(40):
            try:
                with whole_folder(tmp_path / "run", replace=True) as draft:
                    (draft / "a").write_text(f"{name} {turn}")
                    (draft / "b").write_text(f"{name} {turn}")
            except BaseException as error:
                problems.append(error)

    writers = [threading.Thread(target=write, args=(str(each),)) for each in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert problems == []
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "a").read_text() == (tmp_path / "run" / "b").read_text()


def test_a_file_is_written_whole_and_a_link_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "target"]


def test_what_is_no_ordinary_file_is_written_into_and_stays(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"words")
    reader.join(10)
    assert read == [b"words"]
    assert pipe.is_fifo()
    assert check_output(Path(os.devnull)) == Path(os.devnull)
    write_whole(Path(os.devnull), b"words")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize(
    ("name", "part"),
    [("", "is a folder: name a file"), ("nowhere/x", "does not exist"), ("x" * 300, "too long")],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path, name, part):
    with pytest.raises(StorageError, match=part):
        check_output(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", [check_new_folder, check_new_file])
def test_what_must_be_new_may_not_exist_nor_lead_anywhere(tmp_path, check):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, said in (("", "exists"), ("file", "exists"), ("dangling", "exists"), ("n" * 300, "too long")):
        with pytest.raises(StorageError, match=said):
            check(tmp_path / name)
    with pytest.raises(StorageError, match="a part of that path is a file"):
        check(tmp_path / "file" / "new")
    assert check(tmp_path / "new") == tmp_path / "new"
    assert names(tmp_path) == ["dangling", "file"]


def test_a_new_folder_may_lie_in_new_folders_which_the_check_does_not_leave(tmp_path):
    assert check_new_folder(tmp_path / "a" / "b" / "new")
    assert names(tmp_path) == []


def test_trying_an_output_puts_nothing_in_its_place(tmp_path, monkeypatch):
    tried: list[Path] = []
    touch = Path.touch

    def watched(path: Path) -> None:
        touch(path)
        tried.append(path)
        assert not (tmp_path / "x").exists()

    monkeypatch.setattr(Path, "touch", watched)
    assert check_output(tmp_path / "x") == tmp_path / "x"
    assert [each.name for each in tried] == ["x"]
    assert names(tmp_path) == []


def test_a_file_in_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "x").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("mkdtemp", "mkstemp"):  # what root may do anywhere
        monkeypatch.setattr(tempfile, name, refuse)
    with pytest.raises(StorageError, match="there is no permission"):
        check_output(tmp_path / "x")


@pytest.mark.parametrize("write", [check_output, lambda path: write_whole(path, b"new")])
def test_links_that_lead_in_a_circle_are_told_and_stay(tmp_path, write):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "own").symlink_to("own")
    for name in ("a", "own"):
        with pytest.raises(StorageError, match="lead in a circle"):
            write(tmp_path / name)
    assert names(tmp_path) == ["a", "b", "own"]
    assert all((tmp_path / name).is_symlink() for name in names(tmp_path))
