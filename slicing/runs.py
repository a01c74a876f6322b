"""Recipes and runs: what was asked for, and what came out.

A recipe is a value; the same recipe, from the web or the command line, has the same key and gives the
same run. ``slicing.study.store`` keeps runs.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, computed_field, field_validator, model_validator

from analysis.errors import PlanError
from analysis.evaluate import Difference, Perplexity, Sample, corrected, difference
from analysis.numbers import Seed, read_number, read_whole
from analysis.profile import LayerProfile
from analysis.scores import find_score
from analysis.shape import ModelShape
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.sources.windows import Passage
from analysis.speed import Speed
from analysis.tasks import TaskScore
from analysis.values import Value, key_of, without
from slicing.allocation import Fractions, check_fraction, find_allocation
from slicing.calibration import Fit, same_text, too_few_tokens
from slicing.depth.layout import Layout
from slicing.depth.methods import METHODS, RemovalMethod, find_method, make_method
from slicing.plan import Plan
from slicing.probes import NEED_SLICING
from slicing.repair import Repair
from slicing.repairs import REPAIRS, find_repair
from slicing.schedule import SlicingSchedule, without_middle

PROMPT = "Mr. Speaker, the state of our Union is"


class ProfileRecipe(Value):
    """Measure how much every block changes its input."""

    changes_weights: ClassVar[bool] = False
    kind: Literal["profile"] = "profile"
    model: ModelSource
    text: TextSource
    windows: int = 8
    window_length: int = 512
    seed: Seed = 0
    bases: bool = False
    """Keep the bases of the stream with the run (of a sliceable model), so that plans can be previewed."""
    probes: tuple[str, ...] = ()
    """Scores with passes of their own that are measured too, by their names."""
    lens: bool = False
    """Measure the logit lens too: the loss when the stream goes straight to the head after each block."""
    drawn: int | None = None
    """The windows are the first of a draw of so many, as those that slicing profiles are the first of its
    calibration windows; ``None`` for a draw of ``windows``."""

    @property
    def profile_draw(self) -> tuple[int, int, int]:
        """How many windows are profiled, of how many that are drawn, and the seed of the draw."""
        return self.windows, self.drawn or self.windows, self.seed

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.drawn is not None and self.drawn < self.windows:
            raise PlanError(
                f"A profile of {self.windows} windows needs a draw of as many, but {self.drawn} are to be "
                "drawn: draw more calibration windows, or profile fewer."
            )
        return self

    def warnings(self, shape: ModelShape | None) -> tuple[str, ...]:
        """Warn of what flatters or spoils the result, a sentence each; see ``Calibrated.warnings``."""
        if shape is None or not (self.bases or any(name in NEED_SLICING for name in self.probes)):
            return ()
        return too_few_tokens({"bases"}, shape, self.windows, self.window_length)


SHARES = (0.25, 0.5, 0.75)
"""Of what is to go in whole blocks, where a search decides."""
SEARCH_WINDOWS = 4
"""Of the calibration windows, so many are what methods of removal measure losses and likeness on."""
Equal = Literal["slice", "parameters"]
"""At the plan's target as it stands, or at as many parameters as constant slicing at that target leaves."""
Method = Literal["faithful", "preview"]
"""How bases are found: on the part that is sliced already, or all in one pass over the dense model."""


