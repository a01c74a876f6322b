"""Recipes and runs: what was asked for, what came out, and the folder that holds both.

A recipe is a value; the same recipe, from the web or the command line, has the same key and gives the
same run. Nothing here knows who asks: progress is a callback.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from analysis.anatomy import read_shape, why_not_sliceable
from analysis.bases import BasesCollector, find_bases
from analysis.device import PeakMemory, Precision, free_memory, pick_device, pick_dtype
from analysis.errors import PlanError, StorageError, UnsupportedError
from analysis.evaluate import (
    Difference,
    Perplexity,
    Sample,
    batch_tokens,
    check_windows,
    continue_text,
    difference,
    perplexity,
    safe_precision,
)
from analysis.profile import LayerProfile, profile_blocks
from analysis.scores import find_score
from analysis.shape import ModelShape
from analysis.source import ModelSource, OpenModel
from analysis.storage import require_space, runs_folder, storage_errors, whole_folder
from analysis.texts import TextSource, token_windows
from analysis.values import Progress, Value, no_progress
from slicing.allocation import Fractions
from slicing.memory import MemoryNeed, slicing_need
from slicing.plan import Plan
from slicing.schedule import SlicingSchedule
from slicing.slicer import SlicedModel, recut, slice_model
from slicing.store import open_model, save_sliced

RUN_FILE = "run.json"
MODEL_FOLDER = "model"
BASES_FILE = "bases.safetensors"
BUNDLED_RUN = Path(__file__).parents[1] / "assets" / "demo-run"
PROMPT = "Mr. Speaker, the state of our Union is"


class ProfileRecipe(Value):
    """Measure how much every block changes its input."""

    kind: Literal["profile"] = "profile"
    model: ModelSource
    text: TextSource
    windows: int = 8
    window_length: int = 512
    seed: int = 0
    bases: bool = False
    """Keep the bases of the stream with the run (of a sliceable model), so that plans can be previewed."""


Method = Literal["faithful", "preview"]
"""How bases are found: on the part that is sliced already, or all in one pass over the dense model."""


class SliceRecipe(Value):
    """Profile, plan, slice and keep the sliced model."""

    kind: Literal["slice"] = "slice"
    model: ModelSource
    plan: Plan = Plan()
    calibration: TextSource
    calibration_windows: int = 16
    profile_windows: int = 8
    """The profile is measured on this many of the calibration windows."""
    window_length: int = 512
    seed: int = 0
    method: Method = "faithful"
    evaluation: TextSource | None = None
    """Text for the perplexities on the model card; ``None`` for a card without."""
    evaluation_windows: int = 8


class CompareRecipe(Value):
    """Dense, constant and planned slicing, evaluated on the same windows."""

    kind: Literal["compare"] = "compare"
    model: ModelSource
    plan: Plan = Plan()
    calibration: TextSource
    calibration_windows: int = 16
    profile_windows: int = 8
    evaluation: TextSource
    evaluation_windows: int = 16
    window_length: int = 512
    seed: int = 0
    prompt: str = PROMPT
    new_tokens: int = 40
    """Length of the generated illustration; 0 for none."""
    method: Method = "faithful"

    @property
    def warning(self) -> str | None:
        """What makes the comparison too rosy, in one sentence, or ``None``."""
        if self.calibration != self.evaluation:
            return None
        return (
            f"Calibration and evaluation are both on '{self.calibration.label()}', which flatters every "
            "sliced model: choose another text or split for one of them."
        )

    def slice_recipe(self) -> SliceRecipe:
        """The recipe that makes and keeps this comparison's planned model."""
        return SliceRecipe(
            model=self.model,
            plan=self.plan,
            calibration=self.calibration,
            calibration_windows=self.calibration_windows,
            profile_windows=self.profile_windows,
            window_length=self.window_length,
            seed=self.seed,
            method=self.method,
            evaluation=self.evaluation,
        )


Recipe = Annotated[ProfileRecipe | SliceRecipe | CompareRecipe, Field(discriminator="kind")]


class TextUsed(Value):
    """The windows a run really saw."""

    label: str
    windows: int
    window_length: int
    digest: str
    """First 16 hex digits of the SHA-256 of the token ids."""


class Environment(Value):
    """Where and with what a run was made."""

    device: str
    device_name: str
    dtype: str
    threads: int
    platform: str
    versions: dict[str, str]


