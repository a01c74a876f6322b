"""How far work is, on standard error: lines in a log, nothing with --quiet, more with --verbose."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from analysis.sources.hub import FETCHING
from app.cli import main, progress
from app.cli.progress import EVERY, Lines
from app.cli.terminal import loudness
from slicing.studies.store import bundled_run


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(lines: list[str]) -> list[str]:
    """The lines without the time of day in front of them."""
    return [line.split(" ", 1)[1] for line in lines]


def test_a_phase_is_a_line_and_then_one_every_thirty_seconds(clock):
    written: list[str] = []
    lines = Lines(written.append, clock=clock)
    for window in range(101):
        lines.tell("Evaluating", window, 100)
        clock.now += 1.0
    assert told(written) == [
        "Evaluating: 0 of 100, 0%",
        "Evaluating: 30 of 100, 30%, about 70 s left",
        "Evaluating: 60 of 100, 60%, about 40 s left",
        "Evaluating: 90 of 100, 90%, about 10 s left",
    ]


def test_phases_that_take_turns_do_not_flood_a_log(clock):
    written: list[str] = []
    lines = Lines(written.append, clock=clock)
    for trial in range(50):
        lines.tell("Slicing", trial, 50)
        lines.tell("Judging", trial, 50)
    assert told(written) == ["Slicing: 0 of 50, 0%", "Judging: 0 of 50, 0%"]


def test_one_long_step_is_not_silent(clock):
    written: list[str] = []
    lines = Lines(written.append, clock=clock)
    lines.tell("Opening", 0, 1)
    for _ in range(100):
        clock.now += 1.0
        lines.tick()
    assert told(written) == ["Opening", "Opening: for 30 s", "Opening: for 60 s", "Opening: for 2 min"]


def test_a_log_tells_how_far_the_whole_job_is(clock, monkeypatch):
    job = progress._job_of(bundled_run().request)
    monkeypatch.setattr("time.monotonic", clock)
    written: list[str] = []
    lines = Lines(written.append, job, clock)
    phases = [name for name, work in job.task.phases() if work]
    for phase in phases[:2]:
        for done in range(11):
            lines.tell(phase, done, 10)
            clock.now += EVERY
    assert "; all of it: " in written[-1] and written[-1].endswith(" left")


def test_a_log_says_when_a_job_takes_longer_than_was_said(clock, monkeypatch):
    job = progress._job_of(bundled_run().request)
    monkeypatch.setattr("time.monotonic", clock)
    written: list[str] = []
    lines = Lines(written.append, job, clock)
    (first, *later) = [name for name, work in job.task.phases() if work]
    for done in range(11):
        lines.tell(first, done, 10)
        clock.now += 1.0
    for phase in later:
        lines.tell(phase, 0, 10)
        for done in range(1, 11):
            clock.now += 100 * EVERY
            lines.tell(phase, done, 10)
    assert any(line.endswith(", longer than expected") for line in written)


def test_fetching_is_told_in_bytes(clock):
    written: list[str] = []
    lines = Lines(written.append, clock=clock)
    lines.tell(FETCHING, 0, 1)
    clock.now += EVERY
    lines.tell(FETCHING, 2**29, 2**30)
    assert told(written)[-1].replace("\N{NO-BREAK SPACE}", " ") == (
        "Fetching: 512 MiB of 1.00 GiB, 50%, about 30 s left"
    )


def test_bars_tell_the_time_left(monkeypatch):
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "err", terminal)
    with progress.progress_bars(bundled_run().request) as listen:
        listen("Profile", 3, 8)
    assert progress.ALL in shown.getvalue() and " left" in shown.getvalue()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["slicescope", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_commands_tell_a_log_their_phases_and_nothing_when_they_are_quiet(
    monkeypatch, tiny_folder, tmp_path, capsys
):
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged, that a tensor must want a basis. " * 20)
    asked = ["profile", "--model", tiny_folder, "--text", text, "--windows", 2, "--window-length", 16]
    assert run(monkeypatch, *asked) == 0
    said = capsys.readouterr()
    assert "Opening" in said.err and "━" not in said.err
    assert run(monkeypatch, "--quiet", *asked) == 0
    assert capsys.readouterr() == (said.out, "")


def test_verbose_says_where_an_error_arose(monkeypatch, capsys):
    assert run(monkeypatch, "runs", "show", "no-such-key") == 6
    assert "Traceback" not in capsys.readouterr().err
    assert run(monkeypatch, "-v", "runs", "show", "no-such-key") == 6
    said = capsys.readouterr().err
    assert "Traceback" in said and "find_run" in said and said.count("fits no run") == 2
    assert run(monkeypatch, "runs") == 0 and not loudness.verbose