class Calibrated(Value):
    """What every recipe says that slices: which model, and where its profile and its bases come from."""

    changes_weights: ClassVar[bool] = True
    """Whether it takes the weights as plain numbers, which quantised ones are not."""
    model: ModelSource
    calibration: TextSource
    calibration_windows: int = 16
    profile_windows: int = 8
    """The profile is measured on this many of the calibration windows."""
    window_length: int = 512
    seed: Seed = 0
    method: Method = "faithful"
    repair: bool = False
    """Fit the writers anew to the dense stream; see ``slicing.repair``. Follows faithful slicing."""

    @property
    def profile_draw(self) -> tuple[int, int, int]:
        """How many windows are profiled, of how many that are drawn, and the (first) seed of the draw."""
        return self.profile_windows, self.calibration_windows, getattr(self, "seeds", (self.seed,))[0]

    @model_validator(mode="after")
    def _check_repair(self) -> Self:
        if self.repair and self.method != "faithful":
            raise PlanError("Repair follows faithful slicing, not previews: choose the method 'faithful'.")
        return self

    def fits(self) -> set[Fit]:
        """Name the things that are fitted to the calibration text."""
        return {"bases", "writers"} if self.repair else {"bases"}

    def warnings(self, shape: ModelShape | None) -> tuple[str, ...]:
        """Warn of what flatters or spoils the result, a sentence each.

        ``shape`` is the dense model's; without it, as for one that cannot be sliced, nothing is said of how
        much text is enough.
        """
        evaluation, other = (getattr(self, name, None) for name in ("evaluation", "other"))
        told = same_text(self.calibration, evaluation, other)
        if shape is None:
            return told
        return told + too_few_tokens(self.fits(), shape, self.calibration_windows, self.window_length)


def drawn_for(windows: int, calibration_windows: int | None = None) -> int | None:
    """Say, for a profile recipe, of how many calibration windows it takes the first: by default the usual."""
    usual = max(windows, Calibrated.model_fields["calibration_windows"].default)
    drawn = usual if calibration_windows is None else calibration_windows
    return None if drawn == windows else drawn


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
    lens: bool = False
    """Measure the logit lens with the profile."""
    speed_rounds: int = 5
    """Rounds in which each sliced model is timed in turn with the dense one; 0 for none."""
    tasks: tuple[str, ...] = ()
    """Of the lm-evaluation-harness, for everyone's accuracy beside the perplexity."""
    task_limit: int | None = None
    """Examples per task at most."""
    task_folder: Path | None = None
    """A folder of further tasks in YAML; functions that they name are run."""

    @property
    def planned(self) -> str:
        """The name of what the plan makes; ``constant`` is constant slicing as published."""
        if self.plan.allocation != "constant":
            return self.plan.allocation
        return Entry(span=self.plan.span).name

    def slice_recipe(self) -> SliceRecipe:
        """The recipe that makes and keeps this comparison's planned model."""
        shared = {name: getattr(self, name) for name in Calibrated.model_fields}
        return SliceRecipe(**shared, plan=self.plan, evaluation=self.evaluation)


class SearchRecipe(Calibrated):
    """Look for the shares of a plan whose previews lose least, on calibration windows of the search's own."""

    kind: Literal["search"] = "search"
    plan: Plan
    """Of the allocation ``searched``: target, form and rounding, and for how long."""
    windows: int = 4
    """For the losses, drawn after the calibration windows and so disjoint from them."""