class ProfileResult(Value):
    """What a profile run found."""

    kind: Literal["profile"] = "profile"
    profile: LayerProfile
    shape: ModelShape | None
    """``None`` when the model cannot be sliced."""
    not_sliceable: str | None
    text: TextUsed
    bases: bool = False
    """Whether the run's folder holds the bases of the stream."""


class SliceResult(Value):
    """What a slice run made; the model lies in the run's folder, under ``model``."""

    kind: Literal["slice"] = "slice"
    profile: LayerProfile
    shape: ModelShape
    fractions: Fractions
    schedule: SlicingSchedule
    parameters: int
    discarded: tuple[float, ...]
    seconds: float
    peak_memory: int
    calibration: TextUsed
    dense: Perplexity | None = None
    """Of the dense model, where an evaluation was asked for; the same windows as ``sliced``."""
    sliced: Perplexity | None = None


class Contestant(Value):
    """One model of a comparison: what it is, how large, and how well it predicts."""

    name: str
    """``dense``, ``constant``, ``dynamic`` (or the allocation's name), ``constant-matched``."""
    title: str
    schedule: SlicingSchedule | None
    """``None`` for the dense model."""
    mean_slice: float
    parameters: int
    bytes: int
    flops_per_token: int
    evaluation: Perplexity
    slicing_seconds: float | None
    slicing_peak_memory: int | None
    discarded: tuple[float, ...] | None
    sample: Sample | None

    def summary(self, hidden_size: int, blocks: int) -> dict[str, Any]:
        """The flat form that ``--json`` prints, perplexity and sizes first."""
        widths = self.schedule.widths if self.schedule else (hidden_size,) * (blocks + 1)
        return {
            "name": self.name,
            "title": self.title,
            "perplexity": self.evaluation.perplexity,
            "interval": self.evaluation.interval,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "flops_per_token": self.flops_per_token,
            "mean_slice": self.mean_slice,
            "widths": list(widths),
            "embedding": self.schedule.embedding if self.schedule else None,
            "protocol": self.evaluation.protocol,
            "tokens_per_second": self.evaluation.tokens_per_second,
            "evaluation_seconds": self.evaluation.seconds,
            "evaluation_peak_memory": self.evaluation.peak_memory,
            "slicing_seconds": self.slicing_seconds,
            "slicing_peak_memory": self.slicing_peak_memory,
            "nll": list(self.evaluation.nll),
        }


class CompareResult(Value):
    """What a comparison found."""

    kind: Literal["compare"] = "compare"
    profile: LayerProfile
    shape: ModelShape
    fractions: Fractions
    contestants: tuple[Contestant, ...]
    differences: tuple[Difference, ...]
    calibration: TextUsed
    evaluation: TextUsed

    def contestant(self, name: str) -> Contestant:
        """The contestant of this name."""
        return next(each for each in self.contestants if each.name == name)

    def difference(self, baseline: str, contender: str) -> Difference:
        """The paired difference between two contestants."""
        return next(d for d in self.differences if (d.baseline, d.contender) == (baseline, contender))


Result = Annotated[ProfileResult | SliceResult | CompareResult, Field(discriminator="kind")]


class Run(Value):
    """One recipe and its outcome. The recipe's key names the run and its folder."""

    format: Literal[1] = 1
    recipe: Recipe
    created: datetime
    seconds: float
    environment: Environment
    result: Result

    @property
    def key(self) -> str:
        """The key of the recipe: the same recipe gives the same run."""
        return self.recipe.key


def memory_need(recipe: SliceRecipe | CompareRecipe, shape: ModelShape) -> MemoryNeed:
    """What slicing will take at its peak, told before the job; constant slicing stands for the plan."""
    # On the host dtype auto is float32; on an accelerator it is a 16-bit one.
    device = pick_device(recipe.model.device)
    itemsize = pick_dtype(recipe.model.dtype, device, None).itemsize
    tokens = recipe.calibration_windows * recipe.window_length
    batch = max(batch_tokens(device), recipe.window_length)
    return slicing_need(shape, recipe.plan.constant(shape), tokens, min(batch, tokens), itemsize)


Opener = Callable[[ModelSource], OpenModel]


_START = (("Opening", 0.0), ("Reading text", 0.0))


