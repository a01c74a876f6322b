"""The main job on a real GPU: ratios to one forward pass, memory, and whether numbers are those of the CPU.

``sh tests/gpu_acceptance.sh`` runs it. What is over budget of time is skipped, and said to be.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from counting import MODELS, Model

from analysis.anatomy import decoder
from analysis.bases import find_bases
from analysis.batches import batches_of, tokens_at_a_time
from analysis.details import DetailsCollector
from analysis.device import PeakMemory, free_memory, synchronise, widen
from analysis.errors import SlicescopeError
from analysis.evaluate import perplexity
from analysis.products import in_halves, product
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.speed import Speed, compare_speed
from analysis.subspace import leading_subspace
from slicing.guard import refuse_unless_invariant
from slicing.memory import slicing_need
from slicing.schedule import SlicingSchedule
from slicing.slicer import SlicedModel, recut, slice_model
from slicing.store import open_model

SECONDS = 8 * 60
GOALS = {"profile": 1.05, "slicing": 1.6, "bases": 2.0, "evaluation": 1.2}
"""The most that a job may take, over one forward pass without the head."""
SMALLER = Model(width=2048, inner=8192, blocks=16, vocabulary=128256, heads=32)
"""Llama-3.2-1B."""
TINY = Model(width=64, inner=128, blocks=3, vocabulary=300, heads=4, key_value_heads=2)
NEEDED = 42e9
"""Bytes of a card that slices eight billion parameters beside the dense model."""


@dataclass
class Checks:
    """What was measured, and how it ended."""

    device: torch.device
    judged: bool
    """Whether times count: on a CPU they do not."""
    start: float = field(default_factory=time.perf_counter)
    failed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def say(self, line: str) -> None:
        """Print a line."""
        sys.stdout.write(line + "\n")

    def judge(self, what: str, passed: bool, told: str) -> None:
        """Print whether something is as it should be."""
        self.failed += not passed
        self.say(f"{'PASS' if passed else 'FAIL'} {what}: {told}")

    def timed(self, name: str, work: Callable[[], Any], share: float = 1.0) -> Any:
        """Do a job and print what it took; ``None`` where it fails, or ``share`` of the time is over."""
        if time.perf_counter() - self.start > share * SECONDS:
            self.say(f"SKIP {name}: {share * SECONDS / 60:.0f} minutes are over")
            return None
        free_memory()
        synchronise(self.device)
        begun = time.perf_counter()
        try:
            with PeakMemory(self.device) as peak:
                found = work()
                synchronise(self.device)
        except (SlicescopeError, RuntimeError) as error:
            self.judge(name, False, f"{type(error).__name__}: {error}")
            return None
        self.seconds[name], self.peaks[name] = time.perf_counter() - begun, peak.bytes
        self.say(f"     {name}: {self.seconds[name]:.2f} s, peak {peak.bytes / 1e9:.2f} GB")
        return found

    def ratio(self, job: str) -> None:
        """Hold the seconds of a job against its goal."""
        if job not in self.seconds or "forward" not in self.seconds:
            return
        ratio = self.seconds[job] / self.seconds["forward"]
        told = f"{ratio:.2f}x a forward pass, at most {GOALS[job]:.2f}x"
        if self.judged:
            self.judge(job, ratio <= GOALS[job], told)
        else:
            self.say(f"     {job}: {told} (not judged on a CPU)")


def random_model(shape: Model, device: torch.device) -> Any:
    """Make a model with random weights where it is to lie."""
    with torch.device(device):
        model = shape.on(shape.blocks)
    for parameter in model.parameters():
        parameter.normal_(std=0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    return model


@torch.inference_mode()
def forward(model: Any, windows: torch.Tensor) -> None:
    """Pass the windows without the head."""
    for batch in batches_of(windows, model.device):
        decoder(model)(batch.to(model.device), use_cache=False)


def main_job(checks: Checks, shape: Model, count: int, length: int) -> None:
    """Profile, find bases, slice, preview, evaluate and time a model with random weights."""
    model = random_model(shape, checks.device)
    made = torch.Generator().manual_seed(0)
    windows = torch.randint(3, shape.vocabulary, (count, length), generator=made)
    schedule = SlicingSchedule(
        hidden_size=shape.width,
        widths=(shape.width * 3 // 4,) * shape.blocks + (shape.width,),
        embedding="untied",
    )
    checks.timed("first forward", lambda: forward(model, windows[:1]))  # libraries take their buffers
    checks.timed("forward", lambda: forward(model, windows))
    details = DetailsCollector(model, windows, cloud=True)
    checks.timed(
        "profile", lambda: profile_blocks(model, windows, model_label="", text_label="", details=details)
    )
    checks.ratio("profile")
    checks.timed("evaluation", lambda: perplexity(model, windows))
    checks.ratio("evaluation")
    checks.timed("guard", lambda: refuse_unless_invariant(model))
    subspace_job(checks, max(shape.width, 96))
    halves_job(checks, shape.width)
    sliced = checks.timed("slicing", lambda: slice_model(model, schedule, windows), share=0.4)
    checks.ratio("slicing")
    if sliced:
        judge_sliced(checks, model, sliced, windows)
    del sliced
    found = checks.timed("bases", lambda: find_bases(model, windows), share=0.6)
    checks.ratio("bases")
    if found:
        checks.timed("preview", lambda: recut(model, schedule, found))


def subspace_job(checks: Checks, width: int) -> None:
    """Hold the leading subspace by products against that of the eigenvectors."""
    made = torch.Generator().manual_seed(0)
    states = torch.randn(2 * width, width, generator=made) * torch.logspace(0, -2, width)
    states[0] *= 1e4  # a massive token
    moment = widen(states, checks.device)
    moment = moment.T @ moment
    kept = width * 3 // 4
    exact = checks.timed("eigenvectors", lambda: torch.linalg.eigh(moment))
    found = checks.timed("leading subspace", lambda: leading_subspace(moment, kept))
    if exact is None or found is None:
        checks.judge("leading subspace", False, "none was found")
        return
    missed = float(exact[0][:-kept].sum() / exact[0].sum())
    took = checks.seconds["leading subspace"] / checks.seconds["eigenvectors"]
    told = f"it misses {found[1] / missed - 1:+.1e} more than eigenvectors, in {took:.2f}x their time"
    checks.judge("leading subspace", abs(found[1] / missed - 1) < 1e-2, told)


def halves_job(checks: Checks, width: int) -> None:
    """Hold products by bf16 halves, which cards for data centres make, against plain ones and fp64."""
    if not in_halves(checks.device):
        checks.say("     products in halves: not on this kind of device")
        return
    made = torch.Generator().manual_seed(0)
    first, second = (torch.randn(width, width, generator=made).to(checks.device) for _ in range(2))
    first @ second  # libraries take their buffers
    plain = checks.timed("products in fp32", lambda: [first @ second for _ in range(20)])
    found = checks.timed("products in halves", lambda: [product(first, second) for _ in range(20)])
    if plain is None or found is None:
        return
    size = first.norm(dim=1)[:, None] * second.norm(dim=0)
    error = float(((found[0] - widen(first) @ widen(second)) / size).abs().max())
    took = checks.seconds["products in halves"] / checks.seconds["products in fp32"]
    checks.judge("error of halves", error < 2**-17, f"{error:.1e} of the lengths of row and column")
    checks.judge("time of halves", took < 0.5, f"{took:.2f}x that in fp32")


def judge_sliced(checks: Checks, model: Any, sliced: SlicedModel, windows: torch.Tensor) -> None:
    """Judge what was sliced: its memory, its loss, and its speed beside the dense model."""
    batch = tokens_at_a_time(windows, checks.device)
    shape, size = read_shape(model), model.dtype.itemsize
    need = slicing_need(shape, sliced.schedule, windows.numel(), batch, size)
    if checks.judged:
        share = need.total / checks.peaks["slicing"]
        checks.judge("memory formula", 1 / 1.5 < share < 1.5, f"{need}, {share:.2f} of what was taken")
    value = checks.timed("evaluation, sliced", lambda: perplexity(sliced.model, windows[:4]))
    finite = value is not None and math.isfinite(value.perplexity)
    checks.judge("sliced model", finite, f"perplexity {value.perplexity:.1f}" if value else "none")
    speed: Speed | None = checks.timed(
        "speed", lambda: compare_speed("dense", model, sliced.model, windows, 3), share=0.6
    )
    if speed:
        for batch, each in ((1, speed), *(((many.batch, many),) if (many := speed.at_once) else ())):
            checks.say(
                f"     batch {batch}: prompt {each.prompt.median:.2f}x, "
                f"generation {each.generation.median:.2f}x as fast as dense"
            )
        checks.say(f"     {speed.protocol}")


def demo_job(checks: Checks) -> None:
    """Hold the demo model, dense and sliced, on the device against the CPU."""
    kinds = {"cpu float32": 0.0, f"{checks.device.type} float32": 0.001}
    kinds |= (
        {f"{checks.device.type} {kind}": 0.01 for kind in ("bfloat16", "float16")} if checks.judged else {}
    )
    expected: dict[str, float] = {}
    for kind, apart in kinds.items():
        device, dtype = kind.split()
        values = checks.timed(
            f"demo model, {kind}", lambda device=device, dtype=dtype: demo_values(device, dtype), 0.85
        )
        for name, value in (values or {}).items():
            known = expected.setdefault(name, value)
            off = abs(value / known - 1)
            checks.judge(
                f"demo model, {name}, {kind}",
                off <= apart,
                f"{value:.3f}, {off:.2%} off the CPU, at most {apart:.1%}",
            )


def demo_values(device: str, dtype: str) -> dict[str, float]:
    """The perplexities of the demo model, dense and a quarter sliced."""
    opened = open_model(ModelSource(kind="demo", device=device, dtype=dtype))
    calibration, evaluation = (
        token_windows(TextSource.parse("demo", kind), opened.tokenizer, 512, 4)
        for kind in ("calibration", "evaluation")
    )
    shape = read_shape(opened.model)
    widths = (shape.hidden_size * 3 // 4,) * shape.block_count + (shape.hidden_size,)
    schedule = SlicingSchedule(hidden_size=shape.hidden_size, widths=widths, embedding="shared")
    sliced = slice_model(opened.model, schedule, calibration).model
    return {
        "dense": perplexity(opened.model, evaluation).perplexity,
        "sliced": perplexity(sliced, evaluation).perplexity,
    }


def main() -> int:
    """Run all of it; the exit status is 1 where something failed."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--cpu-tiny", action="store_true", help="a tiny model on the CPU; no time is judged")
    tiny = asked.parse_args().cpu_tiny
    if not tiny and not torch.cuda.is_available():
        sys.stdout.write("FAIL there is no CUDA device here: run it with --cpu-tiny\n")
        return 1
    checks = Checks(torch.device("cpu" if tiny else "cuda:0"), judged=not tiny)
    if tiny:
        main_job(checks, TINY, 4, 64)
    else:
        properties = torch.cuda.get_device_properties(0)
        large = properties.total_memory >= NEEDED
        checks.say(
            f"     {properties.name}, {properties.total_memory / 1e9:.0f} GB, torch {torch.__version__}"
        )
        demo_job(checks)
        main_job(checks, MODELS["Llama-3-8B"] if large else SMALLER, 32, 2048)
    taken = time.perf_counter() - checks.start
    checks.judge("time", taken <= SECONDS, f"{taken:.0f} s, at most {SECONDS} s")
    checks.say(f"{checks.failed} failed")
    return min(1, checks.failed)


if __name__ == "__main__":
    raise SystemExit(main())