class Removal(Value):
    """Which blocks go, and what closes the gaps."""

    method: str = "greedy"
    """A name in ``slicing.depth.METHODS``."""
    settings: dict[str, float | str] = Field(default_factory=dict)
    """The method's own fields."""
    share: float | Literal["search"] = 1.0
    """Of the parameters that are to go, so much goes in whole blocks, the rest by slicing what is left.
    ``search``: whichever of ``SHARES`` loses least as a preview, on calibration windows of its own."""
    closing: str = "none"
    """What closes the gaps: a name in ``slicing.repairs.REPAIRS``, or ``none``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.rule()
        if self.closing != "none":
            find_repair(self.closing)
        if self.share != "search" and not 0.0 < self.share <= 1.0:
            raise PlanError(
                f"The share that goes in whole blocks must be above 0 and at most 1; got {self.share:g}."
            )
        if self.slices and self.closing != "none":
            raise PlanError(
                f"Where the rest is sliced, its repair closes the gaps as well: choose '+repair' instead of "
                f"'+{self.closing}'."
            )
        return self

    @property
    def slices(self) -> bool:
        """Whether anything is left to slicing."""
        return self.share != 1.0

    def rule(self) -> RemovalMethod:
        """The method with its settings."""
        return make_method(self.method, self.settings)

    def fits(self) -> set[Fit]:
        """Name the things that closing the gaps fits to the calibration text; blocks are trained."""
        return set() if self.closing == "none" else {*find_repair(self.closing).fits}

    def whole_blocks(self, count: int, share: float) -> int:
        """How many of ``count`` blocks' worth of parameters go in whole blocks, where that share does.

        Where something is left to slicing, at least one block's worth is (``PlanError`` where none can be).
        """
        if share == 1.0:
            return count
        if count < 2:
            raise PlanError(
                "Where some goes in whole blocks and the rest by slicing, two blocks' worth of parameters or "
                "more must go, and here it is one: choose a larger size, or leave out the share."
            )
        return min(max(1, round(share * count)), count - 1)


class RemoveRecipe(Calibrated):
    """Take blocks out of a model, close the gaps, and keep the model."""

    kind: Literal["remove"] = "remove"
    removal: Removal = Removal()
    blocks: int = 4
    """How many go."""
    search_windows: int = SEARCH_WINDOWS
    evaluation: TextSource | None = None
    """Text for the perplexities on the model card; ``None`` for a card without."""
    evaluation_windows: int = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.blocks < 1:
            raise PlanError(f"At least one block must go, but {self.blocks} were asked for.")
        if self.removal.slices:
            raise PlanError("This takes whole blocks out and slices nothing: leave out the share.")
        return self

    def fits(self) -> set[Fit]:
        """Name the things that are fitted to the calibration text."""
        return self.removal.fits()


class Extras(Evaluated):
    """What is measured of every model beside its perplexity."""

    other: TextSource | None = None
    """A second text to evaluate on, as many windows of it."""
    speed_rounds: int = 0
    """Rounds in which each model is timed in turn with the dense one; 0 for none."""
    tasks: tuple[str, ...] = ()
    """Of the lm-evaluation-harness, for everyone's accuracy."""
    task_limit: int | None = None
    """Examples per task at most."""
    task_folder: Path | None = None
    """A folder of further tasks in YAML; functions that they name are run."""
    search_windows: int = SEARCH_WINDOWS


class TrialRecipe(Extras):
    """One model on one evaluation: made smaller, or dense. What sweeps and contests are made of."""

    kind: Literal["trial"] = "trial"
    plan: Plan | None
    """How it is sliced; ``None`` for a model that is not."""
    removal: Removal | None = None
    """Which blocks go; the plan then slices what is left."""
    equal: Equal = "slice"
    fewer: float | None = None
    """The share of its parameters that the model is to lose, to the nearest whole block; ``None`` where the
    plan's target says how much."""

    @model_validator(mode="after")
    def _check_removal(self) -> Self:
        if self.removal and self.fewer is None:
            raise PlanError("A removal needs a share of the parameters that is to go, such as fewer=0.1.")
        if self.fewer is not None and not 0.0 < self.fewer < 1.0:
            raise PlanError(
                f"The share of the parameters that goes must lie between 0 and 1; got {self.fewer:g}."
            )
        return self

    def fits(self) -> set[Fit]:
        """Name the things that are fitted to the calibration text."""
        sliced = set() if self.plan is None else super().fits()
        return sliced | (self.removal.fits() if self.removal else set())

    @property
    def bench_key(self) -> str:
        """The same for trials that share windows and profile."""
        alone = {"plan": None, "repair": False, "equal": "slice", "removal": None, "fewer": None}
        return self.model_copy(update={**alone, "search_windows": SEARCH_WINDOWS}).key

    def remove_recipe(self, layout: Layout) -> RemoveRecipe:
        """The recipe that makes and keeps this trial's model, whose blocks are known."""
        assert self.removal is not None
        shared = {name: getattr(self, name) for name in Calibrated.model_fields}
        return RemoveRecipe(
            **{**shared, "method": "faithful", "repair": False},  # both are of slicing
            removal=self.removal,
            blocks=layout.count,
            search_windows=self.search_windows,
            evaluation=self.evaluation,
        )


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
        for what, values in (("base (SB)", self.bases), ("target (SP)", self.targets)):
            for value in values:
                check_fraction(what, value)
        _check_count(len(self.bases) * len(self.targets), "bases or targets")
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
                span=usual.span,
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