def phases(recipe: Recipe) -> tuple[tuple[str, float], ...]:
    """The phases of a job in order, each with its share of the work, for a time left that is honest.

    The unit is one token through the decoder; evaluation adds the head, slicing the bases.
    """
    if isinstance(recipe, ProfileRecipe):
        tokens = recipe.windows * recipe.window_length
        return (*_START, ("Profiling", tokens), *((("Finding bases", 800.0),) if recipe.bases else ()))
    profile = ("Profiling", 1.0 * recipe.profile_windows * recipe.window_length)
    slicing = 2.0 * recipe.calibration_windows * recipe.window_length
    steps: list[tuple[str, float]] = [*_START, profile]
    if recipe.method == "preview":
        steps.append(("Finding bases", 1.2 * recipe.calibration_windows * recipe.window_length))
        slicing = 500.0  # the products with the weights; no token passes
    if isinstance(recipe, SliceRecipe):
        steps.append(("Slicing", slicing))
        if recipe.evaluation is not None:
            evaluating = 1.0 * recipe.evaluation_windows * recipe.window_length
            steps += [("Evaluating dense", evaluating), ("Evaluating sliced", evaluating)]
        return (*steps, ("Saving", 0.0))
    evaluating = 1.0 * recipe.evaluation_windows * recipe.window_length
    steps += [("Slicing constant", slicing), ("Evaluating dense", evaluating)]
    steps.append(("Evaluating constant", evaluating))
    for name in (recipe.plan.allocation, "constant-matched"):
        steps += [(f"Slicing {name}", slicing), (f"Evaluating {name}", evaluating)]
    return tuple(steps)


def perform(recipe: Recipe, progress: Progress = no_progress, opener: Opener = open_model) -> Run:
    """Do what the recipe says and store the run, whole or not at all.

    A run of the same recipe is replaced. Raises the errors of what it does, and ``StorageError`` before
    any work when the runs folder cannot be written.
    """
    folder = runs_folder() / recipe.key
    start = time.perf_counter()
    with whole_folder(folder, replace=True) as draft:
        progress("Opening", 0, 1)
        opened = opener(recipe.model)
        progress("Opening", 1, 1)
        if isinstance(recipe, ProfileRecipe):
            result: Any = _profile(recipe, opened, progress, draft)
        elif isinstance(recipe, SliceRecipe):
            result = _slice(recipe, opened, progress, draft / MODEL_FOLDER)
        else:
            result = _compare(recipe, opened, progress)
        run = Run(
            recipe=recipe,
            created=datetime.now(UTC).replace(microsecond=0),
            seconds=time.perf_counter() - start,
            environment=_environment(opened.model),
            result=result,
        )
        (draft / RUN_FILE).write_text(run.to_json(), encoding="utf-8")
    return run


def load_run(folder: Path) -> Run:
    """Read one run folder (``StorageError`` when it is missing or broken)."""
    path = folder / RUN_FILE
    with storage_errors(path):
        content = path.read_bytes()
    return Run.from_json(content, f"'{path}'")


def find_run(key: str) -> Run:
    """The stored run whose key begins with ``key`` (``StorageError`` when there is none, or several)."""
    known = [folder.name for folder in _run_folders()]
    matches = [name for name in known if name.startswith(key)] if key else []
    if len(matches) != 1:
        found = "no run" if not matches else f"{len(matches)} runs"
        raise StorageError(f"The key '{key}' fits {found}: 'slicescope runs' lists the keys.")
    return load_run(runs_folder() / matches[0])


def list_runs() -> tuple[list[Run], list[str]]:
    """All stored runs, newest first, and one sentence for each folder that cannot be read."""
    runs: list[Run] = []
    broken: list[str] = []
    for folder in _run_folders():
        try:
            runs.append(load_run(folder))
        except StorageError as error:
            broken.append(str(error))
    return sorted(runs, key=lambda run: run.created, reverse=True), broken


def bundled_run() -> Run:
    """The finished demo comparison that ships with slicescope, so that there is something to look at."""
    return load_run(BUNDLED_RUN)


def delete_run(key: str) -> None:
    """Delete the folder of exactly this key."""
    folder = runs_folder() / key
    if folder not in _run_folders():
        raise StorageError(f"There is no run '{key}': 'slicescope runs' lists the keys.")
    with storage_errors(folder):
        shutil.rmtree(folder)


def _run_folders() -> list[Path]:
    home = runs_folder()
    with storage_errors(home):
        if not home.is_dir():
            return []
        return sorted(f for f in home.iterdir() if f.is_dir() and not f.name.startswith("."))


