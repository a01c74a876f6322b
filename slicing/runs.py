"""Recipes and runs: what was asked for, what came out, and the folder that holds both.

A recipe is a value; the same recipe, from the web or the command line, has the same key and gives the
same run. Nothing here knows who asks: progress is a callback.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from analysis.details import Details
from analysis.errors import PlanError, StorageError
from analysis.evaluate import Difference, Perplexity, Sample
from analysis.profile import LayerProfile
from analysis.shape import ModelShape
from analysis.source import ModelSource
from analysis.speed import Speed
from analysis.storage import clear_abandoned, runs_folder, storage_errors
from analysis.texts import Passage, TextSource
from analysis.values import Value
from slicing.allocation import Fractions
from slicing.plan import Plan
from slicing.schedule import SlicingSchedule

RUN_FILE = "run.json"
MODEL_FOLDER = "model"
BASES_FILE = "bases.safetensors"
DETAILS_FILE = "profile.safetensors"
BUNDLED_RUN = Path(__file__).parents[1] / "assets" / "demo-run"
BUNDLED_SWEEP = BUNDLED_RUN.with_name("demo-sweep")
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


class Calibrated(Value):
    """What every recipe says that slices: which model, and where its profile and its bases come from."""

    model: ModelSource
    calibration: TextSource
    calibration_windows: int = 16
    profile_windows: int = 8
    """The profile is measured on this many of the calibration windows."""
    window_length: int = 512
    seed: int = 0
    method: Method = "faithful"


class Evaluated(Calibrated):
    """And on what perplexity is measured."""

    evaluation: TextSource
    evaluation_windows: int = 16


class SliceRecipe(Calibrated):
    """Profile, plan, slice and keep the sliced model."""

    kind: Literal["slice"] = "slice"
    plan: Plan = Plan()
    evaluation: TextSource | None = None
    """Text for the perplexities on the model card; ``None`` for a card without."""
    evaluation_windows: int = 8


class CompareRecipe(Evaluated):
    """Dense, constant and planned slicing, evaluated on the same windows."""

    kind: Literal["compare"] = "compare"
    plan: Plan = Plan()
    prompt: str = PROMPT
    new_tokens: int = 40
    """Length of the generated illustration; 0 for none."""
    speed_rounds: int = 5
    """Rounds in which each sliced model is timed in turn with the dense one; 0 for none."""

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
        shared = {name: getattr(self, name) for name in Calibrated.model_fields}
        return SliceRecipe(**shared, plan=self.plan, evaluation=self.evaluation)


class TrialRecipe(Evaluated):
    """One model on one evaluation: sliced by a plan, or dense. What sweeps are made of."""

    kind: Literal["trial"] = "trial"
    plan: Plan | None
    """``None`` for the dense model."""


class SweepRecipe(Evaluated):
    """A grid of bases (SB) and targets (SP), each cell a trial, beside constant slicing at every target."""

    kind: Literal["sweep"] = "sweep"
    plan: Plan = Plan()
    """The settings that all cells share; its target and base are passed over."""
    bases: tuple[float, ...] = (0.0, 0.1, 0.2)
    targets: tuple[float, ...] = (0.15, 0.25, 0.35)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what, values in (("bases (SB)", self.bases), ("targets (SP)", self.targets)):
            if not values or len(set(values)) < len(values):
                raise PlanError(f"A sweep needs distinct {what}, but got {list(values)}: name each once.")
        if "base" not in type(self.plan.rule()).model_fields:
            raise PlanError(
                f"The allocation '{self.plan.allocation}' has no base to sweep over: choose 'dynamic'."
            )
        self.trials()  # each plan is checked as it is made
        return self

    def cell(self, base: float, target: float) -> TrialRecipe | None:
        """The trial of one cell, or ``None`` where the base reaches the target: that is constant slicing."""
        if base >= target:
            return None
        settings = {**self.plan.settings, "base": base}
        return self._trial(self._plan(target=target, settings=settings))

    def constant(self, target: float) -> TrialRecipe:
        """The trial of constant slicing at a target."""
        usual = Plan()
        return self._trial(
            self._plan(
                target=target,
                allocation="constant",
                settings={},
                # What does not matter to it is what it usually is, so that sweeps share these trials.
                score=usual.score,
                first_token=usual.first_token,
            )
        )

    def dense(self) -> TrialRecipe:
        """The trial of the dense model."""
        return self._trial(None)

    def trials(self) -> tuple[TrialRecipe, ...]:
        """All trials in the order they are run: dense, then constant and the cells target by target."""
        found: list[TrialRecipe] = [self.dense()]
        for target in self.targets:
            found.append(self.constant(target))
            found += [cell for base in self.bases if (cell := self.cell(base, target))]
        return tuple(found)

    def _plan(self, **changes: Any) -> Plan:
        return Plan(**{**dict(self.plan), **changes})

    def _trial(self, plan: Plan | None) -> TrialRecipe:
        shared = {name: getattr(self, name) for name in Evaluated.model_fields}
        return TrialRecipe(**shared, plan=plan)


Recipe = Annotated[
    ProfileRecipe | SliceRecipe | CompareRecipe | TrialRecipe | SweepRecipe, Field(discriminator="kind")
]


class TextUsed(Value):
    """The windows a run really saw."""

    label: str
    windows: int
    window_length: int
    digest: str
    """First 16 hex digits of the SHA-256 of the token ids."""
    passages: tuple[Passage, ...] = ()
    """Of an evaluation: where each window lies."""


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
    sample: Sample | None = None
    speed: Speed | None = None
    """Beside the dense model; ``None`` for the dense model, and where it was not measured."""

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
            "speed": self.speed and self.speed.model_dump(mode="json"),
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


class TrialResult(Value):
    """What a trial found."""

    kind: Literal["trial"] = "trial"
    profile: LayerProfile
    shape: ModelShape
    contestant: Contestant
    calibration: TextUsed
    evaluation: TextUsed


class SweepResult(Value):
    """What a sweep found: the contestants of its trials, in their order."""

    kind: Literal["sweep"] = "sweep"
    profile: LayerProfile
    shape: ModelShape
    contestants: tuple[Contestant, ...]
    calibration: TextUsed
    evaluation: TextUsed


Result = Annotated[
    ProfileResult | SliceResult | CompareResult | TrialResult | SweepResult, Field(discriminator="kind")
]


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
            run = load_run(folder)
        except StorageError as error:
            broken.append(str(error))
            continue
        if run.key == folder.name:
            runs.append(run)
        else:
            broken.append(f"'{folder}' holds a copy of the run {run.key}: delete it, or name it so.")
    return sorted(runs, key=lambda run: run.created, reverse=True), broken


def bundled_run() -> Run:
    """The finished demo comparison that ships with slicescope, so that there is something to look at."""
    return load_run(BUNDLED_RUN)


def bundled_sweep() -> Run:
    """The finished demo sweep that ships with slicescope."""
    return load_run(BUNDLED_SWEEP)


def find_details(run: Run) -> Details | None:
    """What the run's profile looks like from near, or ``None`` for a run that did not keep it."""
    stored = runs_folder() / run.key / DETAILS_FILE
    bundled = BUNDLED_RUN / DETAILS_FILE
    for path in (stored, *([bundled] if run.key == bundled_run().key else [])):
        if path.is_file():
            return Details.load(path)
    return None


def _run_folders() -> list[Path]:
    home = runs_folder()
    with storage_errors(home):
        if not home.is_dir():
            return []
        clear_abandoned(home)
        return sorted(f for f in home.iterdir() if f.is_dir() and not f.name.startswith("."))