MOST_TRIALS = 10_000
"""Of one run; a file that asks for more is not read, since every trial is made to be checked."""


def _check_count(trials: int, fewer: str) -> None:
    if trials > MOST_TRIALS:
        raise PlanError(
            f"This asks for {trials:,} trials, but {MOST_TRIALS:,} are the most of one run: name fewer "
            f"{fewer}."
        )


DECIDING = ("allocation", "score", "settings", "span")
"""What entries say of plans, by its name in both."""


class Entry(Value):
    """One side of a contest: a way to decide where to cut, or which blocks go, or both; repaired or not."""

    allocation: str = "constant"
    score: str = "lr"
    settings: dict[str, float | tuple[float, ...]] = Field(default_factory=dict)
    span: int = 0
    """How many blocks share a basis, as in a plan."""
    repair: bool = False
    removal: Removal | None = None
    """Which blocks go first; what is above then slices the rest, where the removal leaves a share to it."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, data: Any) -> Any:
        return without_middle(data, "middle")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``allocation[:score][:setting=value...][+span=blocks][+repair]``, or
        ``remove:method[:setting=value...][+matrix|+writer|+block|+writers]``, or, for both,
        ``remove:method:share=value/allocation...`` (``PlanError``).
        """
        first, slash, rest = text.strip().partition("/")
        if not first.startswith(_REMOVE):
            return cls(**_parse_slicing(text.strip()))
        removal = _parse_removal(first.removeprefix(_REMOVE))
        if bool(slash) != removal.slices:
            raise PlanError(
                f"'{text}' must say both or neither: which share goes in whole blocks, and how the rest is "
                "sliced, as in 'remove:greedy:share=0.5/constant+span=3+repair'."
            )
        return cls(removal=removal, **(_parse_slicing(rest) if slash else {}))

    @property
    def slices(self) -> bool:
        """Whether anything is sliced."""
        return self.removal is None or self.removal.slices

    @property
    def name(self) -> str:
        """Its own in a contest, and what ``parse`` reads."""
        parts = [_removal_name(self.removal)] if self.removal else []
        if self.slices:
            rule = find_allocation(self.allocation)
            numbers = [
                f"{name}={_value(value)}" for name, value in self.settings.items() if isinstance(value, float)
            ]
            words = [self.allocation, *([self.score] if rule.uses_scores else []), *numbers]
            added = [
                *([f"span={self.span}"] if self.span else []),
                *(["repair"] if self.repair else []),
            ]
            parts.append("+".join([":".join(words), *added]))
        return "/".join(parts)

    @property
    def by_chance(self) -> bool:
        """Whether it is drawn at random."""
        return "random" in (self.removal.method if self.removal else "", self.allocation)

    @property
    def control(self) -> bool:
        """Whether it is there to be beaten."""
        if self.removal and find_method(self.removal.method).control:
            return True
        return self.slices and find_allocation(self.allocation).control


_REMOVE = "remove:"


