"""Runs from elsewhere: what no run says is refused at the door, and in the store it hides no other run."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_stand_in import board_run
from contest_stand_in import contest_run

from analysis.details import Details
from analysis.errors import PlanError, StorageError
from analysis.scores import SCORES
from slicing.library import bring_in
from slicing.studies.results import Run
from slicing.studies.sound import require_sound
from slicing.studies.store import (
    BUNDLED_RUN,
    bundled_board,
    bundled_contest,
    bundled_dial,
    bundled_energy,
    bundled_run,
    bundled_sweep,
    bundled_units,
    bundled_widths,
    list_runs,
    parse_run,
)

MADE: dict[str, Callable[[], Run]] = {
    "compare": bundled_run,
    "sweep": bundled_sweep,
    "contest": contest_run,
    "leaderboard": board_run,
}
PLAIN: dict[str, Any] = {}


def plain(kind: str) -> Any:
    """The JSON of a run of this kind, to be changed."""
    if kind not in PLAIN:
        PLAIN[kind] = json.loads(MADE[kind]().to_json())
    return copy.deepcopy(PLAIN[kind])


def changed(kind: str, path: str, value: Any) -> bytes:
    """A run of this kind in which the field at ``path`` has another value, or is changed by a function."""
    content = place = plain(kind)
    *outer, last = (int(name) if name.lstrip("-").isdigit() else name for name in path.split("/"))
    for name in outer:
        place = place[name]
    place[last] = value(place[last]) if callable(value) else value
    return json.dumps(content).encode()


def profile_request() -> Any:
    text = plain("compare")["request"]["calibration"]
    return {"kind": "profile", "model": {"kind": "demo"}, "text": text}


def shorter(values: list[Any]) -> list[Any]:
    return values[:-1]


SHIPPED = (
    bundled_run,
    bundled_energy,
    bundled_units,
    bundled_sweep,
    bundled_contest,
    bundled_board,
    bundled_widths,
    bundled_dial,
)


@pytest.mark.parametrize("make", [*SHIPPED, *MADE.values()])
def test_good_runs_come_in(make):
    run = make()
    assert bring_in(run.to_json().encode(), "it") == run


@pytest.mark.parametrize(
    ("kind", "path", "value", "part"),
    [
        ("compare", "created", "2026-11-23T11:40:18", "has no time zone"),
        ("compare", "created", "1969-01-01T00:00:00Z", "year is 1969"),
        ("compare", "created", "9999-12-31T23:59:59-12:00", "year is 9999"),
        ("compare", "seconds", math.nan, "finite"),
        ("compare", "seconds", 1e300, "a number is finite"),
        ("compare", "environment/dtype", "float12", "Unknown dtype"),
        ("compare", "environment/threads", 10**30, "18 are the most"),
        ("compare", "request/recipes/1/steps/0/score", "mine", "Unknown score"),
        ("compare", "request/window_length", 0, "must be 2 or more"),
        ("compare", "request/evaluation_windows", -1, "must be 1 or more"),
        ("compare", "request", lambda _: profile_request(), "of the kind 'profile', but the result"),
        ("compare", "result/measurements", [], "got 0, but there must be 3, one for each trial"),
        ("compare", "result/measurements", shorter, "got 2, but there must be 3"),
        ("compare", "result/measurements", lambda all_: [*all_, all_[0]], "got 4, but there must be 3"),
        ("compare", "result/matched", [], "got 0, but there must be 1"),
        ("compare", "result/measurements/0/parameters", 0, "must be 1 or more"),
        ("compare", "result/measurements/1/schedule", None, "a schedule belongs to a model that is sliced"),
        ("compare", "result/measurements/1/schedule/widths", lambda w: w[1:], "is for 29 blocks"),
        ("compare", "result/measurements/0/evaluation/nll", [], "got 0, but there must be 16"),
        ("compare", "result/measurements/2/evaluation/nll", shorter, "got 15, but there must be 16"),
        ("compare", "result/measurements/2/evaluation/nll/0", math.inf, "finite"),
        ("compare", "result/measurements/2/evaluation/nll/0", 1e9, "a loss is larger"),
        ("compare", "result/measurements/0/evaluation/perplexity", 0.0, "a perplexity is 1 or more"),
        ("compare", "result/measurements/0/evaluation/tokens_per_second", 0.0, "must be above 0"),
        ("compare", "result/measurements/1/speed", lambda _: SPEED, "speed.rounds: got 0"),
        ("compare", "result/evaluation/passages", shorter, "passages: got 15, but there must be 16"),
        ("compare", "result/profile/blocks", 29, "got 30, but there must be 29, one value for each block"),
        ("compare", "result/profile/blocks", 0, "profile.blocks: got 0"),
        ("compare", "result/profile/measurements", {}, "'cosine' is missing"),
        ("compare", "result/profile/measurements/cosine/rest", shorter, "one row for each window"),
        ("compare", "result/profile/measurements/cosine/rest/0", shorter, "one value for each block"),
        ("compare", "result/profile/measurements/cosine/rest/0/0", 7.0, "a cosine is from -1 to 1"),
        ("compare", "result/profile/measurements/cosine/first/0/0", math.nan, "finite"),
        ("compare", "result/shape/blocks", shorter, "shape.blocks: got 29, but there must be 30"),
        ("compare", "result/shape/hidden_size", 0, "must be 1 or more"),
        ("sweep", "result/measurements", shorter, "one for each trial"),
        ("sweep", "result/measurements/0/evaluation/nll", shorter, "one loss for each window"),
        ("contest", "request/recipes/1/steps/0/score", "mine", "Unknown score"),
        ("contest", "result/measurements/1/other", None, "a second perplexity belongs"),
        ("leaderboard", "result/measurements/-1/layout", None, "a layout belongs"),
        (
            "leaderboard",
            "result/measurements/0/schedule",
            lambda _: plain("compare")["result"]["measurements"][1]["schedule"],
            "a schedule belongs",
        ),
        ("leaderboard", "result/measurements/3/layout/blocks", 31, "the profile is of 30 blocks"),
        # Names
        ("compare", "request/prompt", "x" * 1_000_001, "1,000,001 characters, but 1,000,000 are the most"),
        ("compare", "result/profile/model", "x" * 4097, "4,097 characters, but 4,096 are the most"),
        ("compare", "result/profile/model", "\x1b[31mred", r"the control character '\\x1b'"),
        ("compare", "result/measurements/0/title", "two\nlines", r"the control character '\\n'"),
        ("compare", "environment/versions", {"torch\x07": "1"}, r"the control character '\\x07'"),
        ("compare", "request/task_folder", "/a\x1b", r"the control character '\\x1b'"),
    ],
)
def test_what_no_run_says_is_refused_in_one_sentence(kind, path, value, part):
    with pytest.raises(StorageError, match=part) as told:
        bring_in(changed(kind, path, value), "'given.json'")
    sentence = str(told.value)
    assert sentence.startswith("'given.json' ")
    assert sentence.endswith("restore it from a copy.")
    assert "\n" not in sentence and "delete" not in sentence
    assert list_runs() == ([], [])


RATIO = {"median": 1.0, "low": 1.0, "high": 1.0}
SPEED = {
    "baseline": "dense",
    "prompt": RATIO,
    "generation": RATIO,
    "prompt_tokens": 1,
    "new_tokens": 1,
    "rounds": 0,
}


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("note", "part"),
    [
        ({"label": "x" * 101}, "The name has 101 characters, but 100 are the most"),
        ({"text": "x" * 10_001}, "The note has 10,001 characters"),
        ({"label": "\x1b[31m"}, "note.label: got the control character"),
        ({"text": "two\nlines\x1b"}, "note.text: got the control character"),
    ],
)
def test_notes_are_read_before_anything_is_stored(note, part):
    content = zipped(run_json=bundled_run().to_json().encode(), note_json=json.dumps(note).encode())
    with pytest.raises(StorageError, match=part):
        bring_in(content, "it")
    assert list_runs() == ([], [])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("change", lambda array: array[:, :, 1:]),
        ("change", lambda array: array[1:]),
        ("growth", lambda array: array[1:]),
        ("similarity", lambda array: array[1:]),
        ("split", lambda array: array[:, :1]),
        ("lens", lambda array: array * np.nan),
        ("tokens", lambda array: array[0]),
    ],
)
def test_details_of_another_profile_are_refused(tmp_path: Path, name: str, change: Any):
    whole = Details.load(BUNDLED_RUN / "profile.safetensors")
    assert whole.fit(30) and not whole.fit(29)
    changed = whole._replace(**{name: np.ascontiguousarray(change(getattr(whole, name)))})
    changed.save(tmp_path / "details")
    content = zipped(
        run_json=bundled_run().to_json().encode(), profile_safetensors=(tmp_path / "details").read_bytes()
    )
    with pytest.raises(StorageError, match="not those of a profile of 30 blocks"):
        bring_in(content, "it")
    assert list_runs() == ([], [])


def test_a_date_of_another_zone_is_told_in_utc():
    run = bring_in(changed("compare", "created", "2026-11-23T11:40:18+05:00"), "it")
    assert f"{run.created:%H:%M}" == "06:40"


def test_what_models_and_texts_say_may_be_anything():
    said = "a page\f break, and \x1b[31m"
    content = json.loads(changed("compare", "result/measurements/0/sample/text", said))
    content["result"]["evaluation"]["passages"][0]["begins"] = said
    content["request"]["prompt"] = said
    run: Any = bring_in(json.dumps(content).encode(), "it")
    assert run.result.measurements[0].sample.text == said


def test_a_score_that_is_added_leaves_earlier_runs_readable(monkeypatch: pytest.MonkeyPatch):
    def changed_since(entering: Any, leaving: Any) -> Any: ...

    added = dataclasses.replace(SCORES["angular"], name="new", measure=changed_since)
    monkeypatch.setitem(SCORES, "new", added)
    content = json.dumps(plain("compare")).encode()
    run = parse_run(content, "a run of before", lambda _: bundled_run().result.profile)
    assert "new" not in run.result.profile.scores()
    require_sound(run, "a run of before")
    with pytest.raises(PlanError, match="profile the model again"):
        run.result.profile.redundancy("new")
