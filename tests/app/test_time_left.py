"""How long a job still takes, on a clock that the test turns: near the truth, and never counting up."""

from __future__ import annotations

import random

import pytest

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from app import wording
from app.job import Job
from app.time_left import TimeLeft
from app.wording.numbers import time_left
from slicing.studies.requests import ProfileRequest


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Phases of steps that take as long as a test says; somebody looks every second."""

    def __init__(self, *weights: float) -> None:
        self.clock = Clock()
        self.left = TimeLeft(weights, self.clock)
        self.looks: list[tuple[float, float | None, bool]] = []

    def run(self, place: int, steps: list[float], phase: str = "Working") -> None:
        self.left.advance(place, phase, 0, len(steps))
        for done, seconds in enumerate(steps, 1):
            self.wait(seconds)
            self.left.advance(place, phase, done, len(steps))

    def wait(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now + 1.0 <= end:
            self.clock.now += 1.0
            self.looks.append((self.clock.now, self.left.seconds(), self.left.late))
        self.clock.now = end

    @property
    def said(self) -> list[float]:
        return [seconds for _, seconds, _ in self.looks if seconds is not None]

    def errors(self, after: float) -> list[float]:
        """How far what was said was from the truth, of the truth, from this time on."""
        end = self.clock.now
        return [
            abs(seconds - (end - now)) / max(end - now, 10.0)
            for now, seconds, _ in self.looks
            if seconds is not None and now > after
        ]


def test_a_steady_job_is_told_right() -> None:
    work = Work(0.0, 10.0, 30.0)
    work.run(0, [2.0], "Opening")
    work.run(1, [5.0] * 10, "Profiling")
    work.run(2, [15.0] * 10, "Slicing")
    assert work.said == sorted(work.said, reverse=True)
    assert max(work.errors(after=12.0)) < 0.15
    assert work.looks[0][1] is None  # opening a model says nothing of how long it takes to work with it


def test_it_counts_down_while_a_step_tells_nothing() -> None:
    """The share of the job stood still for two minutes here, and the time left grew from 0 s to 2 min."""
    work = Work(100.0, 1.0)
    work.run(0, [1.0] * 100, "Profiling")
    before = work.left.seconds()
    work.left.advance(1, "Finding bases", 0, 1)
    work.wait(120.0)
    assert before is not None and before < 5.0
    assert work.said == sorted(work.said, reverse=True)
    assert {time_left(seconds) for seconds in work.said[-100:]} == {"less than a minute left"}
    between = Work(1.0)
    between.run(0, [60.0] * 10, "Trials")
    assert between.said == sorted(between.said, reverse=True)
    assert all(one > two for (now, one, _), (_, two, _) in zip(between.looks, between.looks[1:], strict=False)
               if one is not None and two is not None and now % 60 not in (0, 59))  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_it_never_counts_up_whatever_happens(seed: int) -> None:
    draw = random.Random(seed)
    weights = [draw.choice([0.0, 1.0, 10.0, 100.0]) for _ in range(6)]
    work = Work(*weights)
    for place in range(6):
        for part in range(draw.randint(1, 3)):
            steps = [draw.choice([0.01, 1.0, 7.0, 90.0]) for _ in range(draw.randint(1, 12))]
            work.run(place, steps, f"Part {part}")
    assert work.said == sorted(work.said, reverse=True)


def test_a_job_that_slows_down_is_late_and_says_so() -> None:
    work = Work(1.0)
    work.run(0, [1.0] * 50 + [20.0] * 50)
    assert work.said == sorted(work.said, reverse=True)
    assert any(late for _, _, late in work.looks)
    assert not work.looks[-1][2]  # near the end what was said is right again
    assert time_left(10.0, late=True) == "longer than expected"


def test_trials_that_were_stored_say_nothing_of_the_pace() -> None:
    work = Work(1.0)
    work.run(0, [0.01] * 20 + [30.0] * 10, "Trials")
    assert max(work.errors(after=31.0)) < 0.15
    assert not any(late for _, _, late in work.looks)


def test_a_phase_that_is_heard_of_late_began_with_the_end_of_the_one_before() -> None:
    work = Work(1.0)
    work.left.advance(0, "Opening", 1, 1)
    for done in range(1, 6):
        work.wait(10.0)
        work.left.advance(0, "Evaluating", done, 10)
    assert work.left.seconds() == pytest.approx(50.0)


def test_bytes_that_come_many_at_a_time_have_a_pace() -> None:
    clock = Clock()
    left = TimeLeft([1.0], clock)
    left.advance(0, "Fetching", 0, 2**23)
    for chunk in range(1, 6):
        clock.now += 1.0
        left.advance(0, "Fetching", chunk * 2**18, 2**23)
    clock.now += 0.4  # the next ones are on their way
    seconds = left.seconds()
    assert seconds == pytest.approx(26.6, abs=1.0)


def test_bytes_that_were_there_before_are_not_taken_for_a_pace() -> None:
    work = Work(1.0)
    for come in range(11):
        work.left.advance(0, "Fetching", 500 + 10 * come, 1000)
        work.clock.now += 1.0
    work.clock.now -= 1.0
    assert work.left.seconds() == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (0.0, "less than a minute left"),
        (59.0, "less than a minute left"),
        (60.0, "about 1 min left"),
        (61.0, "about 2 min left"),
        (3600.0, "about 60 min left"),
        (9000.0, "about 2.5 h left"),
    ],
)
def test_the_words_are_no_finer_than_can_be_known(seconds: float | None, said: str) -> None:
    assert time_left(seconds) == said


def test_words_of_less_time_never_name_more() -> None:
    named = [time_left(float(seconds)) for seconds in range(20_000, -1, -7)]
    minutes = [60 * float(said.split()[1]) if " h " in said else float(said.split()[1])
               for said in named if "about" in said]  # fmt: skip
    assert minutes == sorted(minutes, reverse=True)


def test_the_share_of_a_job_never_goes_back_and_is_told() -> None:
    text = TextSource(kind="demo", split="calibration")
    asked = ProfileRequest(model=ModelSource(kind="demo"), text=text, windows=4, bases=True)
    job, shares = Job(1, asked, "", state="running"), []
    for phase, done, total in (
        *(("Opening", 0, 1), ("Opening", 1, 1), ("Profiling", 2, 4), ("Profiling", 4, 4)),
        *(("A part that is not named", 1, 10), ("Finding bases", 0, 1), ("Finding bases", 1, 1)),
    ):
        job.advance(phase, done, total)
        shares.append(job.share)
    assert shares == sorted(shares) and shares[-1] == 1.0
    job.advance("Profiling", 1, 4)
    assert "100\N{NO-BREAK SPACE}%" in wording.progress(job, 0)
