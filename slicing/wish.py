"""A wish for a smaller model: how small, in how many minutes, how good, and where it must open.

Knows nothing about torch, or about what makes a model smaller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import model_validator

from analysis.errors import PlanError
from analysis.numbers import read_number
from analysis.shape import ModelShape
from analysis.values import Value
from slicing.budget import Budget

Opens = Literal["transformers", "everywhere"]
"""``everywhere``: an ordinary checkpoint of its architecture. ``transformers``: also a folder that brings
modelling code of its own."""
LONGEST = 10_080.0
"""Minutes of a wish at most: a week."""
TOLERANCE = 0.01
"""A model may be larger than was wished for by so much: methods come near a size, by whole units."""
_UNITS: Mapping[str, int] = {
    "b": 1,
    **{unit: 1000 ** (place + 1) for place, unit in enumerate(("kb", "mb", "gb", "tb"))},
    **{unit: 1024 ** (place + 1) for place, unit in enumerate(("kib", "mib", "gib", "tib"))},
}
_SIZED = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kmgt]i?b|b)", re.IGNORECASE)
_QUALITY = re.compile(r"ppl\s*<=\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*x", re.IGNORECASE)


class Wish(Value):
    """Say what a model is to become. Checked when it is made: ``PlanError``. One of the sizes is given."""

    fewer: float | None = None
    """The share of the parameters that goes."""
    memory: int | None = None
    """Bytes that the weights take at most, in the dtype that the model is opened in."""
    flops: float | None = None
    """FLOPs of the linear maps for one token, of the dense model's at most."""
    minutes: float = 30.0
    """How long all of it may take."""
    quality: float | None = None
    """The perplexity that is hoped for, of the dense model's at most."""
    opens: Opens = "transformers"

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("fewer", "memory", "flops") if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "no size"
            raise PlanError(
                f"A wish names one size, but got {said}: give either a share of the parameters that goes "
                "(fewer), such as 20%, or the memory of the weights, such as 5GB, or a share of the FLOPs "
                "that stays, such as 0.8."
            )
        for name, what in (
            ("fewer", "share of the parameters that goes"),
            ("flops", "share of the FLOPs that stays"),
        ):
            share = getattr(self, name)
            if share is not None and not 0.0 < share < 1.0:
                raise PlanError(
                    f"The {what} must lie between 0 and 1; got {share:g}: write it as 20% or 0.2."
                )
        if self.memory is not None and self.memory < 1:
            raise PlanError(
                f"The memory must be 1 byte or more; got {self.memory}: write it as 5GB or 600MB."
            )
        if not 0.0 < self.minutes <= LONGEST:
            raise PlanError(
                f"The minutes must be above 0 and at most {LONGEST:,.0f}, which is a week; got "
                f"{self.minutes:g}: give another number."
            )
        if self.quality is not None and self.quality < 1.0:
            raise PlanError(
                f"The perplexity that is hoped for must be 1 or more times the dense model's; got "
                f"{self.quality:g}: write it as 'ppl<=1.3x'."
            )
        return self

    @classmethod
    def parse(
        cls,
        fewer: str = "",
        memory: str = "",
        flops: str = "",
        minutes: float = 30.0,
        quality: str = "",
        opens: Opens = "transformers",
    ) -> Self:
        """Read what a person wrote: ``20%``, ``5GB``, ``0.8``, ``ppl<=1.3x``; empty for none."""
        return cls(
            fewer=read_share("share of the parameters that goes", fewer) if fewer else None,
            memory=read_bytes(memory) if memory else None,
            flops=read_share("share of the FLOPs that stays", flops) if flops else None,
            minutes=minutes,
            quality=read_quality(quality) if quality else None,
            opens=opens,
        )

    @property
    def line(self) -> str:
        """The size that is wished for, as one writes it."""
        if self.fewer is not None:
            return f"{100 * self.fewer:g}\N{NO-BREAK SPACE}% fewer parameters"
        if self.memory is not None:
            return f"{self.memory / 1e9:g} GB of weights"
        return f"{self.flops:g} of the FLOPs"

    def size(self, shape: ModelShape, itemsize: int) -> int:
        """How many parameters may stay, of a model of this shape in a dtype of ``itemsize`` bytes.

        Of FLOPs there is no budget: so many parameters stay as the blocks hold that compute them, taken to be
        alike. Raises ``PlanError`` where that is all of the model, or more than blocks hold.
        """
        if self.fewer is not None:
            found = Budget(measure="parameters", amount=self.fewer).parameters(shape)
            assert found is not None
            return found
        each, count = _mean_block(shape), shape.block_count
        if self.memory is not None:
            size = self.memory // itemsize
            if size >= shape.parameters:
                raise PlanError(
                    f"The weights take {shape.parameters * itemsize / 1e9:.3g} GB with {itemsize} bytes for "
                    f"each parameter, and {self.memory / 1e9:.3g} GB is not less: ask for less memory."
                )
        else:
            assert self.flops is not None
            compute = 2 * sum(row.products(shape.hidden_size) for row in shape.sublayers) / count
            size = math.floor(shape.parameters - (1 - self.flops) * shape.flops_per_token / compute * each)
        rest = shape.parameters - count * each
        if size <= rest + each:
            raise PlanError(
                f"A wish for {self.line} leaves less than one of {count} blocks: embedding, head and "
                f"the like have {rest:,.0f} of {shape.parameters:,} parameters, and stay. Ask for more."
            )
        return size

    def budgets(self, shape: ModelShape, itemsize: int) -> tuple[Budget, ...]:
        """The budgets that meet it, the most exact one first; not every method can keep every one.

        For a share of the parameters that is the usual one, of the nearest number of whole blocks. For
        memory and FLOPs it is a number of parameters, or else so many whole blocks as it takes.
        """
        size = self.size(shape, itemsize)
        if self.fewer is not None:
            return (Budget(measure="parameters", amount=self.fewer),)
        each = _mean_block(shape)
        found = [Budget(measure="size", amount=size)]
        if (blocks := math.ceil((shape.parameters - size) / each)) < shape.block_count:
            found.append(Budget(measure="parameters", amount=blocks * each / shape.parameters))
        return tuple(found)

    def missed_by(self, shape: ModelShape, itemsize: int, parameters: int, flops: int) -> str:
        """Say why a model is larger than is wished for; empty where it is not, to ``TOLERANCE``."""
        if self.flops is not None:
            share = flops / shape.flops_per_token
            wanted = f"{self.flops:g} of the FLOPs"
            return f"it has {share:.3f} of the FLOPs, not {wanted}" if _above(share, self.flops) else ""
        size = self.size(shape, itemsize)
        return f"it has {parameters:,} parameters, not {size:,}" if _above(parameters, size) else ""


