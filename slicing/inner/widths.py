"""How much stays inside every block: units of each kind, or nothing of a sub-layer at all.

Torch-free: what a model of these widths costs is known before a weight moves.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from pydantic import Field, model_validator

from analysis.errors import PlanError
from analysis.shape import ModelShape, SublayerShape, UnitShape
from analysis.units import Kind
from analysis.values import Value

ORDER: tuple[Kind, ...] = (
    "experts",
    "channels",
    "expert_channels",
    "kv_groups",
    "value_pairs",
    "rotary_pairs",
)
"""Kinds in the order in which they are taken out: whole heads before what is inside them."""


KINDS: dict[Kind, str] = {
    "experts": "experts",
    "channels": "channels",
    "expert_channels": "channels of each expert",
    "kv_groups": "heads of keys and values",
    "value_pairs": "value coordinates of each head",
    "rotary_pairs": "rotary pairs of each head",
}
"""What a width counts, in words."""


class Form(NamedTuple):
    """What the form that a model has to be exported to can say: methods decide by it.

    The exports of ``slicing.export`` refuse what it excludes, since they are given models of any origin.
    """

    kinds: tuple[Kind, ...]
    """The kinds whose numbers may differ from block to block."""
    biased_heads: bool = True
    """Whether heads may go where input projections of the attention have biases."""
    no_first_attention: bool = True
    """Whether the first block may be without attention."""
    version: int = 1
    """Counted up where a method decides otherwise for the form: part of the keys of steps."""

    def kinds_in(self, shape: ModelShape) -> tuple[Kind, ...]:
        """The kinds that may go of a model of this shape."""
        biased = any(each.reader_bias for each in shape.sublayers if each.kind == "attention")
        if not biased or self.biased_heads:
            return self.kinds
        return tuple(each for each in self.kinds if each != "kv_groups")

    def stay(self, shape: ModelShape) -> tuple[tuple[int, int], ...]:
        """The sub-layers, by block and row, of which something has to stay."""
        if self.no_first_attention:
            return ()
        return tuple((0, row) for row, each in enumerate(shape.blocks[0]) if each.kind != "mlp")


FORMS: dict[str, Form] = {
    "any": Form(ORDER),
    "gguf": Form(("channels", "kv_groups"), biased_heads=False, version=2),
    "deci": Form(("channels",), no_first_attention=False, version=2),
}
"""Every form by its name; ``any`` is our own. In ``deci`` every block that has attention has all query heads.
No form but our own has a size for the values alone."""


class SublayerWidths(Value):
    """What stays of one sub-layer. A kind that is not named stays whole."""

    kept: dict[Kind, int] = Field(default_factory=dict)
    """How many units stay; of kinds that fall into parts (``UnitShape.parts``), how many of every part that
    stays: the rank of the values of a group, the rotary pairs of a head."""
    gone: bool = False
    """Whether nothing of it stays, its norm included."""

    @property
    def whole(self) -> bool:
        """Whether all of it stays."""
        return not self.kept and not self.gone


class InnerWidths(Value):
    """The widths inside every block of a model, sub-layer by sub-layer."""

    blocks: tuple[tuple[SublayerWidths, ...], ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for place, block in enumerate(self.blocks):
            for each in block:
                for kind, count in each.kept.items():
                    if count < 1:
                        name = kind.replace("_", " ")
                        raise PlanError(
                            f"Block {place} keeps {count} of its {name}: keep one at least, or take the "
                            "whole sub-layer out."
                        )
        return self

    @classmethod
    def whole(cls, shape: ModelShape) -> Self:
        """All of a model of this shape."""
        return cls(blocks=tuple(tuple(SublayerWidths() for _ in block) for block in shape.blocks))

    @property
    def label(self) -> str:
        """What stays, in words: of every kind from how many to how many, and which sub-layers are gone."""
        parts = []
        for kind in ORDER:
            counts = [each.kept[kind] for block in self.blocks for each in block if kind in each.kept]
            if counts:
                span = (
                    f"{min(counts):,}"
                    if min(counts) == max(counts)
                    else f"{min(counts):,} to {max(counts):,}"
                )
                parts.append(f"{span} {KINDS[kind]} in {len(counts)} sub-layers")
        gone = sum(each.gone for block in self.blocks for each in block)
        if gone:
            parts.append(f"{gone} sub-layers gone")
        return ", ".join(parts) or "all"

    def check_fits(self, shape: ModelShape) -> None:
        """Raise ``PlanError`` where a model of this shape has no such units, or fewer."""
        if len(self.blocks) != shape.block_count:
            raise PlanError(
                f"The widths are for a model of {len(self.blocks)} blocks, and this one has "
                f"{shape.block_count}: make them for this model."
            )
        for place, (widths, block) in enumerate(zip(self.blocks, shape.blocks, strict=True)):
            if len(widths) != len(block):
                raise PlanError(f"Block {place} has {len(block)} sub-layers, and not {len(widths)}.")
            for each, there in zip(widths, block, strict=True):
                for kind, count in each.kept.items():
                    most = units_of(there, kind)
                    if count * most.parts > most.count:
                        raise PlanError(
                            f"Block {place} has {most.count // most.parts} {kind.replace('_', ' ')}, and "
                            f"{count} are to stay: keep at most so many."
                        )

    def shape_after(self, shape: ModelShape) -> ModelShape:
        """The shape of the model that is left, from that of the dense one (``PlanError`` for another)."""
        self.check_fits(shape)
        found = tuple(
            tuple(map(_cut, block, widths)) for block, widths in zip(shape.blocks, self.blocks, strict=True)
        )
        return shape.model_copy(update={"blocks": found})


def units_of(shape: SublayerShape, kind: Kind) -> UnitShape:
    """The units of a kind in a sub-layer (``PlanError`` where it has none)."""
    found = [each for each in shape.units if each.kind == kind]
    if not found:
        have = ", ".join(sorted({each.kind.replace("_", " ") for each in shape.units})) or "none"
        raise PlanError(
            f"A sub-layer of the kind '{shape.kind}' has no {kind.replace('_', ' ')} that can go; it has: "
            f"{have}."
        )
    return found[0]


def parameters_held(shape: ModelShape, kind: Kind) -> int:
    """How many parameters of a model all its units of a kind hold together."""
    every = [each for sublayer in shape.sublayers for each in sublayer.units if each.kind == kind]
    width = shape.hidden_size
    return sum(each.count * ((each.reader_rows + each.writer_columns) * width + each.inner) for each in every)


def parameters_saved(shape: SublayerShape, widths: SublayerWidths, hidden_size: int) -> int:
    """How many parameters fewer a sub-layer of these widths has, in a model of this hidden size."""
    return shape.parameters(hidden_size) - _cut(shape, widths).parameters(hidden_size)


def _cut(shape: SublayerShape, widths: SublayerWidths) -> SublayerShape:
    """The shape of what is left of a sub-layer."""
    if widths.gone:
        return SublayerShape(kind=shape.kind, reader_rows=0, writer_columns=0, norm=0)
    changes = {
        name: getattr(shape, name)
        for name in ("reader_rows", "writer_columns", "reader_bias", "inner", "cached")
    }
    changes |= {name: getattr(shape, name) for name in ("idle_reader_rows", "idle_writer_columns")}
    groups_left = 1.0
    kinds: list[Kind] = [each for each in ORDER if each in widths.kept]
    for kind in kinds:
        units, left = units_of(shape, kind), widths.kept[kind] * units_of(shape, kind).parts
        gone: float = units.count - left
        if kind == "kv_groups":
            groups_left = left / units.count
            changes["cached"] = round(changes["cached"] * groups_left)
        elif kind in ("value_pairs", "rotary_pairs"):  # of the groups that stay
            gone *= groups_left
        if kind == "expert_channels":
            for name in ("idle_reader_rows", "idle_writer_columns"):
                changes[name] = round(changes[name] * left / units.count)
        biases = min(units.inner, units.reader_rows) if shape.reader_bias else 0
        changes["reader_rows"] -= round(gone * units.reader_rows)
        changes["writer_columns"] -= round(gone * units.writer_columns)
        changes["reader_bias"] -= round(gone * biases)
        changes["inner"] -= round(gone * (units.inner - biases))
    return shape.model_copy(update={**changes, "units": ()})