def _parse_slicing(text: str) -> dict[str, Any]:
    words, *added = text.strip().split("+")
    allocation, *rest = (word.strip() for word in words.split(":"))
    find_allocation(allocation)
    settings: dict[str, float | tuple[float, ...]] = {}
    score = "lr"
    for word in rest:
        name, equals, value = word.partition("=")
        if not equals:
            score = find_score(name).name
            continue
        number = _read_value(name, value, settings, text)
        if isinstance(number, str):
            raise PlanError(f"The setting '{word}' of '{text}' needs a number, as in 'base=0.1'.")
        settings[name] = number
    found: dict[str, Any] = {"allocation": allocation, "score": score, "settings": settings}
    for word in (each.strip() for each in added):
        name, _, value = word.partition("=")
        if name == "span" and (span := read_whole(value)) is not None:
            found["span"] = span
        elif word == "repair":
            found["repair"] = True
        else:
            raise PlanError(
                f"'{text}' adds '{word}', but only '+span=blocks', as in '+span=3', and '+repair' can be "
                "added."
            )
    return found


def _parse_removal(text: str) -> Removal:
    words, *added = (each.strip() for each in text.split("+"))
    method, *rest = (word.strip() for word in words.split(":"))
    settings: dict[str, float | str] = {}
    for word in rest:
        name, equals, value = word.partition("=")
        if not equals:
            raise PlanError(f"'{word}' of '{_REMOVE}{text}' is no setting: name it, as in 'merge=mean'.")
        settings[name] = _read_value(name, value, settings, text)
    share: Any = settings.pop("share", 1.0)
    if (isinstance(share, str) and share != "search") or added not in ([], *([each] for each in REPAIRS)):
        raise PlanError(
            f"'{_REMOVE}{text}' cannot be read: the share is a number, and one of "
            f"{', '.join('+' + each for each in REPAIRS)} can be added."
        )
    closing: Any = added[0] if added else "none"
    return Removal(method=method, settings=settings, share=share, closing=closing)


