"""Where slicescope keeps things, and how a folder is written whole or not at all.

Knows nothing about what is stored.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import platformdirs
import psutil

from analysis.errors import SlicescopeError, StorageError, one_line


def _home(default: str) -> Path:
    chosen = os.environ.get("SLICESCOPE_HOME")
    return Path(chosen).expanduser() if chosen else Path(default)


def cache_folder() -> Path:
    """Converted models; may be deleted at any time. ``SLICESCOPE_HOME/cache`` when that is set."""
    return _home(platformdirs.user_cache_dir("slicescope")) / "cache"


_RUNS: ContextVar[Path | None] = ContextVar("runs", default=None)
"""Where runs are kept instead, while a block of ``runs_in`` runs."""


def runs_folder() -> Path:
    """One folder per run. ``SLICESCOPE_HOME/runs`` when that is set."""
    return _RUNS.get() or _home(platformdirs.user_data_dir("slicescope")) / "runs"


@contextmanager
def runs_in(folder: Path | None) -> Iterator[None]:
    """Keep runs in this folder, and find them there, while the block runs; ``None``: in the usual one."""
    before = _RUNS.set(folder)
    try:
        yield
    finally:
        _RUNS.reset(before)


def texts_folder() -> Path:
    """Uploaded texts, each in a folder of its content. ``SLICESCOPE_HOME/texts`` when that is set."""
    return _home(platformdirs.user_data_dir("slicescope")) / "texts"


def queue_folder() -> Path:
    """One small file per job that waits or runs in a server. ``SLICESCOPE_HOME/queue`` when that is set."""
    return _home(platformdirs.user_data_dir("slicescope")) / "queue"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about ``path`` into one sentence (``StorageError``)."""
    try:
        yield
    except SlicescopeError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        reasons = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EACCES: "there is no permission; choose another folder or change its rights",
            errno.EPERM: "there is no permission; choose another folder or change its rights",
            errno.EROFS: "the disk is read-only; choose another folder",
            errno.ENOTDIR: "a part of that path is a file, not a folder; choose another folder",
            errno.EEXIST: "a file of that name is in the way; choose another folder",
            errno.ENOENT: "it does not exist; check the path",
            errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
            errno.EISDIR: "it is a folder; name a file",
            errno.ELOOP: "its links lead in a circle; name another file",
        }
        told = os.strerror(number).lower() if number else one_line(error)
        reason = reasons.get(number, f"{told}; choose another folder")
        raise StorageError(f"'{path}' cannot be read or written: {reason} and try again.") from error


def require_space(path: Path, needed: int, what: str = "", home: str = "SLICESCOPE_HOME") -> None:
    """Raise ``StorageError`` when the disk of ``path`` has less than ``needed`` bytes left.

    ``what`` says what needs them, in front of the path; the setting ``home`` leads to another disk.
    """
    with storage_errors(path):
        place = next(place for place in (path, *path.absolute().parents) if place.exists())
        free = shutil.disk_usage(place).free
    if free < needed:
        raise StorageError(
            f"{what}'{path}' needs {needed / 1e9:.2f} GB, but its disk has {free / 1e9:.2f} GB left: "
            f"free some, or set {home} to a folder on another disk."
        )


def _error_number(error: Exception) -> int | None:
    """The operating system's number for it, or ``None`` when that has nothing to do with it."""
    if isinstance(error, shutil.Error):  # of copytree: a list, in words
        words = re.search(r"\[Errno (\d+)\]", str(error))
        return int(words[1]) if words else 0
    if isinstance(error, OSError):
        return error.errno or 0
    words = re.search(r"\(os error (\d+)\)", str(error))  # safetensors and tokenizers have it in words only
    return int(words[1]) if words else None


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    What killed processes left beside it is cleared away first. Raises ``StorageError`` when ``path`` exists
    and ``replace`` is false or it is a file, or when it cannot be written.
    """
    with storage_errors(path):
        clear_abandoned(path.parent)
        with suppress(FileNotFoundError):
            # Asked once: another process may take the folder away between two questions.
            if not (stat.S_ISDIR(path.stat().st_mode) and replace):
                raise StorageError(
                    f"'{path}' exists already; choose another folder or delete that one first."
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=owned(f".{path.name}"), dir=path.parent))
    try:
        with storage_errors(path):
            yield draft
            draft.chmod(0o755)  # mkdtemp makes it private
            _put_in_place(draft, path, replace)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


_TOKEN = secrets.token_hex(4)
"""Tells this process from an earlier one of the same number, as there is after a container restarts."""


def owned(name: str) -> str:
    """The beginning of a temporary folder's name: whose it is, and so whether that process still lives."""
    return f"{name}-{platform.node()}-{os.getpid()}-{_TOKEN}-"


def abandoned(folder: Path) -> list[tuple[Path, str]]:
    """Find what gone processes of this machine left in ``folder``, each with the name given to ``owned``."""
    mine = re.compile(rf"(?P<name>.+)-{re.escape(platform.node())}-(?P<pid>\d+)-(?P<token>[0-9a-f]{{8}})-.+")
    found = [
        (left, mine.fullmatch(left.name)) for left in (sorted(folder.iterdir()) if folder.is_dir() else [])
    ]
    return [(left, m["name"]) for left, m in found if m and not _lives(int(m["pid"]), m["token"])]


