"""Flags that several commands share, as groups: each is written once, and a command takes the group.

Knows nothing about what commands do, nor, until a group is used, about torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.errors import PlanError
from analysis.numbers import LARGEST_SEED
from analysis.storage import check_new_file, check_new_folder, check_output
from app.cli.reading import numbers

if TYPE_CHECKING:
    from analysis.sources.model import ModelSource
    from analysis.sources.text import TextSource
    from slicing.plans import Plan
    from slicing.studies.recipe import Recipe
    from slicing.studies.run import Executor

TEXT_HELP = (
    "'demo', 'demo:out-of-style', a preset (wikitext2, c4, alpaca, ptb, pg19), owner/name on the Hub, "
    "or a file, of a table 'FILE#COLUMN'."
)


class Rounding(IntEnum):
    """Widths are multiples of this."""

    ONE = 1
    EIGHT = 8
    SIXTY_FOUR = 64


class Embedding(StrEnum):
    """How a tied model keeps its embedding table."""

    AUTO = "auto"
    SHARED = "shared"
    UNTIED = "untied"


class Alike(StrEnum):
    """What the models of a contest have in common."""

    PARAMETERS = "parameters"
    SLICE = "slice"


class CalibrationPrecision(StrEnum):
    """How a model multiplies while it reads the calibration text."""

    EXACT = "exact"
    FAST = "fast"


class Method(StrEnum):
    """How bases are found."""

    FAITHFUL = "faithful"
    PREVIEW = "preview"


OneShotOption = Annotated[
    bool,
    typer.Option(
        "--one-shot",
        help="Find all bases in one pass over the dense model, which is quicker and costs some perplexity, "
        "instead of each on the part that is sliced already.",
    ),
]
OtherOption = Annotated[
    str | None,
    typer.Option(
        help="A second text to evaluate on, or '' for none; by default demo:out-of-style beside the demo "
        f"text, and none beside another. {TEXT_HELP}"
    ),
]
SpeedOption = Annotated[
    int,
    typer.Option(
        min=0, max=1000, help="Rounds of timing each smaller model in turn with the dense one; 0 for none."
    ),
]
Int8Option = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Measure each model with its matrices in 8 bits too: perplexity and bytes. One scale for each "
        "output channel.",
    ),
]
LensOption = Annotated[
    bool,
    typer.Option(
        "--lens", help="The logit lens too: the loss when the head follows straight after each block."
    ),
]
UnitsOption = Annotated[
    bool,
    typer.Option(
        "--units",
        help="Predict too what channels, heads of keys and values, value ranks and whole attentions and MLPs "
        "cost, from one pass forward and one back.",
    ),
]
UnitsMeasuredOption = Annotated[
    bool,
    typer.Option(
        "--units-measured",
        help="As --units, and measure too what every whole attention and MLP costs: a pass for each.",
    ),
]
RecipesOption = Annotated[
    str,
    typer.Option(
        help="Recipes with ';' between them, the first of which is the baseline, such as "
        "'slice(constant); sleb(repair=writers)'.",
        show_default="all of them",
    ),
]
JitterOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=100,
        help="So many times each calibrated recipe is repeated on the same windows, with relative noise of "
        "1e-6 on the Gram matrices: a difference has to exceed what that does to it.",
    ),
]
SeedsOption = Annotated[str, typer.Option(help="Of the calibration windows, with commas.")]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=lambda path: path if path is None or str(path) == "-" else check_output(path),
        help="Write the result there as JSON; '-' prints it instead.",
    ),
]
NewFolder = Annotated[
    Path,
    typer.Option(
        "--out", callback=check_new_folder, help="Folder to write the model to; it must not exist yet."
    ),
]
NewFile = Annotated[
    Path, typer.Option("--out", callback=check_new_file, help="File to write; it must not exist yet.")
]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where it is opened."""

    model: Annotated[
        str, typer.Option(help="'demo', a Hub id with @revision where wanted, a folder, or a GGUF file.")
    ] = "demo"
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda:1, cuda:0,1 or cuda+cpu.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"

    def source(self) -> ModelSource:
        """The model source they name (``ModelError``)."""
        from analysis.sources.model import ModelSource

        return ModelSource.parse(self.model, self.device, self.dtype)