def _above(got: float, wanted: float) -> bool:
    return got > wanted * (1 + TOLERANCE)


def _mean_block(shape: ModelShape) -> float:
    """Parameters of a block."""
    return sum(map(shape.block_parameters, range(shape.block_count))) / shape.block_count


def read_share(what: str, text: str) -> float:
    """Read a share such as ``20%`` or ``0.2`` (``PlanError``)."""
    said = text.strip()
    number = read_number(said.removesuffix("%"))
    if number is None or (not said.endswith("%") and number >= 1.0):
        raise PlanError(f"The {what} must be a share such as 20% or 0.2; got '{text}': write it so.")
    return number / 100 if said.endswith("%") else number


def read_bytes(text: str) -> int:
    """Read a size such as ``5GB``, ``600 MB`` or ``4.5GiB`` in bytes (``PlanError``)."""
    found = _SIZED.fullmatch(text.strip())
    number = read_number(found[1]) if found else None
    if found is None or number is None or number * _UNITS[found[2].lower()] > 2**60:
        raise PlanError(
            f"The memory must be a number with its unit (B, kB, MB, GB or TB; KiB, MiB, GiB or TiB), such as "
            f"5GB, and at most 2^60 bytes; got '{text}': write it so."
        )
    return math.floor(number * _UNITS[found[2].lower()])


def read_quality(text: str) -> float:
    """Read a hope such as ``ppl<=1.3x``: times the dense model's perplexity (``PlanError``)."""
    found = _QUALITY.fullmatch(text.strip())
    number = read_number(found[1]) if found else None
    if number is None:
        raise PlanError(
            "The quality must be a perplexity beside the dense model's, such as 'ppl<=1.3x'; got "
            f"'{text}': write it so."
        )
    return number