def clear_abandoned(folder: Path) -> None:
    """Clear away the folders that processes of this machine that are gone left in ``folder``."""
    found: list[tuple[Path, str]] = []
    with suppress(PermissionError):  # a folder that may be written, but not listed
        found = abandoned(folder)
    for left, name in found:
        place = folder / name.removeprefix(".")
        if left.name.endswith(_OLD) and not place.exists():
            # Killed in the moment between the old folder and the new.
            with suppress(OSError):  # another process was quicker
                left.rename(place)
        else:
            shutil.rmtree(_never_back(left), ignore_errors=True)


def _never_back(old: Path) -> Path:
    """Take a folder that had stepped aside the name that would bring it back; half of it must not come."""
    draft = old.with_name(old.name.removesuffix(_OLD))
    with suppress(OSError):  # there is none, or another process was quicker
        old.rename(draft)
    return draft


def delete_whole(path: Path) -> None:
    """Delete a folder at once: a process that is killed meanwhile leaves no half of it under its name."""
    with suppress(OSError), own_folder(path.parent) as place:
        path.rename(place / path.name)


@contextmanager
def own_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in ``parent`` for as long as the block runs; those of killed processes go first."""
    clear_abandoned(parent)
    place = Path(tempfile.mkdtemp(prefix=owned(".slicescope"), dir=parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _lives(pid: int, token: str) -> bool:
    if pid == os.getpid():
        return token == _TOKEN
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


_OLD = "-old"


_ATTEMPTS = 50


def _put_in_place(draft: Path, path: Path, replace: bool) -> None:
    """Rename ``draft`` to ``path``, whatever other processes put there meanwhile; the last one stays."""
    old = path.with_name(draft.name + _OLD)
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):  # another process has taken it away
            if replace and path.exists():
                # A folder cannot be renamed over a full one, so the old one steps aside for a moment.
                path.rename(old)
        try:
            draft.rename(path)
        except OSError as error:
            if old.exists() and not path.exists():
                with suppress(OSError):  # another process has put its folder there meanwhile
                    old.rename(path)
            if not replace or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            _never_back(old)  # and the block that made the draft clears it away
            return
        shutil.rmtree(old, ignore_errors=True)
    raise StorageError(f"Other processes keep writing '{path}': let them end, then try again.")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all (``StorageError``).

    A link is followed. What is no ordinary file, such as a pipe or ``/dev/null``, is written into.
    """
    with storage_errors(path):
        target = _followed(path)
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        with own_folder(target.parent) as place:
            draft = place / target.name
            draft.write_bytes(content)
            if target.exists():
                draft.chmod(target.stat().st_mode & 0o777)
            draft.replace(target)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield where to write a new file: it becomes ``path`` when the block ends well, and vanishes otherwise.

    For files that are too large to be held in memory. Raises ``StorageError`` when ``path`` exists, or cannot
    be written.
    """
    with storage_errors(path):
        _require_free(path, "file")
        with own_folder(path.absolute().parent) as place:
            draft = place / path.name
            yield draft
            draft.replace(path)


def _followed(path: Path) -> Path:
    """Where links lead; a file that is put there leaves them as they are."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():  # it ends at a link only where they lead in a circle
        raise OSError(errno.ELOOP, "links in a circle")
    return target


def check_folder(path: Path) -> None:
    """Raise ``StorageError`` unless ``path`` is a folder that exists."""
    with storage_errors(path):
        if not path.is_dir():
            raise StorageError(f"'{path}' is not a folder: give one that exists.")


def check_new_folder(path: Path) -> Path:
    """Raise ``StorageError`` where no new folder can be made at ``path``; before the work that fills it."""
    _require_free(path, "folder")
    parents = [each for each in path.absolute().parents if not os.path.lexists(each)]
    with suppress(_Tried), whole_folder(path):
        raise _Tried
    for each in parents:  # they were made for the trial
        with suppress(OSError):
            each.rmdir()
    return path


class _Tried(Exception):
    """It can be done, and is not."""


def check_new_file(path: Path) -> Path:
    """Raise ``StorageError`` where no new file can be written at ``path``; before the work that fills it."""
    _require_free(path, "file")
    return check_output(path)


def _require_free(path: Path, kind: str) -> None:
    if os.path.lexists(path):  # a link that leads nowhere, too
        raise StorageError(f"'{path}' exists already; choose another {kind} or delete that one first.")


def check_output(path: Path) -> Path:
    """Raise ``StorageError`` where a file cannot be written at ``path``; before the work that fills it."""
    with storage_errors(path):
        if path.is_dir():
            raise StorageError(f"'{path}' is a folder: name a file to write.")
        target = _followed(path)
        target.parent.stat()
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")
        if target.is_file() or not target.exists():
            # A name can be too long, and a folder read-only, in ways that only trying tells. Not at the
            # path itself, where a process that is killed would leave an empty file.
            with own_folder(target.parent) as place:
                (place / target.name).touch()
    return path
