"""How much a command cuts: a target of the width, or a share of the parameters.

Knows nothing about what commands do, nor, until it is used, about torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.errors import PlanError
from app.cli.options import SharingOptions

if TYPE_CHECKING:
    from slicing.plans import Plan


@dataclass(frozen=True)
class AmountOptions:
    """How much to cut."""

    target: Annotated[float, typer.Option(help="SP: mean share of the width to cut, from 0 to below 1.")] = (
        0.25
    )
    base: Annotated[float, typer.Option(help="SB: the share that every block loses; at most the target.")] = (
        0.10
    )
    fewer: Annotated[
        str,
        typer.Option(
            help="Instead of the target: the share of the parameters that goes, as 20%, to the nearest whole "
            "block; the SP that reaches it is computed."
        ),
    ] = ""

    def share(self) -> float | None:
        """The share of the parameters that goes, where it was given (``PlanError``)."""
        if not self.fewer:
            return None
        from slicing.wish import Wish

        if self.target != type(self).target:
            raise PlanError(
                f"Give either --target or --fewer, but got {self.target:g} and '{self.fewer}': leave one out."
            )
        return Wish.parse(fewer=self.fewer).fewer

    def plan(self, cut: SharingOptions, device: str) -> Plan:
        """The plan at the target, or one whose target is still to be found where ``fewer`` is given."""
        return cut.plan(device, max(self.target, self.base) if self.fewer else self.target, self.base)
