"""The contract of ``slicescope compare``: the JSON that slicescope 0.1 wrote, key by key."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from slicing.studies import earlier
from slicing.studies.results import Run
from slicing.studies.store import list_runs
from slicing.studies.study import Study

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/compare-0.1.0.json").read_text())
"""As commit bd1a211 wrote it of the tiny model and the texts below, without times, memory and versions."""
TEXT = "It is a truth universally acknowledged, that a tensor in possession of many rows must want a basis. "
ASKED = shlex.split(
    "compare --model tiny --calibration calibration.txt --evaluation evaluation.txt --calibration-windows 3 "
    "--evaluation-windows 8 --window-length 32 --new-tokens 3 --seed 3 --rounding 1 --embedding shared "
    "--speed-rounds 0 --json result.json"
)
VARIES = {
    *("key", "seconds", "tokens_per_second", "evaluation_seconds", "evaluation_peak_memory"),
    *("slicing_seconds", "slicing_peak_memory", "deciding_seconds", "platform", "device_name", "versions"),
    "kept",  # where a repair gains nothing or loses nothing, rounding decides
}
"""What another run, or another machine, says otherwise: it has to be there."""


@pytest.fixture
def folder(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the model and the texts that the golden data were recorded with."""
    place = tiny_folder.parent
    (place / "calibration.txt").write_text(TEXT * 20)
    (place / "evaluation.txt").write_text(TEXT[::-1] * 20)
    monkeypatch.chdir(place)
    return place


def compared(monkeypatch: pytest.MonkeyPatch, folder: Path, flags: list[str]) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["slicescope", *ASKED, *flags])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    text = (folder / "result.json").read_text()
    return json.loads(text.replace(f"{folder}/", ""))


def differences(then: Any, now: Any, where: str = "") -> list[str]:
    """What is not as it was, each with its place."""
    name = where.rpartition(".")[2]
    if type(then) is not type(now) and name not in VARIES:
        return [f"{where}: {then!r} is {now!r}"]
    if name in VARIES:
        return [] if (then is None) == (now is None) else [f"{where}: {then!r} is {now!r}"]
    if isinstance(then, dict):
        if list(then) != list(now):
            return [f"{where}: {list(then)} are {list(now)}"]
        return [fault for key in then for fault in differences(then[key], now[key], f"{where}.{key}")]
    if isinstance(then, list):
        if len(then) != len(now):
            return [f"{where}: {len(then)} are {len(now)}"]
        pairs = enumerate(zip(then, now, strict=True))
        return [fault for place, pair in pairs for fault in differences(*pair, f"{where}[{place}]")]
    # Processors with other instructions round otherwise.
    same = now == pytest.approx(then, rel=1e-4, abs=1e-4) if isinstance(then, float) else now == then
    return [] if same else [f"{where}: {then!r} is {now!r}"]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "timed"])
def test_the_json_of_compare_is_what_it_was(monkeypatch, folder, name):
    then = GOLDEN[name]
    assert differences(then["json"], compared(monkeypatch, folder, then["flags"])) == []


def test_timing_and_the_lens_are_asked_for_and_told_as_before(monkeypatch, folder):
    then = GOLDEN["timed"]
    now = compared(monkeypatch, folder, then["flags"])
    assert differences(then["json"]["recipe"], now["recipe"]) == []
    for before, each in zip(then["json"]["speed"], now["evaluations"], strict=True):
        told = each["speed"]
        assert before == (told and {k: sorted(v) if isinstance(v, dict) else v for k, v in told.items()})


def test_noise_is_told_where_it_was_asked_for_and_all_else_is_as_before(monkeypatch, folder, capsys):
    then = GOLDEN[(name := next(each for each in GOLDEN if each != "timed"))]["json"]
    now = compared(monkeypatch, folder, [*GOLDEN[name]["flags"], "--jitter", "2"])
    noises = [each.pop("noise") for each in now["differences"]]
    assert noises[2] > 0  # of constant and planned
    assert now["recipe"].pop("jitter") == 2
    for each in (*then["differences"], *now["differences"]):
        each.pop("verdict")  # which counts the noise
    assert differences(then, now) == []
    (run,) = [each for each in list_runs()[0] if each.request.kind == "study"]
    assert (run.request.jitter, run.key) == (2, now["key"])  # type: ignore[union-attr]
    assert earlier.read_request({**now["recipe"], "jitter": 2})["jitter"] == 2


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_written_is_read_as_the_study_that_was_asked_for(monkeypatch, folder, name):
    """The old form of a recipe, which scripts keep, still says the same request."""

    def stop(request: Study, *_: Any, **__: Any) -> Run:
        raise Asked(request)

    monkeypatch.setattr("slicing.studies.run.perform", stop)
    monkeypatch.setattr(sys, "argv", ["slicescope", *ASKED, *GOLDEN[name]["flags"]])
    with pytest.raises(Asked) as asked:
        main()
    old = json.loads(json.dumps(GOLDEN[name]["json"]["recipe"]))
    for each in ("model", "calibration", "evaluation"):
        old[each]["location"] = str(folder / old[each]["location"])
    assert Study.model_validate(earlier.read_request(old)) == asked.value.args[0]
    assert list_runs() == ([], [])


class Asked(Exception):
    """The request that a command would have carried out."""