def _profile(recipe: ProfileRecipe, opened: OpenModel, progress: Progress, folder: Path) -> ProfileResult:
    reason = why_not_sliceable(opened.model.config)
    progress("Reading text", 0, 1)
    windows = token_windows(recipe.text, opened.tokenizer, recipe.window_length, recipe.windows, recipe.seed)
    progress("Reading text", 1, 1)
    collector = BasesCollector(opened.model) if recipe.bases and not reason else None
    profile = profile_blocks(
        opened.model,
        windows,
        model_label=recipe.model.label,
        text_label=recipe.text.label(),
        progress=progress,
        bases=collector,
    )
    if collector is not None:
        progress("Finding bases", 0, 1)
        bases = collector.bases()
        require_space(folder, bases.bytes)
        bases.save(folder / BASES_FILE)
        progress("Finding bases", 1, 1)
    return ProfileResult(
        profile=profile,
        shape=None if reason else read_shape(opened.model),
        not_sliceable=reason,
        text=_used(recipe.text, windows),
        bases=collector is not None,
    )


class _Bench:
    """What slicing and comparing share: the profile, the plan's schedule, the calibration windows."""

    def __init__(self, recipe: SliceRecipe | CompareRecipe, opened: OpenModel, progress: Progress) -> None:
        if recipe.profile_windows > recipe.calibration_windows or recipe.profile_windows < 1:
            raise PlanError(
                f"The profile is to use {recipe.profile_windows} of the {recipe.calibration_windows} "
                "calibration windows: choose a number from 1 to all of them."
            )
        if reason := why_not_sliceable(opened.model.config):
            raise UnsupportedError(reason)
        self.recipe, self.model, self.progress = recipe, opened.model, progress
        self.shape = read_shape(opened.model)
        self.plan = recipe.plan
        # An impossible plan is told before the work begins.
        find_score(self.plan.score)
        self.plan.constant(self.shape)
        progress("Reading text", 0, 1)
        self.windows = token_windows(
            recipe.calibration,
            opened.tokenizer,
            recipe.window_length,
            recipe.calibration_windows,
            recipe.seed,
        )
        progress("Reading text", 1, 1)

    def measure(self) -> None:
        """Profile the model and make the plan's schedule."""
        self.profile = profile_blocks(
            self.model,
            self.windows[: self.recipe.profile_windows],
            model_label=self.recipe.model.label,
            text_label=self.recipe.calibration.label(),
            progress=self.progress,
        )
        if self.recipe.method == "preview":
            self.bases = find_bases(self.model, self.windows, self.progress)
        redundancy = self.profile.redundancy(self.plan.score, self.plan.first_token)
        self.fractions = self.plan.fractions(redundancy)
        self.schedule = self.plan.schedule(redundancy, self.shape)

    def cut(self, schedule: SlicingSchedule, phase: str) -> _Cut:
        """Slice the model to ``schedule``, with what that took."""
        start = time.perf_counter()
        with PeakMemory(self.model.device) as peak:
            if self.recipe.method == "preview":
                self.progress(phase, 0, 1)
                sliced = recut(self.model, schedule, self.bases)
            else:
                sliced = slice_model(self.model, schedule, self.windows, self.progress, phase)
        return _Cut(sliced, time.perf_counter() - start, peak.bytes)


class _Cut(NamedTuple):
    sliced: SlicedModel
    seconds: float
    peak_memory: int


def _slice(recipe: SliceRecipe, opened: OpenModel, progress: Progress, folder: Path) -> SliceResult:
    bench = _Bench(recipe, opened, progress)
    bench.measure()
    cut = bench.cut(bench.schedule, "Slicing")
    used = _used(recipe.calibration, bench.windows)
    dense = sliced = None
    numbers: tuple[str, ...] = ()
    if recipe.evaluation is not None:
        evaluation = token_windows(
            recipe.evaluation, opened.tokenizer, recipe.window_length, recipe.evaluation_windows
        )
        precision = safe_precision(recipe.model, evaluation, opened.model, cut.sliced.model)
        dense = perplexity(opened.model, evaluation, progress, "Evaluating dense", precision)
        sliced = perplexity(cut.sliced.model, evaluation, progress, "Evaluating sliced", precision)
        numbers = (
            f"Perplexity {sliced.perplexity:.2f}, dense {dense.perplexity:.2f}, on "
            f"{recipe.evaluation.label()}: {sliced.protocol}.",
        )
    progress("Saving", 0, 1)
    save_sliced(
        cut.sliced,
        opened.tokenizer,
        folder,
        made_from=recipe.model.label,
        calibration=f"{used.label}, {used.windows} windows of {used.window_length} tokens",
        numbers=numbers,
    )
    progress("Saving", 1, 1)
    return SliceResult(
        profile=bench.profile,
        shape=bench.shape,
        fractions=bench.fractions,
        schedule=bench.schedule,
        parameters=bench.schedule.parameters(bench.shape),
        discarded=cut.sliced.discarded,
        seconds=cut.seconds,
        peak_memory=cut.peak_memory,
        calibration=used,
        dense=dense,
        sliced=sliced,
    )