def _read_value(name: str, value: str, known: Collection[str], text: str) -> float | str:
    """A finite number, or a word; ``PlanError`` for anything between, or where the name stands twice."""
    if name in known:
        raise PlanError(f"'{text}' sets '{name}' twice: name it once.")
    number = read_number(value)
    if number is None and not value.isalpha():
        raise PlanError(f"The setting '{name}' of '{text}' must be a finite number, but is '{value}'.")
    return value if number is None else number


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """A number as briefly as it can be read back as it was."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _removal_name(removal: Removal) -> str:
    numbers = [f"{name}={_value(value)}" for name, value in removal.settings.items()]
    share = [f"share={_value(removal.share)}"] if removal.slices else []
    closing = "" if removal.closing == "none" else f"+{removal.closing}"
    return _REMOVE + ":".join([removal.method, *numbers, *share]) + closing


USUAL_ENTRIES = (
    "constant",
    "dynamic:lr:base=0",
    "dynamic:lr:base=0.1",
    "dynamic:leave-one-out:base=0",
    "dynamic:slice-one:base=0",
    "dynamic:discarded-energy:base=0",
    "dynamic:heavy-tail:base=0",
    "softmax:block-influence",
    "band:heavy-tail",
    "rising",
    "falling",
    "inverted:lr:base=0",
    "water-filling:slice-one",
    "water-filling:discarded-energy",
    "searched",
    *(f"random:draw={draw}" for draw in range(5)),
    "constant+repair",
    "dynamic:lr:base=0+repair",
    "searched+repair",
    "constant+span=3",
    "dynamic:lr:base=0+span=3",
    "constant+span=3+repair",
    "dynamic:lr:base=0+span=3+repair",
)
"""Everyone: rules, scores, the search, five draws of the random control, repair, and shared bases."""
BOARD_ENTRIES = (
    "constant",
    "dynamic:lr:base=0",
    "dynamic:lr:base=0+span=3+repair",
    *(
        f"remove:{name}:{settings}".rstrip(":")
        for name, rule in METHODS.items()
        for settings in rule.variants
    ),
    "remove:streamline+matrix",
    "remove:greedy+matrix",
    "remove:greedy+writer",
    "remove:streamline+block",
    "remove:shortgpt+writers",
    "remove:streamline+writers",
    "remove:greedy+writers",
    "remove:streamline:share=0.5/dynamic:lr:base=0+span=3+repair",
    "remove:greedy:share=0.5/dynamic:lr:base=0+span=3+repair",
)
"""Width, every method of removal, what closes the gaps, and half of each."""


class ContestRecipe(Extras):
    """Ways to decide where to cut against each other, all at the same size, on the same windows.

    The size is what constant slicing at ``target`` leaves (or, for the published protocol, the mean slice),
    or a share of the parameters that goes, to the nearest whole block: that is what removal can reach. Every
    entry is calibrated once for each of the ``seeds``, the controls for the first alone.
    """

    always_said = ("entries",)

    kind: Literal["contest"] = "contest"
    plan: Plan = Plan()
    """The settings that all entries share; its allocation and score are passed over."""
    entries: tuple[Entry, ...] = tuple(Entry.parse(text) for text in USUAL_ENTRIES)
    equal: Equal = "parameters"
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Of the calibration windows; ``seed`` is passed over."""
    fewer: float | None = None
    """The share of the parameters that goes; ``None`` where the plan's target says how much."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [entry.name for entry in self.entries]
        for what, values in (("entries", names), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise PlanError(f"A contest needs distinct {what}, but got {list(values)}: name each once.")
        if "constant" not in names:
            raise PlanError("A contest needs 'constant' among its entries: all others are measured by it.")
        if self.fewer is not None and any(entry.allocation == "searched" for entry in self.entries):
            raise PlanError(
                "A search looks for shares at the size that a target (SP) leaves, so 'searched' takes part "
                "in contests, and not in leaderboards: leave it out."
            )
        _check_count(len(self.entries) * len(self.seeds), "entries or seeds")
        self.trials()  # each plan is checked as it is made
        return self

    def fits(self) -> set[Fit]:
        """Name the things that any of the trials fits to the calibration text."""
        return {fit for trial in self.trials() for fit in trial.fits()}

    def dense(self) -> TrialRecipe:
        """The trial of the dense model."""
        return self._trial(None, self.seeds[0], repair=False)

    def trial(self, entry: Entry, seed: int) -> TrialRecipe:
        """The trial of an entry with one calibration seed."""
        if not entry.slices:
            return self._trial(None, seed, repair=False, removal=entry.removal)
        usual = Plan()
        deciding = {name: getattr(entry, name) for name in DECIDING}
        if entry.allocation == "searched":  # one search serves all seeds
            deciding["settings"] = {"draw": float(self.seeds[0]), **entry.settings}
        if not find_allocation(entry.allocation).uses_scores:
            deciding |= {"score": usual.score, "first_token": usual.first_token}
        if self.fewer is not None:  # then the size decides on the target, which has to allow the base
            base = entry.settings.get("base", 0.0)
            assert isinstance(base, float)
            deciding["target"] = max(self.plan.target, base)
        return self._trial(Plan(**{**dict(self.plan), **deciding}), seed, entry.repair, entry.removal)

    def seeds_of(self, entry: Entry) -> tuple[int, ...]:
        """The seeds that an entry is calibrated for."""
        return self.seeds[:1] if entry.control else self.seeds

    def trials(self) -> tuple[TrialRecipe, ...]:
        """All trials in the order they are run: dense, then everyone with the first seed, and so on."""
        return (
            self.dense(),
            *(
                self.trial(entry, seed)
                for seed in self.seeds
                for entry in self.entries
                if seed in self.seeds_of(entry)
            ),
        )

    def _trial(
        self, plan: Plan | None, seed: int, repair: bool, removal: Removal | None = None
    ) -> TrialRecipe:
        shared = {name: getattr(self, name) for name in Extras.model_fields}
        equal: Equal = "slice" if plan is None else self.equal
        fewer = None if plan is None and removal is None else self.fewer
        shared |= {"seed": seed, "repair": repair, "equal": equal, "fewer": fewer, "removal": removal}
        if removal is None:  # what does not matter to it is what it usually is
            shared["search_windows"] = SEARCH_WINDOWS
        return TrialRecipe(**shared, plan=plan)


class LeaderboardRecipe(Extras):
    """Width and depth against each other at several sizes: a contest for each."""

    always_said = ("entries",)

    kind: Literal["leaderboard"] = "leaderboard"
    plan: Plan = Plan()
    entries: tuple[Entry, ...] = tuple(Entry.parse(text) for text in BOARD_ENTRIES)
    seeds: tuple[Seed, ...] = (0,)
    sizes: tuple[float, ...] = (0.1, 0.2, 0.3)
    """The shares of the parameters that go."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise PlanError(
                f"A leaderboard needs distinct sizes, but got {list(self.sizes)}: name each once."
            )
        _check_count(len(self.sizes) * len(self.entries) * len(self.seeds), "sizes, entries or seeds")
        self.trials()  # each plan is checked as it is made
        return self

    def fits(self) -> set[Fit]:
        """Name the things that any of the trials fits to the calibration text."""
        return {fit for trial in self.trials() for fit in trial.fits()}

    def contest(self, size: float) -> ContestRecipe:
        """The contest at one size."""
        shared = {name: getattr(self, name) for name in (*Extras.model_fields, "plan", "entries", "seeds")}
        return ContestRecipe(**shared, equal="parameters", fewer=size)

    def contests(self) -> tuple[ContestRecipe, ...]:
        """The contests at all sizes."""
        return tuple(self.contest(size) for size in self.sizes)

    def trials(self) -> tuple[TrialRecipe, ...]:
        """All trials in the order they are run, each once."""
        return tuple({trial.key: trial for contest in self.contests() for trial in contest.trials()}.values())