@dataclass(frozen=True)
class SharingOptions:
    """Where to cut it, and in what form."""

    allocation: Annotated[
        str,
        typer.Option(
            help="How the cut is shared out: dynamic, constant, manual, softmax, band, rising, searched, "
            "water-filling; as controls falling, inverted, random."
        ),
    ] = "dynamic"
    shares: Annotated[
        str,
        typer.Option(help="manual: one share per block, with commas, scaled so that the mean is the target."),
    ] = ""
    temperature: Annotated[
        float | None, typer.Option(help="softmax: higher spreads the cut more.", show_default="0.05")
    ] = None
    spread: Annotated[
        float | None,
        typer.Option(help="band: shares from 1 - this to 1 + this times the target.", show_default="0.3"),
    ] = None
    slope: Annotated[
        float | None, typer.Option(help="rising, falling: from 0 (constant) to 1.", show_default="0.5")
    ] = None
    draw: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=LARGEST_SEED,
            help="random: which draw. searched: seed of its calibration.",
            show_default="0",
        ),
    ] = None
    rounds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="searched: how many rounds.", show_default="2")
    ] = None
    score: Annotated[
        str,
        typer.Option(
            help="Which score decides: lr, lr-published (as the released code computes it), block-influence, "
            "angular; leave-one-out, slice-one, discarded-energy, heavy-tail, depth, activation, wanda, "
            "leverage, fisher, taylor."
        ),
    ] = "lr"
    first_token: Annotated[
        bool, typer.Option("--first-token", help="Count the first token of each window in the score.")
    ] = False
    max_fraction: Annotated[float, typer.Option(help="No block loses more than this.")] = 0.9
    rounding: Annotated[
        Rounding | None,
        typer.Option(help="Widths are multiples of this; the mean is kept.", show_default="8; on CUDA 64"),
    ] = None
    embedding: Annotated[
        Embedding,
        typer.Option(help="Tied models: share the table with the head, or untie (the published form)."),
    ] = Embedding.AUTO
    blocks_per_basis: Annotated[
        int,
        typer.Option(
            "--blocks-per-basis",
            "--span",
            min=0,
            help="So many blocks in a row share one basis; 0: every sub-layer has its own, as published.",
        ),
    ] = 0

    def settings(self, base: float) -> dict[str, Any]:
        """The allocation's own settings that were given (``PlanError``)."""
        from slicing.allocation import find_allocation

        shares = numbers("shares", self.shares)
        # A setting belongs to the allocations that have it; constant slicing has none.
        known = find_allocation(self.allocation).model_fields
        given = {"base": base, "shares": shares or None}
        given |= {name: getattr(self, name) for name in ("temperature", "spread", "slope", "draw", "rounds")}
        return {name: value for name, value in given.items() if name in known and value is not None}

    def plan(self, device: str, target: float = 0.25, base: float = 0.10) -> Plan:
        """The plan they describe at that target and base, for a model on a ``device`` (``PlanError``)."""
        from slicing.plans import Plan, usual_rounding

        return Plan(
            target=target,
            allocation=self.allocation,
            settings=self.settings(base),
            score=self.score,
            first_token=self.first_token,
            max_fraction=self.max_fraction,
            rounding=int(self.rounding or usual_rounding(device)),
            embedding=self.embedding.value,
            blocks_per_basis=self.blocks_per_basis,
        )


@dataclass(frozen=True)
class ProfileOptions:
    """What a profile is measured on."""

    text: Annotated[str, typer.Option(help=f"Text to profile on: {TEXT_HELP}")] = "demo"
    windows: Annotated[int, typer.Option(min=1, help="Windows to profile on.")] = 8
    calibration_windows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="They are the first of so many, as in slice and compare, so that the scores are the same.",
            show_default="16, or as many as are profiled",
        ),
    ] = None
    window_length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 512
    seed: Annotated[int, typer.Option(help="Draws the windows.")] = 0

    def fields(self) -> dict[str, Any]:
        """The fields of a request that they fill (``TextError``)."""
        from analysis.sources.text import TextSource
        from slicing.studies.requests import drawn_for

        return {
            "text": TextSource.parse(self.text, "calibration"),
            "drawn": drawn_for(self.windows, self.calibration_windows),
            **{name: getattr(self, name) for name in ("windows", "window_length", "seed")},
        }


