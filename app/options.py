"""Flags that several commands share, as groups: each is written once, and a command takes the group.

Knows nothing about what commands do, nor, until a group is used, about torch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from analysis.errors import PlanError
from analysis.numbers import LARGEST_SEED, read_number, read_whole

if TYPE_CHECKING:
    from analysis.sources.model import ModelSource
    from slicing.plan import Plan

Number = TypeVar("Number", int, float)
TEXT_HELP = (
    "'demo', 'demo:out-of-style', a preset (wikitext2, c4, alpaca, ptb, pg19), owner/name on the Hub, "
    "or a file."
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
    """What the contestants of a contest have in common."""

    PARAMETERS = "parameters"
    SLICE = "slice"


class Method(StrEnum):
    """How bases are found."""

    FAITHFUL = "faithful"
    PREVIEW = "preview"


MethodOption = Annotated[
    Method,
    typer.Option(
        help="faithful: each basis is found on the part that is sliced already. preview: all bases come "
        "from one pass over the dense model, which is quicker and costs some perplexity."
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where it is opened."""

    model: Annotated[
        str, typer.Option(help="'demo', a Hub id with @revision where wanted, a folder, or a GGUF file.")
    ] = "demo"
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:1, mps or cpu.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"

    def source(self) -> ModelSource:
        """The model source they name (``ModelError``)."""
        from analysis.sources.model import ModelSource

        return ModelSource.parse(self.model, self.device, self.dtype)


@dataclass(frozen=True)
class AmountOptions:
    """How much to cut."""

    target: Annotated[float, typer.Option(help="SP: mean share of the width to cut, from 0 to below 1.")] = (
        0.25
    )
    base: Annotated[float, typer.Option(help="SB: the share that every block loses; at most the target.")] = (
        0.10
    )


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
            help="Which score decides: lr, block-influence, angular; leave-one-out, slice-one, "
            "discarded-energy, heavy-tail, depth."
        ),
    ] = "lr"
    first_token: Annotated[
        bool, typer.Option("--first-token", help="Count the first token of each window in the score.")
    ] = False
    max_fraction: Annotated[float, typer.Option(help="No block loses more than this.")] = 0.9
    rounding: Annotated[Rounding, typer.Option(help="Widths are multiples of this; the mean is kept.")] = (
        Rounding.EIGHT
    )
    embedding: Annotated[
        Embedding,
        typer.Option(help="Tied models: share the table with the head, or untie (the published form)."),
    ] = Embedding.AUTO
    span: Annotated[
        int,
        typer.Option(
            min=0,
            help="So many blocks in a row share one basis; 0: every sub-layer has its own, as published.",
        ),
    ] = 0

    def plan(self, target: float = 0.25, base: float = 0.10) -> Plan:
        """The plan they describe at that target and base (``PlanError``)."""
        from slicing.allocation import find_allocation
        from slicing.plan import Plan

        shares = numbers("shares", self.shares)
        # A setting belongs to the allocations that have it; constant slicing has none.
        known = find_allocation(self.allocation).model_fields
        given = {"base": base, "shares": shares or None}
        given |= {name: getattr(self, name) for name in ("temperature", "spread", "slope", "draw", "rounds")}
        return Plan(
            target=target,
            allocation=self.allocation,
            settings={name: value for name, value in given.items() if name in known and value is not None},
            score=self.score,
            first_token=self.first_token,
            max_fraction=self.max_fraction,
            rounding=int(self.rounding),
            embedding=self.embedding.value,
            span=self.span,
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
        """The fields of a recipe that they fill (``TextError``)."""
        from analysis.sources.text import TextSource
        from slicing.study.requests import drawn_for

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
    window_length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 512

    def fields(self) -> dict[str, Any]:
        """The fields of a recipe that they fill (``TextError``)."""
        from analysis.sources.text import TextSource

        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: getattr(each, "value", each) for name, each in given.items()} | {
            "calibration": TextSource.parse(self.calibration, "calibration"),
            "profile_windows": self.profile_windows or min(8, self.calibration_windows),
        }


@dataclass(frozen=True)
class DrawOptions(CalibrationOptions):
    """One draw of the calibration windows."""

    seed: Annotated[int, typer.Option(help="Draws the windows.")] = 0


@dataclass(frozen=True)
class SlicingOptions(DrawOptions):
    """And how a model is sliced on them."""

    method: MethodOption = Method.FAITHFUL
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Fit the writers anew so that the sliced stream follows the dense one. Takes several times "
            "as long; with few calibration windows it gains on their style alone.",
        ),
    ] = False


def numbers(what: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them (``PlanError`` for anything else)."""
    return _listed(f"{what} must be numbers with commas between them, such as '.1,.2,.3'", text, read_number)


def whole_numbers(what: str, text: str) -> tuple[int, ...]:
    """The same for whole numbers."""
    return _listed(
        f"{what} must be whole numbers with commas between them, such as '0,1,2'", text, read_whole
    )


def _listed(rule: str, text: str, read: Callable[[str], Number | None]) -> tuple[Number, ...]:
    found = [read(each) for each in text.split(",") if each.strip()]
    if None in found:
        raise PlanError(f"The {rule}, but are '{text}'.")
    return tuple(each for each in found if each is not None)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters may be groups: every field of a group becomes an option of its own."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if not is_dataclass(hints[name]):
            changed = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            parameters.append(changed)
            continue
        groups[name] = hints[name]
        within = get_type_hints(hints[name], include_extras=True)
        for field in fields(hints[name]):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=within[field.name],
                )
            )

    @functools.wraps(command)
    def run(**flags: Any) -> None:
        made = {
            name: group(**{field.name: flags.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**made, **flags)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