Recipe = Annotated[
    ProfileRecipe
    | SliceRecipe
    | RemoveRecipe
    | CompareRecipe
    | SearchRecipe
    | TrialRecipe
    | SweepRecipe
    | ContestRecipe
    | LeaderboardRecipe,
    Field(discriminator="kind"),
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
    batch: int | None = None
    """Windows that passed through the model at a time; ``None`` where an earlier version made the run."""


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
    repair: Repair | None = None
    dense: Perplexity | None = None
    """Of the dense model, where an evaluation was asked for; the same windows as ``sliced``."""
    sliced: Perplexity | None = None


class Contestant(Value):
    """One model of a comparison: what it is, how large, and how well it predicts."""

    name: str
    """``dense``, ``constant``, ``dynamic`` (or the allocation's name), ``constant-matched``."""
    title: str
    schedule: SlicingSchedule | None
    """``None`` for a model that is not sliced."""
    layout: Layout | None = None
    """Which blocks are left; ``None`` for all."""
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
    repair: Repair | None = None
    """What repair did, where it was asked for."""
    tasks: tuple[TaskScore, ...] = ()
    """Scores on tasks, where some were asked for."""
    deciding_seconds: float | None = None
    """What probes and search took that this one's schedule needs, beside the profile."""

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
            "layout": self.layout and {"label": self.layout.label, **self.layout.model_dump(mode="json")},
            "protocol": self.evaluation.protocol,
            "tokens_per_second": self.evaluation.tokens_per_second,
            "evaluation_seconds": self.evaluation.seconds,
            "evaluation_peak_memory": self.evaluation.peak_memory,
            "speed": self.speed and self.speed.model_dump(mode="json"),
            "repair": self.repair and {"kept": self.repair.kept, **self.repair.model_dump(mode="json")},
            "other_perplexity": self.other and self.other.perplexity,
            "tasks": [each.model_dump(mode="json") for each in self.tasks],
            "deciding_seconds": self.deciding_seconds,
            "slicing_seconds": self.slicing_seconds,
            "slicing_peak_memory": self.slicing_peak_memory,
            "nll": list(self.evaluation.nll),
        }


