"""Optimal transport: every coordinate of the stream is merged into those that are kept and act like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.bases import Seen
from analysis.device import widen
from analysis.late import torch
from slicing.basis.base import Basis, along, basis
from slicing.transport import sinkhorn

if TYPE_CHECKING:
    from torch import Tensor

STRENGTH = 0.1
"""Of the entropy (lambda), against costs whose median is 1."""


@basis
class Transport(Basis):
    """The span of an entropic transport from all D coordinates to the W of largest mean square.

    The cost of two coordinates is the L1 distance of their activations over a sample of tokens, both
    marginals are uniform, and the plan T (D, W) is made orthonormal by its QR decomposition, since a norm
    lets nothing else pass (DOTResize, 2507.04517).
    """

    name = "transport"
    title = "Optimal transport (DOTResize)"
    source = "Verma et al., DOTResize, 2025"
    cite = (
        "@misc{verma2025dotresize, title = {{DOTResize}: Reducing {LLM} Width via Discrete Optimal "
        "Transport-based Neuron Merging}, author = {Verma, Neha and Murray, Kenton and Duh, Kevin}, "
        "year = {2025}, eprint = {2507.04517}, archivePrefix = {arXiv}}"
    )
    known_issue = (
        "No code of DOTResize is public, so its cost, its sample and the strength of its entropy (0.1 here, "
        "of costs divided by their median) are as far as they could be found out, not checked."
    )
    quick = False
    tokens = 256

    def directions(self, seen: Seen, width: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """The Q of the plan's QR decomposition, completed to a basis of the whole stream."""
        assert seen.tokens is not None, "it asks for tokens"
        total = seen.second.moment()
        columns = widen(seen.tokens, total.device).T  # (D, n)
        kept = total.diagonal().argsort(descending=True, stable=True)[:width]
        cost = torch.cdist(columns, columns[kept], p=1.0)
        plan = sinkhorn(cost / cost.median().clamp_min(torch.finfo(cost.dtype).tiny), STRENGTH)
        q, r = torch.linalg.qr(plan, mode="complete")
        signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)
        q[:, :width] *= signs  # so that a coordinate that stays as it is keeps its sign
        return q, along(q, total)
