"""Results: what came out of a request, and the run that holds both."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from analysis.evaluate import Perplexity, Sample
from analysis.int8 import Int8
from analysis.precision import Precision
from analysis.profile import LayerProfile
from analysis.shape import ModelShape
from analysis.sources.windows import Passage
from analysis.speed import Speed
from analysis.tasks import TaskScore
from analysis.values import Value, key_of
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.healing.record import Healed
from slicing.inner.costs import UnitCosts
from slicing.inner.sink import LostSink
from slicing.inner.widths import InnerWidths
from slicing.repair import Repair
from slicing.schedule import SlicingSchedule
from slicing.studies import earlier
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, SearchRequest, ShrinkRequest, Trial
from slicing.studies.study import Study


class TextUsed(Value):
    """The windows a run really saw."""

    label: str
    windows: int
    window_length: int
    digest: str
    """First 16 hex digits of the SHA-256 of the token ids."""
    passages: tuple[Passage, ...] = ()
    """Of an evaluation: where each window lies."""
    batch: int | None = None
    """Windows that passed through the model at a time; ``None`` where an earlier version made the run."""
    precision: Precision = "exact"
    """Of the model's products while bases, moments and fits were found from it."""

    @property
    def told(self) -> str:
        """Name the text, how much of it there was, and how the model multiplied if not exactly."""
        windows = f"{self.windows:,} {'window' if self.windows == 1 else 'windows'}"
        fast = ", matrix products in bfloat16" if self.precision == "fast" else ""
        return f"{self.label}, {windows} of {self.window_length:,} tokens{fast}"


class Environment(Value):
    """Record the device, the dtype and the versions that a run was made with."""

    device: str
    device_name: str
    dtype: str
    threads: int
    platform: str
    versions: dict[str, str]


class Measurement(Value):
    """One model, judged: what it is, how large, how well it predicts, and what it took to make."""

    name: str
    """Of its recipe, in tables: ``dense``, ``constant``, ``dynamic``, ``sleb/dynamic``."""
    title: str
    schedule: SlicingSchedule | None
    """``None`` for a model that is not sliced."""
    layout: Layout | None = None
    """Which blocks are left; ``None`` for all."""
    inner: InnerWidths | None = None
    """How much stays inside the blocks that are left; ``None`` for all."""
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
    other: Perplexity | None = None
    """On a second text, where one was asked for."""
    int8: Int8 | None = None
    """With its matrices in 8 bits, where that was asked for."""
    search: Perplexity | None = None
    """On the windows that searches are judged on, where these were asked for beside the others."""
    repair: Repair | None = None
    """What repair did, where it was asked for."""
    healed: tuple[Healed, ...] = ()
    """What each step of healing did."""
    sink: LostSink | None = None
    """Where the attention sink is lost, of a model that is cut inside its blocks."""
    tasks: tuple[TaskScore, ...] = ()
    """Scores on tasks, where some were asked for."""
    deciding_seconds: float | None = None
    """What measuring and searching took that this one's plan needs, beside the profile."""


class ProfileResult(Value):
    """Hold the outcome of a profile."""

    kind: Literal["profile"] = "profile"
    profile: LayerProfile
    shape: ModelShape | None
    """``None`` when the model cannot be sliced."""
    not_sliceable: str | None
    text: TextUsed
    layout: Layout | None = None
    """Which blocks of the dense model are left, where slicescope took some out of this one; ``None`` for all,
    and where nothing tells."""
    bases: bool = False
    """Whether the run's folder holds the bases of the stream."""
    units: UnitCosts | None = None
    """What the parts inside the blocks are predicted to cost, where that was asked for."""


class SearchResult(Value):
    """Hold the outcome of a search."""

    kind: Literal["search"] = "search"
    profile: LayerProfile
    shape: ModelShape
    shares: tuple[float, ...]
    """One per block, whose mean is the target of the plan."""
    losses: tuple[float, ...]
    """The least loss so far after each round, nats per token on the search's windows; first of the start."""
    evaluations: int
    schedule: SlicingSchedule
    windows: TextUsed


class CompressResult(Value):
    """Hold the outcome of making a model; the model itself lies in the run's folder, under ``model``."""

    of_made: ClassVar = ("layout", "inner", "repair", "healed", "sink", "seconds", "peak_memory")
    """Fields that are those of ``slicing.steps.base.Made``."""

    kind: Literal["compress"] = "compress"
    profile: LayerProfile
    shape: ModelShape | None
    """Of the dense model; ``None`` when it cannot be sliced."""
    not_sliceable: str | None = None
    schedule: SlicingSchedule | None = None
    """``None`` for a model that is not sliced."""
    layout: Layout | None = None
    """Which blocks are left; ``None`` for all."""
    inner: InnerWidths | None = None
    """How much stays inside the blocks that are left; ``None`` for all."""
    parameters: int
    dense_parameters: int
    plain: bool
    """Whether any tool opens it as a model of its architecture, without code of ours."""
    discarded: tuple[float, ...] | None = None
    repair: Repair | None = None
    """What repair did, where it was asked for."""
    healed: tuple[Healed, ...] = ()
    """What each step of healing did."""
    sink: LostSink | None = None
    """Where the attention sink is lost, of a model that is cut inside its blocks."""
    deciding_seconds: float | None = None
    seconds: float
    peak_memory: int | None = None
    calibration: TextUsed
    dense: Perplexity | None = None
    """Of the dense model, where an evaluation was asked for; the same windows as ``smaller``."""
    smaller: Perplexity | None = None