class RemoveResult(Value):
    """What a removal made; the model lies in the run's folder, under ``model``."""

    kind: Literal["remove"] = "remove"
    profile: LayerProfile
    shape: ModelShape | None
    """Of the dense model; ``None`` when it cannot be sliced."""
    not_sliceable: str | None
    layout: Layout
    parameters: int
    dense_parameters: int
    plain: bool
    """Whether any tool opens it as a model of its architecture, without code of ours."""
    repair: Repair | None
    """What closing the gaps did, where it was asked for."""
    deciding_seconds: float
    seconds: float
    calibration: TextUsed
    dense: Perplexity | None = None
    """Of the dense model, where an evaluation was asked for; the same windows as ``reduced``."""
    reduced: Perplexity | None = None


class CompareResult(Value):
    """What a comparison found."""

    kind: Literal["compare"] = "compare"
    profile: LayerProfile
    shape: ModelShape
    fractions: Fractions
    contestants: tuple[Contestant, ...]
    calibration: TextUsed
    evaluation: TextUsed

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, data: Any) -> Any:
        return without(data, "differences")  # version 0.1 stored them with bootstrap intervals

    @property
    def planned(self) -> str:
        """The name of what the plan made."""
        usual = ("dense", "constant", "constant-matched")
        return next((each.name for each in self.contestants if each.name not in usual), "constant")

    @computed_field
    @property
    def differences(self) -> tuple[Difference, ...]:
        """The paired differences of the comparison, whose p-values are corrected for their number."""
        pairs = (
            ("dense", "constant"),
            ("dense", self.planned),
            ("constant", self.planned),
            ("constant-matched", self.planned),
        )
        measured = {each.name: each.evaluation for each in self.contestants}
        known = [(one, two) for one, two in pairs if {one, two} <= measured.keys()]
        return corrected([difference(one, measured[one], two, measured[two]) for one, two in known])

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


class TrialsResult(Value):
    """What a list of trials found: their contestants, in their order."""

    profile: LayerProfile
    """With the first seed, and all scores that entries use."""
    shape: ModelShape
    contestants: tuple[Contestant, ...]
    calibration: TextUsed
    evaluation: TextUsed


class SweepResult(TrialsResult):
    """What a sweep found."""

    kind: Literal["sweep"] = "sweep"


class SearchResult(Value):
    """What a search found."""

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


class ContestResult(TrialsResult):
    """What a contest found."""

    kind: Literal["contest"] = "contest"


class LeaderboardResult(TrialsResult):
    """What a leaderboard found."""

    kind: Literal["leaderboard"] = "leaderboard"


Result = Annotated[
    ProfileResult
    | SliceResult
    | RemoveResult
    | CompareResult
    | SearchResult
    | TrialResult
    | SweepResult
    | ContestResult
    | LeaderboardResult,
    Field(discriminator="kind"),
]


class Run(Value):
    """One recipe and its outcome."""

    format: Literal[1] = 1
    recorded_key: str = Field(pattern=r"^[0-9a-f]{12}$")
    """The key that the recipe had when the run was made, by which links and scripts know the run.

    It is believed, not computed anew: a later version of slicescope may give the same recipe another key.
    """
    recipe: Recipe
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
        if not isinstance(data, dict) or "recorded_key" in data:
            return data
        recipe = data.get("recipe")
        if isinstance(recipe, Value):
            return {**data, "recorded_key": recipe.key}
        # Version 0.1 recorded no key: it was that of the whole recipe, defaults included, as it was stored.
        return {**data, "recorded_key": key_of(recipe)}

    @property
    def key(self) -> str:
        """The name of the run, and of its folder."""
        return self.recorded_key

    @classmethod
    def _remedy(cls) -> str:
        return "update slicescope if a later version wrote it, or restore it from a copy"
