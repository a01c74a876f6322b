"""Stored runs: a folder for each, an index of all, and the runs that ship with slicescope.

The name of a folder is the key of its run, whatever its request's key would be today: links and scripts that
know the key stay right. The request of a run made by an earlier version is found by the index.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis.details import Details
from analysis.errors import StorageError
from analysis.profile import LayerProfile
from analysis.shape import ModelShape
from analysis.storage import require_space, runs_folder, storage_errors, whole_folder
from analysis.values import key_of
from slicing.inner.costs import UnitCosts
from slicing.studies.index import (
    NOTE_FILE,
    RUN_FILE,
    Broken,
    Stamp,
    Summary,
    run_folders,
    stamp_of,
    summaries,
)
from slicing.studies.requests import Trial
from slicing.studies.results import Request, Run, TrialResult
from slicing.studies.sound import require_fitting, require_sound

MODEL_FOLDER = "model"
BASES_FILE = "bases.safetensors"
DETAILS_FILE = "profile.safetensors"
PROFILE_FILE = "profile.json"
_INSTALLED = Path(__file__).parents[1] / "assets"
BUNDLED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "assets"
"""The runs that ship: inside the package ``slicing`` once it is installed, beside it in the repository."""
BUNDLED_RUN = BUNDLED / "demo-run"
BUNDLED_ENERGY = BUNDLED / "demo-energy"
BUNDLED_SWEEP = BUNDLED / "demo-sweep"
BUNDLED_CONTEST = BUNDLED / "demo-contest"
BUNDLED_BOARD = BUNDLED / "demo-board"
BUNDLED_UNITS = BUNDLED / "demo-units"
BUNDLED_WIDTHS = BUNDLED / "demo-widths"
BUNDLED_DIAL = BUNDLED / "demo-dial"
_PROFILES = ".profiles"
"""Every profile once, named by its content; the files of the runs are links to these."""

_KEY = re.compile(r"[0-9a-f]{12}")
_PROFILES_KEPT = 64
_profiles: dict[str, LayerProfile] = {}
"""Profiles that were read, by their names."""


# Reading


def load_run(folder: Path) -> Run:
    """Read one run folder (``StorageError`` when it is missing or broken)."""
    path = folder / RUN_FILE
    return _cached_run(folder, stamp_of(path))


def find_run(key: str) -> Run:
    """Find the stored run whose key is, or begins with, ``key`` (``StorageError`` for none, or several).

    The key that the request of an older run has now leads to it as well.
    """
    names = [folder.name for folder in run_folders()]
    matches = [key] if key in names else [name for name in names if key and name.startswith(key)]
    if key and not matches:
        matches = [each.name for each in summaries()[0] if each.request_key.startswith(key)]
    if len(matches) != 1:
        found = "no run" if not matches else f"{len(matches)} runs"
        raise StorageError(f"The key '{key}' fits {found}: 'slicescope runs' lists the keys.")
    return _stored(matches[0])


def is_stored(key: str) -> bool:
    """Tell whether there is a run of exactly this key, readable or not."""
    try:
        return key in (folder.name for folder in run_folders())
    except StorageError:
        return False


def find_stored(request: Request) -> Run | None:
    """Find the stored run of a request, or ``None`` where there is none that can be read."""
    return _readable(folder_of(request).name)


def finished_trials(trials: Sequence[Trial]) -> dict[str, TrialResult | None]:
    """Find the outcomes of trials that are stored, by their keys.

    Only those that were judged on the same windows as the newest of them: a text can change.
    """
    stored = _names_by_request()
    found: dict[str, TrialResult | None] = {}
    newest: Run | None = None
    for trial in trials:
        key = trial.key
        run = _readable(stored[key]) if key in stored else None
        found[key] = run.result if run and run.result.kind == "trial" else None
        if run and found[key] and (newest is None or run.created > newest.created):
            newest = run
    judged = newest and newest.result.evaluation.digest  # type: ignore[union-attr]
    return {key: each if each and each.evaluation.digest == judged else None for key, each in found.items()}


def folder_of(request: Request) -> Path:
    """Name the folder of the request's run: where it is stored, or else where it will be.

    A folder that belongs to another request, or cannot be read, is never named.
    """
    key = request.key
    name = _names_by_request().get(key)
    return runs_folder() / name if name else free_folder(key)


def _names_by_request() -> dict[str, str]:
    """Name the run of each request by the key that it has now: of several the one so named, or the newest."""
    found: dict[str, str] = {}
    for each in summaries()[0]:  # newest first
        if each.name == each.request_key or each.request_key not in found:
            found[each.request_key] = each.name
    return found


def free_folder(key: str) -> Path:
    """Name a folder for a run of this key: that of the key, or of the key with a number where it is taken."""
    names = (key if number == 1 else f"{key}-{number}" for number in itertools.count(1))
    return next(place for name in names if not (place := runs_folder() / name).exists())


def list_runs(but: Collection[str] = ()) -> tuple[list[Run], list[Broken]]:
    """Read all stored runs, newest first, ``but`` those of some kinds, and list those that cannot be read."""
    listed, broken = summaries()
    found: list[Run] = []
    for each in listed:
        if each.kind not in but:
            try:
                found.append(_stored(each.name))
            except StorageError as error:  # its profile is damaged, or it was deleted meanwhile
                broken.append(Broken(each.name, str(error)))
    return found, broken


def bundled_run() -> Run:
    """Read the finished demo comparison that ships with slicescope, so that there is something to look at."""
    return load_run(BUNDLED_RUN)


def bundled_energy() -> Run:
    """Read the second finished demo comparison that ships: its plan goes by the discarded energy.

    On this model that score differs among all blocks, where LR sets one block apart. The windows are those
    of ``bundled_run``.
    """
    return load_run(BUNDLED_ENERGY)


COMPARISONS: dict[str, Callable[[], Run]] = {"demo": bundled_run, "demo-energy": bundled_energy}
"""The finished comparisons that ship, by the names that commands and addresses know them by."""


def named_run(key: str) -> Run:
    """Find a comparison that ships by its name, or else a stored run by its key, as ``find_run`` does."""
    return COMPARISONS[key]() if key in COMPARISONS else find_run(key)


def bundled_sweep() -> Run:
    """Read the finished demo sweep that ships with slicescope."""
    return load_run(BUNDLED_SWEEP)


def bundled_contest() -> Run:
    """Read the finished demo contest that ships with slicescope."""
    return load_run(BUNDLED_CONTEST)


def bundled_board() -> Run:
    """Read the finished demo leaderboard that ships with slicescope."""
    return load_run(BUNDLED_BOARD)


def bundled_units() -> Run:
    """Read the finished demo profile with the costs of units that ships with slicescope."""
    return load_run(BUNDLED_UNITS)


def bundled_widths() -> Run:
    """Read the finished demo study of equal slices at several sizes that ships with slicescope."""
    return load_run(BUNDLED_WIDTHS)


def bundled_dial() -> Run:
    """Read the finished demo study of one prompt at five sizes that ships with slicescope."""
    return load_run(BUNDLED_DIAL)


def costs_inside(run: Run) -> tuple[UnitCosts, ModelShape] | None:
    """What the parts inside the blocks of a run's model cost, and its shape; ``None`` where nothing tells.

    For the demo comparisons that ship, the profile of the same windows that ships beside them tells.
    """
    result = run.result
    if result.kind != "profile" and _is_shipped_comparison(run):
        result = bundled_units().result
    if result.kind != "profile" or result.units is None or result.shape is None:
        return None
    return result.units, result.shape


def find_details(run: Run) -> Details | None:
    """Read what the run's profile looks like from near, or ``None`` for a run that did not keep it.

    The demo comparisons that ship were profiled on the same windows and share one file.
    Raises ``StorageError`` where that is damaged, or of another profile.
    """
    stored = runs_folder() / run.key / DETAILS_FILE
    bundled = BUNDLED_RUN / DETAILS_FILE
    for path in (stored, *([bundled] if _is_shipped_comparison(run) else [])):
        if path.is_file():
            found = Details.load(path)
            require_fitting(found, run, f"'{path}'")
            return found
    return None


def _is_shipped_comparison(run: Run) -> bool:
    return run.key in (shipped().key for shipped in COMPARISONS.values())


# Writing


def store_run(request: Request, make: Callable[[Path], Run]) -> Run:
    """Store the run that ``make`` makes of the request, whole or not at all.

    ``make`` may write files into the folder that it gets. An earlier run of the request is replaced; its key
    and its note stay. Raises ``StorageError`` before ``make`` is called when the folder cannot be written.
    """
    place = folder_of(request)
    with whole_folder(place, replace=True) as draft:
        run = make(draft)
        if _KEY.fullmatch(place.name):
            run = run.named(place.name)
        write_run(run, draft)
        if (note := place / NOTE_FILE).is_file():
            shutil.copy2(note, draft)
    clear_profiles()
    return run.named(place.name)


def keep_run(run: Run) -> None:
    """Store a run that was made elsewhere, in place of one of the same request."""
    store_run(run.request, lambda _: run)


def write_run(run: Run, folder: Path) -> None:
    """Write the files of a run into a folder that is to be stored. Equal profiles share one file."""
    plain = run.model_dump(mode="json")
    profile = plain["result"]["profile"]
    plain["result"]["profile"] = digest = key_of(profile)
    (folder / RUN_FILE).write_text(json.dumps(plain, indent=1, allow_nan=False), encoding="utf-8")
    shared = runs_folder() / _PROFILES / f"{digest}.json"
    if _holds(shared, digest):
        with suppress(OSError):  # this disk knows no links
            os.link(shared, folder / PROFILE_FILE)
            return
    (folder / PROFILE_FILE).write_text(json.dumps(profile, allow_nan=False), encoding="utf-8")
    with suppress(OSError):
        shared.parent.mkdir(parents=True, exist_ok=True)
        shared.unlink(missing_ok=True)  # where it is damaged
        os.link(folder / PROFILE_FILE, shared)


def copy_model(run: Run, output: Path) -> None:
    """Copy the model that a run keeps to a new folder, whole or not at all (``StorageError``)."""
    model = runs_folder() / run.key / MODEL_FOLDER
    require_space(output, sum(file.stat().st_size for file in model.rglob("*") if file.is_file()))
    with whole_folder(output) as draft:
        shutil.copytree(model, draft, dirs_exist_ok=True)


def clear_profiles() -> None:
    """Delete the shared profiles that no run, stored or in the trash, links to any more."""
    for path in (runs_folder() / _PROFILES).glob("*.json"):
        with suppress(OSError):
            if path.stat().st_nlink == 1:
                path.unlink()


# Folders


def _stored(name: str) -> Run:
    """Read the run in the folder of this name, which is its key from then on."""
    return load_run(runs_folder() / name).named(name)


def _readable(name: str) -> Run | None:
    try:
        return _stored(name)
    except StorageError:
        return None


@lru_cache(maxsize=512)
def _cached_run(folder: Path, stamp: Stamp) -> Run:
    path = folder / RUN_FILE
    with storage_errors(path):
        content = path.read_bytes()
    return parse_run(content, f"'{path}'", lambda digest: _profile(folder, digest))


def parse_run(content: bytes, origin: str, profile: Callable[[str], LayerProfile]) -> Run:
    """Read the JSON of a run; ``profile`` is asked for the layer profile where only its name is given.

    Raises ``StorageError`` for what is no run, and for what no run says.
    """
    try:
        plain: Any = json.loads(content)
        named = plain["result"]["profile"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return Run.from_json(content, origin)  # which says what is wrong
    if isinstance(named, str):
        plain["result"]["profile"] = profile(named)
    run = Run.from_plain(plain, origin)
    require_sound(run, origin)
    return run


def _profile(folder: Path, digest: str) -> LayerProfile:
    if not _KEY.fullmatch(digest):
        raise StorageError(
            f"'{folder / RUN_FILE}' names the profile '{digest[:40]}', but names have 12 hexadecimal digits: "
            "restore the file from a copy."
        )
    if digest in _profiles:
        return _profiles[digest]
    own, shared = folder / PROFILE_FILE, runs_folder() / _PROFILES / f"{digest}.json"
    path = shared if _holds(shared, digest) and not _holds(own, digest) else own
    with storage_errors(path):
        content = path.read_bytes()
    found = LayerProfile.from_json(content, f"'{path}'")
    if len(_profiles) >= _PROFILES_KEPT:
        _profiles.clear()
    _profiles[digest] = found
    return found


def _holds(path: Path, digest: str) -> bool:
    """Whether a file is the profile of this name, undamaged."""
    try:
        return key_of(json.loads(path.read_bytes())) == digest
    except (OSError, ValueError, RecursionError):
        return False


def summary_of(name: str, stamp: Stamp) -> Summary:
    """Open a stored run and say of it what the index holds (``StorageError`` where it cannot be read)."""
    run = _stored(name)
    return Summary(
        name=run.key,
        kind=run.request.kind,
        model=run.request.model.label,
        created=run.created,
        seconds=run.seconds,
        request_key=run.request.key,
        stamp=stamp,
    )