class TrialResult(Value):
    """Hold the outcome of a trial."""

    kind: Literal["trial"] = "trial"
    profile: LayerProfile
    shape: ModelShape
    measurement: Measurement
    calibration: TextUsed
    evaluation: TextUsed


class StudyResult(Value):
    """Hold the outcome of a study: a measurement for each of its trials, in their order."""

    kind: Literal["study"] = "study"
    profile: LayerProfile
    """With the first seed, and all scores that recipes use."""
    shape: ModelShape
    measurements: tuple[Measurement, ...]
    """One for each of ``Study.trials``."""
    matched: tuple[Measurement, ...] = ()
    """The baseline once more, one for each of ``Study.matches``."""
    calibration: TextUsed
    evaluation: TextUsed


class Tried(Value):
    """One recipe at one rung of a shrink."""

    rung: Literal[1, 2, 3]
    """1: a preview; 2: the full form; 3: a finalist."""
    line: str
    """Of the recipe, as it was tried."""
    nats: float | None = None
    """The mean loss on search windows, nats per token; ``None`` where it did not run."""
    parameters: int | None = None
    seconds: float | None = None
    """What making and judging it took, also where it was stored already."""
    expected: float | None = None
    """What it was expected to take, in seconds; ``None`` where it was stored, or could not be tried."""
    dropped: str = ""
    """Why it came no further, as part of a sentence; empty for one that did."""


class Finalist(Value):
    """One recipe that was judged on the evaluation text in the end."""

    recipe: Recipe
    budget: Budget
    measurement: Measurement


class ShrinkResult(Value):
    """Hold the outcome of a shrink; the winner's model lies in the run's folder, under ``model``."""

    kind: Literal["shrink"] = "shrink"
    profile: LayerProfile
    shape: ModelShape
    """Of the dense model."""
    size: int
    """How many parameters the wish allows."""
    tokens_per_second: float
    """The pace of the dense model, by which times were expected at first."""
    tried: tuple[Tried, ...]
    """Everything that was considered, rung by rung in the order of trying."""
    dense: Measurement
    finalists: tuple[Finalist, ...]
    """The one that loses least on search windows first: it is the winner."""
    plain: bool
    """Whether any tool opens the winner as a model of its architecture, without code of ours."""
    calibration: TextUsed
    evaluation: TextUsed

    @property
    def winner(self) -> Finalist:
        """The one whose model is kept."""
        return self.finalists[0]

    @property
    def measurement(self) -> Measurement:
        """The winner's."""
        return self.winner.measurement


Request = Annotated[
    ProfileRequest | SearchRequest | CompressRequest | Trial | Study | ShrinkRequest,
    Field(discriminator="kind"),
]
Result = Annotated[
    ProfileResult | SearchResult | CompressResult | TrialResult | StudyResult | ShrinkResult,
    Field(discriminator="kind"),
]


def warnings(result: Result) -> tuple[str, ...]:
    """What a result tells that a reader must know, a sentence each: of the dense model, and of the others."""
    every = (result, getattr(result, "measurement", None), *getattr(result, "measurements", ()))
    worst: dict[str, LostSink] = {}
    for each in every:
        found: LostSink | None = getattr(each, "sink", None)
        title: str = getattr(each, "title", "")
        if found and (title not in worst or found.ratio < worst[title].ratio):
            worst[title] = found
    told = (f"{title}. {found.told}" if title else found.told for title, found in worst.items())
    return (*result.profile.warnings(), *told)


class Run(Value):
    """One request and its outcome."""

    format: Literal[2] = 2
    recorded_key: str = Field(pattern=r"^[0-9a-f]{12}$")
    """The key that the request had when the run was made, by which links and scripts know the run.

    It is believed, not computed anew: a later version of slicescope may give the same request another key.
    """
    request: Request
    created: datetime
    seconds: float
    environment: Environment
    result: Result

    @field_validator("created")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        # Every list says UTC. A date without a zone, or out of all bounds, is left to be told of.
        return value.astimezone(UTC) if value.tzinfo and 1 < value.year < 9999 else value

    @model_validator(mode="before")
    @classmethod
    def _record_key(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if "recorded_key" not in data:
            asked = data.get("request")
            if isinstance(asked, Value):
                return {**data, "recorded_key": asked.key}
            # Version 0.1 recorded no key: it was that of the recipe as it was stored, defaults included.
            data = {**data, "recorded_key": key_of(data.get("recipe"))}
        return earlier.read_run(data)

    @property
    def key(self) -> str:
        """The name of the run, and of its folder."""
        return self.recorded_key

    @classmethod
    def _remedy(cls) -> str:
        return "update slicescope if a later version wrote it, or restore it from a copy"

    def named(self, key: str) -> Self:
        """The same run under another key."""
        return self if self.key == key else self.model_copy(update={"recorded_key": key})