@dataclass(frozen=True)
class CalibrationOptions:
    """The text that everything is decided and fitted on."""

    calibration: Annotated[str, typer.Option(help=f"Text to calibrate on: {TEXT_HELP}")] = "demo"
    calibration_windows: Annotated[int, typer.Option(min=1, help="Calibration windows.")] = 16
    profile_windows: Annotated[
        int | None,
        typer.Option(min=1, help="How many of them the profile is measured on.", show_default="up to 8"),
    ] = None
    search_text: Annotated[
        str,
        typer.Option(
            help="Text to judge searches on, such as the search for a share; 'demo:search' for the demo.",
            show_default="further windows of the calibration text",
        ),
    ] = ""
    healing_text: Annotated[
        str,
        typer.Option(
            help="Text that steps which train what is left draw from.",
            show_default="what is left of the calibration text",
        ),
    ] = ""
    window_length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 512
    calibration_precision: Annotated[
        CalibrationPrecision,
        typer.Option(
            help="Of a float32 model's products while it reads the calibration text: 'fast' multiplies in "
            "bfloat16, for which the processor needs instructions."
        ),
    ] = CalibrationPrecision.EXACT

    def fields(self) -> dict[str, Any]:
        """The fields of a request that they fill (``TextError``)."""
        from analysis.sources.text import TextSource

        given = {each.name: getattr(self, each.name) for each in fields(CalibrationOptions)}
        return given | {
            "calibration": TextSource.parse(self.calibration, "calibration"),
            **{
                name: TextSource.parse(given[name], "calibration") if given[name] else None
                for name in ("search_text", "healing_text")
            },
            "profile_windows": self.profile_windows or min(8, self.calibration_windows),
            "calibration_precision": self.calibration_precision.value,
        }


@dataclass(frozen=True)
class DrawOptions(CalibrationOptions):
    """One draw of the calibration windows."""

    seed: Annotated[int, typer.Option(help="Draws the windows.")] = 0

    def fields(self) -> dict[str, Any]:
        """Give the fields, the seed among them."""
        return super().fields() | {"seed": self.seed}


@dataclass(frozen=True)
class RepairOptions:
    """Whether what is sliced is repaired."""

    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Fit the output projections anew so that the sliced stream follows the dense one. Takes "
            "several times as long; with few calibration windows it gains on their style alone.",
        ),
    ] = False

    @property
    def name(self) -> str:
        """The name of the repair."""
        return "writers" if self.repair else "none"


@dataclass(frozen=True)
class SlicingOptions(RepairOptions):
    """How a model is sliced, whatever the plan."""

    method: Annotated[
        Method,
        typer.Option(
            help="faithful: each basis is found on the part that is sliced already. preview: all bases come "
            "from one pass over the dense model, which is quicker and costs some perplexity."
        ),
    ] = Method.FAITHFUL

    def fields(self) -> dict[str, Any]:
        """The settings of a step of slicing that they name."""
        return {"one_shot": self.method is Method.PREVIEW, "repair": self.name}


