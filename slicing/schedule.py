"""What was decided: the width of the residual stream at every block, and what that will cost.

Everything is computed from shapes before a weight moves. Knows nothing about torch, or about how the
fractions were found.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from analysis.errors import PlanError
from analysis.shape import ModelShape, SublayerShape
from analysis.values import Value, without
from slicing.allocation import check_fraction

EmbeddingForm = Literal["shared", "untied"]
"""``shared``: the table stays whole and is the head too, with one rotation after the look-up.
``untied``: the table is sliced, and the head gets a copy of its own (the published form)."""

ROUNDINGS = (1, 8, 64)


def without_middle(data: Any, name: str) -> Any:
    """Read what slicescope 0.1 wrote, which could cut a width of its own between attention and MLP.

    Raises ``PlanError`` where it did.
    """
    if isinstance(data, dict) and (found := data.get(name)) not in (None, 1.0, (), []):
        raise PlanError(
            f"This was made with a width of its own between attention and MLP ({name} {found}), which "
            "slicescope no longer cuts, as it gained nothing: open it with slicescope 0.1."
        )
    return without(data, name)


class SiteShape(NamedTuple):
    """What a schedule makes of one sub-layer."""

    entering: int
    leaving: int
    """Widths of the stream."""
    turns: bool
    """Whether the stream leaves in another basis, by a shortcut matrix (entering, leaving)."""

    @property
    def shortcut(self) -> int:
        """Parameters of the shortcut."""
        return self.entering * self.leaving if self.turns else 0


class SlicingSchedule(Value):
    """Widths of the residual stream: one entering each block, then the one entering the head."""

    hidden_size: int
    """D, the dense width."""
    widths: tuple[int, ...]
    """(L + 1,): ``widths[l]`` enters block l."""
    embedding: EmbeddingForm
    span: int = 0
    """So many blocks in a row share one basis of the stream, without shortcut matrices between; 0: every
    sub-layer has its own, as published."""
    plain: bool = False
    """One basis and one width serve all blocks and the head, which makes a model of the dense one's class."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, data: Any) -> Any:
        return without_middle(data, "middles")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.span < 0:
            raise PlanError(f"The span must be 0 or more blocks, but is {self.span}.")
        if len(self.widths) < 2:
            raise PlanError("A schedule needs a width for each block and one for the head.")
        for place, width in enumerate(self.widths):
            if not 1 <= width <= self.hidden_size:
                raise PlanError(
                    f"Width {place} of the schedule is {width}, but must lie between 1 and "
                    f"{self.hidden_size}."
                )
        if self.plain and (len(set(self.widths)) > 1 or self.embedding != "untied"):
            raise PlanError("A plain model has one width everywhere, and two tables: choose the untied form.")
        if self.widths[-1] != self.hidden_size and not self.plain:
            raise PlanError(
                f"The head reads the whole stream: the last width must be {self.hidden_size}, "
                f"but is {self.widths[-1]}."
            )
        return self

    @classmethod
    def uncut(cls, shape: ModelShape, span: int = 0) -> Self:
        """The schedule that leaves every width as it is."""
        return cls(
            hidden_size=shape.hidden_size,
            widths=(shape.hidden_size,) * (shape.block_count + 1),
            embedding="shared" if shape.tied else "untied",
            span=span,
        )

    @classmethod
    def in_one_basis(cls, shape: ModelShape, width: int) -> Self:
        """The schedule of a plain model of hidden size ``width``."""
        count = shape.block_count
        return cls(
            hidden_size=shape.hidden_size,
            widths=(width,) * (count + 1),
            embedding="untied",
            span=count,
            plain=True,
        )

    @classmethod
    def from_fractions(
        cls,
        fractions: Sequence[float],
        hidden_size: int,
        rounding: int,
        embedding: EmbeddingForm,
        span: int = 0,
    ) -> Self:
        """Round fractions (L,) to widths that are multiples of ``rounding``, keeping their mean.

        Largest remainder: every width is rounded down, then the blocks that lost most get one step back
        until the mean is met, up to half a step in all. A block that is not cut keeps D whatever the
        rounding. The head's width is D.
        """
        for fraction in fractions:
            check_fraction("slice fraction of a block", fraction)
        if rounding < 1 or rounding > hidden_size:
            raise PlanError(
                f"The rounding must lie between 1 and the hidden size of {hidden_size}, but is {rounding}."
            )
        widths = _round_to_mean(np.asarray(fractions, dtype=np.float64), hidden_size, rounding)
        return cls(
            hidden_size=hidden_size,
            widths=(*widths.astype(int).tolist(), hidden_size),
            embedding=embedding,
            span=span,
        )

    @property
    def block_fractions(self) -> tuple[float, ...]:
        """Slice fraction of each block after rounding, (L,)."""
        return tuple(1.0 - width / self.hidden_size for width in self.widths[:-1])

    @property
    def mean_slice(self) -> float:
        """The mean slice fraction over blocks after rounding: what SP asks for."""
        return float(np.mean(self.block_fractions))

    def check_fits(self, shape: ModelShape) -> None:
        """Raise ``PlanError`` when the schedule was made for another model."""
        if self.hidden_size != shape.hidden_size or len(self.widths) != shape.block_count + 1:
            raise PlanError(
                f"The schedule is for {len(self.widths) - 1} blocks of width {self.hidden_size}, but the "
                f"model has {shape.block_count} of width {shape.hidden_size}: make a plan for this model."
            )
        if self.embedding == "shared" and not shape.tied:
            raise PlanError(
                "The shared embedding form needs a model whose head is its embedding table, and this one has "
                "two tables: choose the untied form."
            )

    def turns(self, block: int, last: bool) -> bool:
        """Tell whether a sub-layer of a block, its ``last`` or another, leaves the stream in another basis.

        The head has a basis of its own, the plain one, and so have blocks in a row whose shared basis cuts
        nothing.
        """
        if self.span == 0:
            return True
        after = block + 1
        if self.plain:
            return False
        if not last or (after < len(self.widths) - 1 and after % self.span):
            return False
        return self.cuts(block) or (after < len(self.widths) - 1 and self.cuts(after))

    def basis_of(self, block: int) -> tuple[int, int]:
        """The blocks, from and up to but without, that share a basis with ``block``; see ``span``."""
        if self.span == 0:
            return block, block + 1
        first = block - block % self.span
        return first, min(first + self.span, len(self.widths) - 1)

    def widest(self, block: int) -> int:
        """The largest width to which the basis of ``block`` is cut, or D where it is not."""
        widths = self.widths[slice(*self.basis_of(block))]
        return max((width for width in widths if width < self.hidden_size), default=self.hidden_size)

    def cuts(self, block: int) -> bool:
        """Tell whether anything is cut of the stream in the basis of ``block``."""
        return min(self.widths[slice(*self.basis_of(block))]) < self.hidden_size

    def symmetric_parameters(self, shape: ModelShape) -> int:
        """Parameters that a lossless code could leave out, at most: every basis that a shortcut matrix enters
        can be turned within itself without changing the function, d (d - 1) / 2 numbers for d dimensions
        (Getting Free Bits Back from Rotational Symmetries, 2410.01309).

        Where blocks of several widths share a basis, only what each width adds can be turned.
        """
        if self.span == 0:
            return sum(site.entering * (site.entering - 1) // 2 for site in self.sites(shape))
        total = 0
        for block in range(shape.block_count):
            first, last = self.basis_of(block)
            if block != first or not self.cuts(block):  # counted already, or the head's
                continue
            steps = [0, *sorted(set(self.widths[first:last]))]
            total += sum((b - a) * (b - a - 1) // 2 for a, b in itertools.pairwise(steps))
        return total

    def sites(self, shape: ModelShape) -> Iterator[SiteShape]:
        """Every sub-layer in order."""
        for index, block in enumerate(shape.blocks):
            entering = self.widths[index]
            for _ in block[:-1]:
                yield SiteShape(entering, entering, self.turns(index, last=False))
            yield SiteShape(entering, self.widths[index + 1], self.turns(index, last=True))

    def shape_after(self, shape: ModelShape) -> ModelShape:
        """The shape of the sliced model, from that of the dense one; exact."""
        self.check_fits(shape)
        if self.plain:
            return shape.model_copy(update={"hidden_size": self.widths[0], "tied": False})
        shared = self.embedding == "shared"
        sites = self.sites(shape)
        blocks = tuple(
            tuple(_sliced(sublayer, site) for sublayer, site in zip(block, sites, strict=False))
            for block in shape.blocks
        )
        return shape.model_copy(
            update={
                "blocks": blocks,
                "tied": shared,
                "rotated": shared,
                "final_norm": shape.final_norm if shared else 0,  # the shared table cannot take it
                "final_shift": shape.final_shift and shared,
                "head_bias": shape.head_bias or (shape.final_shift and not shared),
            }
        )


def _sliced(sublayer: SublayerShape, site: SiteShape) -> SublayerShape:
    """The sub-layer at new widths, with what its norm multiplied by and added in its readers."""
    changes = {
        "entering": site.entering,
        "leaving": site.leaving,
        "turns": site.turns,
        "norm": 0,
        "reader_bias": sublayer.reader_bias + sublayer.new_bias,
        "new_bias": 0,
    }
    return sublayer.model_copy(update=changes)


def constant_at_parameters(
    shape: ModelShape, parameters: int, rounding: int, embedding: EmbeddingForm
) -> SlicingSchedule:
    """The constant schedule whose parameter count comes nearest to ``parameters``, by bisection.

    Its steps are one rounding step in one block. Raises ``PlanError`` when even cutting nothing, or
    nearly everything, stays on the same side.
    """

    def at(steps: int) -> SlicingSchedule:
        fraction = steps / (shape.block_count * shape.hidden_size)
        return SlicingSchedule.from_fractions(
            [fraction] * shape.block_count, shape.hidden_size, rounding, embedding
        )

    def size(steps: int) -> int:
        return at(steps).shape_after(shape).parameters

    low, high = 0, (shape.hidden_size - rounding) * shape.block_count  # low is the largest model
    if not size(high) <= parameters <= size(low):
        raise PlanError(
            f"No constant schedule has {parameters:,} parameters: they range from "
            f"{size(high):,} to {size(low):,} here."
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) >= parameters else (low, middle)
    return at(min(low, high, key=lambda steps: abs(size(steps) - parameters)))


def plain_at(shape: ModelShape, fraction: float, step: int) -> SlicingSchedule:
    """The plain schedule that loses ``fraction`` of the width, to the nearest multiple of ``step``.

    Something is lost where the fraction is not 0, and something stays.
    """
    check_fraction("target (SP)", fraction)
    if fraction == 0.0:
        return SlicingSchedule.in_one_basis(shape, shape.hidden_size)
    most = _steps(shape, step)
    return SlicingSchedule.in_one_basis(
        shape, step * min(max(round(shape.hidden_size * (1 - fraction) / step), 1), most)
    )


def plain_at_parameters(shape: ModelShape, parameters: int, step: int) -> SlicingSchedule:
    """The plain schedule whose parameter count comes nearest to ``parameters``, by bisection.

    Widths are multiples of ``step``. Raises ``PlanError`` when the largest or the smallest stays on the same
    side.
    """

    def at(steps: int) -> SlicingSchedule:
        return SlicingSchedule.in_one_basis(shape, min(steps * step, shape.hidden_size))

    def size(steps: int) -> int:
        return at(steps).shape_after(shape).parameters

    low, high = 1, _steps(shape, step) + 1  # the last is the whole width
    if not size(low) <= parameters <= size(high):
        raise PlanError(
            f"No plain model in one basis has {parameters:,} parameters: they range from {size(low):,} to "
            f"{size(high):,} here, in steps of {step} dimensions."
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    return at(min(high, low, key=lambda steps: abs(size(steps) - parameters)))


def _steps(shape: ModelShape, step: int) -> int:
    """How many multiples of ``step`` are less than the hidden size (``PlanError`` for none)."""
    if step >= shape.hidden_size:
        raise PlanError(
            f"Widths of this model are multiples of {step}, and none is less than its {shape.hidden_size}: "
            "choose a smaller rounding."
        )
    return (shape.hidden_size - 1) // step


def _round_to_mean(fractions: np.ndarray, hidden_size: int, step: int) -> np.ndarray:
    exact = hidden_size * (1.0 - fractions)
    # A whisker is added, so that an exact multiple that floating point left just below itself stays.
    widths = np.floor(exact / step + 1e-9) * step
    widths[fractions <= 0.0] = hidden_size
    widths = np.maximum(widths, min(step, hidden_size))
    steps = round((exact.sum() - widths.sum()) / step)
    order = np.arange(fractions.size)
    # Equal remainders are served in golden-ratio order, which spreads the steps evenly over the depth.
    order = order[np.lexsort((order * 0.6180339887498949 % 1.0, np.round(-(exact - widths), 9)))]
    for block in [b for b in order if widths[b] + step <= hidden_size][: max(steps, 0)]:
        widths[block] += step
    return widths