def _compare(recipe: CompareRecipe, opened: OpenModel, progress: Progress) -> CompareResult:
    bench = _Bench(recipe, opened, progress)
    evaluation = token_windows(
        recipe.evaluation, opened.tokenizer, recipe.window_length, recipe.evaluation_windows
    )
    check_windows(opened.model, evaluation)
    bench.measure()
    shape = bench.shape

    def judge(name: str, title: str, model: Any, cut: _Cut | None) -> Contestant:
        schedule = cut.sliced.schedule if cut else None
        size = schedule.parameters(shape) if schedule else shape.parameters
        measured = perplexity(model, evaluation, progress, f"Evaluating {name}", precision)
        sample = None
        if recipe.new_tokens:
            sample = continue_text(OpenModel(model, opened.tokenizer), recipe.prompt, recipe.new_tokens)
        return Contestant(
            name=name,
            title=title,
            schedule=schedule,
            mean_slice=schedule.mean_slice if schedule else 0.0,
            parameters=size,
            bytes=size * opened.model.dtype.itemsize,
            flops_per_token=(schedule.flops_per_token(shape) if schedule else shape.flops_per_token),
            evaluation=measured,
            slicing_seconds=cut.seconds if cut else None,
            slicing_peak_memory=cut.peak_memory if cut else None,
            discarded=cut.sliced.discarded if cut else None,
            sample=sample,
        )

    made: dict[SlicingSchedule, Contestant] = {}

    def slice_and_judge(name: str, title: str, schedule: SlicingSchedule) -> Contestant:
        if schedule in made:  # such as SB = SP, which is constant slicing
            return made[schedule].model_copy(update={"name": name, "title": title})
        cut = bench.cut(schedule, f"Slicing {name}")
        made[schedule] = judge(name, title, cut.sliced.model, cut)
        del cut  # before the next one is sliced
        free_memory()
        return made[schedule]

    planned = recipe.plan.allocation
    equal_slice = recipe.plan.constant(shape)
    equal_size = recipe.plan.constant_at_parameters_of(bench.schedule, shape)
    first = bench.cut(equal_slice, "Slicing constant")
    # One precision for all contestants: fast only where it is safe for the dense model and a sliced one.
    precision: Precision = safe_precision(recipe.model, evaluation, opened.model, first.sliced.model)
    dense = judge("dense", "Dense", opened.model, None)
    constant = made[equal_slice] = judge("constant", "Constant", first.sliced.model, first)
    del first
    free_memory()
    dynamic = slice_and_judge(planned, recipe.plan.rule().title, bench.schedule)
    matched = slice_and_judge("constant-matched", "Constant, equal parameters", equal_size)
    everyone = {each.name: each for each in (dense, constant, dynamic, matched)}
    pairs = [("dense", "constant"), ("dense", planned), ("constant", planned), ("constant-matched", planned)]
    return CompareResult(
        profile=bench.profile,
        shape=shape,
        fractions=bench.fractions,
        contestants=tuple(everyone.values()),
        differences=tuple(difference(a, everyone[a].evaluation, b, everyone[b].evaluation) for a, b in pairs),
        calibration=_used(recipe.calibration, bench.windows),
        evaluation=_used(recipe.evaluation, evaluation),
    )


def _used(source: TextSource, windows: Tensor) -> TextUsed:
    digest = hashlib.sha256(windows.numpy().tobytes()).hexdigest()[:16]
    return TextUsed(
        label=source.label(), windows=windows.shape[0], window_length=windows.shape[1], digest=digest
    )


def _environment(model: Any) -> Environment:
    device: torch.device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    packages = ("slicescope", "torch", "transformers", "datasets", "numpy")
    return Environment(
        device=str(device),
        device_name=name or platform.machine(),
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        platform=f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores",
        versions={package: importlib.metadata.version(package) for package in packages},
    )