@dataclass(frozen=True)
class FormOptions:
    """The form of all recipes of a study, where it is not each recipe's own."""

    one_shot: OneShotOption = False
    rounding: Annotated[
        Rounding | None,
        typer.Option(
            help="Widths are multiples of this.", show_default="8; on CUDA 64 where no recipes are named"
        ),
    ] = None
    max_fraction: Annotated[
        float | None, typer.Option(help="No block loses more than this.", show_default="0.9")
    ] = None
    embedding: Annotated[
        Embedding | None,
        typer.Option(
            help="Tied models: share the table with the head, or untie.", show_default=Embedding.AUTO.value
        ),
    ] = None

    def given_to(self, recipes: Sequence[Recipe], device: str, named: bool) -> tuple[Recipe, ...]:
        """The recipes in this form, for a model on a ``device`` (``PlanError``).

        Those that somebody ``named`` say their rounding themselves, the same on every device.
        """
        from analysis.device import is_cuda
        from slicing.plans import ROUNDING_ON_CUDA, Slicing

        rounding = self.rounding and int(self.rounding)
        if rounding is None and not named and is_cuda(device):
            rounding = ROUNDING_ON_CUDA
        given: dict[str, Any] = {"rounding": rounding}
        given |= {"max_fraction": self.max_fraction, "embedding": self.embedding and self.embedding.value}
        said = {name: value for name, value in given.items() if value is not None}
        if not said and not self.one_shot:
            return tuple(recipes)
        return tuple(each.in_form(Slicing(**said), self.one_shot or None) for each in recipes)


@dataclass(frozen=True)
class EvaluationOptions:
    """The text that models are judged on."""

    evaluation: Annotated[str, typer.Option(help=f"Text the perplexity is measured on: {TEXT_HELP}")] = "demo"
    evaluation_windows: Annotated[int, typer.Option(min=1, help="Evaluation windows, from the start.")] = 16

    def fields(self) -> dict[str, Any]:
        """The fields of a request that they fill (``TextError``)."""
        from analysis.sources.text import TextSource

        text = TextSource.parse(self.evaluation, "evaluation")
        return {"evaluation": text, "evaluation_windows": self.evaluation_windows}


def second_text(said: str | None, evaluation: TextSource) -> TextSource | None:
    """Read the second text to evaluate on; where none was said, the demo's belongs to the demo text alone."""
    from analysis.sources.text import TextSource

    if said is None:
        said = "demo:out-of-style" if evaluation.kind == "demo" else ""
    return TextSource.parse(said, "evaluation") if said else None


@dataclass(frozen=True)
class CardOptions:
    """The text for the perplexities on a model card."""

    evaluation: Annotated[str, typer.Option(help=f"Text the perplexity is measured on: {TEXT_HELP}")] = "demo"
    evaluation_windows: Annotated[
        int, typer.Option(min=0, help="Evaluation windows, for the model card; 0 for none.")
    ] = 8

    def fields(self) -> dict[str, Any]:
        """The fields of a request that they fill (``TextError``)."""
        from analysis.sources.text import TextSource

        text = TextSource.parse(self.evaluation, "evaluation")
        windows = self.evaluation_windows
        return {"evaluation": text if windows else None, "evaluation_windows": windows or 8}


@dataclass(frozen=True)
class TaskOptions:
    """Tasks beside the perplexity."""

    tasks: Annotated[
        str, typer.Option(help="Tasks of the lm-evaluation-harness for every model, with commas.")
    ] = ""
    limit: Annotated[int | None, typer.Option(min=1, help="With --tasks: examples per task at most.")] = None
    include: Annotated[
        Path | None,
        typer.Option(help="With --tasks: a folder of further tasks in YAML; functions it names are run."),
    ] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(name.strip() for name in self.tasks.split(",") if name.strip())

    def fields(self) -> dict[str, Any]:
        """The fields of a request that they fill."""
        return {"tasks": self.names, "task_limit": self.limit, "task_folder": self.include}


@dataclass(frozen=True)
class ExecutorOptions:
    """Where the trials of a study run."""

    executor: Annotated[
        str,
        typer.Option(
            help="Where trials run: local, or ray (needs the extra 'cluster'), a GPU or CPU slot each."
        ),
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option(help="ray: of the cluster to join, such as auto or host:port; else a local one."),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="ray: at most so many; each opens the model.", show_default="a slot each"),
    ] = None

    def made(self) -> Executor | None:
        """The executor; ``None`` for this process (``PlanError`` for one that nobody knows)."""
        if self.executor == "ray":
            from slicing.cluster import on_ray

            return on_ray(self.address, workers=self.workers)
        if self.executor != "local" or self.address:
            raise PlanError(
                f"The executor '{self.executor}' with the address '{self.address}' is not known: choose "
                "'local' without an address, or 'ray'."
            )
        return None
