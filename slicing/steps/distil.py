"""Distillation: what is left is trained to predict what the dense model predicts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pydantic import Field

from analysis.anatomy import blocks
from analysis.late import functional, torch
from slicing.depth.layout import Layout
from slicing.healing.examples import Examples
from slicing.healing.streams import AlignedStreams
from slicing.healing.training import Loss
from slicing.steps.base import Axis, Made, step
from slicing.steps.healing import Training

if TYPE_CHECKING:
    from torch import Tensor

    from slicing.view import ModelView


@step
class Distil(Training):
    """Train by the Kullback-Leibler divergence of the dense model's predictions from the smaller one's.

    ``KL(p || q) = sum_v p_v (log p_v - log q_v)``, mean over tokens, at temperature 1, over the whole
    vocabulary: the dense model runs beside. Of a text with a label only the label's tokens count. With
    ``states`` the stream behind every block is pulled to the dense one's at the same depth as well.
    """

    name = "distil"
    title = "Distillation from the dense model"
    source = "Hinton et al., 2015; Muralidharan et al., Minitron, NeurIPS 2024"
    cite = "muralidharan2024minitron"

    rate: float = Field(default=5e-5, gt=0.0, title="Learning rate")
    """The largest; it rises to this and falls by a cosine. With few tokens, small steps of few windows lose
    less: on the demo model, 20,480 tokens in steps of one window at 3e-5 did as much as 40,960 in steps of
    four at 1e-4."""
    batch: int = Field(default=2, ge=1, title="Windows in a step")
    """Of the optimiser."""
    states: float = Field(default=0.0, ge=0.0, title="Weight of the hidden states")
    """Of their squared distance beside the divergence, tokens weighted by the inverse RMS of the dense
    stream. 0: outputs alone. Not for sliced models, whose stream has other directions."""

    logits = 6
    """The dense model's chances, the student's, what they differ by in three steps, and a gradient."""

    @property
    def compares_states(self) -> bool:
        """Where they have a weight."""
        return self.states > 0.0

    def why_not_after(self, axes: Collection[Axis]) -> str:
        """Hidden states of sliced models are not compared."""
        if not self.states or "stream" not in axes:
            return ""
        return (
            "The stream of a sliced model has other directions than the dense one, so that hidden states are "
            "not compared: leave 'states' out."
        )

    def loss(self, view: ModelView, made: Made, student: Any) -> Loss:
        """The divergence, and the distance of the streams where that is asked for."""
        dense, weight = view.model, self.states
        layout = made.layout or Layout.whole(len(blocks(dense)))
        streams = AlignedStreams(dense, student, layout) if weight else None

        def predicted(model: Any, rows: Examples) -> Tensor:
            logits = rows.predictions(model(rows.tokens, use_cache=False).logits)
            return functional.log_softmax(logits.float(), dim=-1)

        def divergence(student: Any, rows: Examples) -> Tensor:
            with torch.no_grad():
                wanted = predicted(dense, rows)
            found = predicted(student, rows)
            count = found.shape[:-1].numel()
            return functional.kl_div(found, wanted, log_target=True, reduction="sum") / count

        if streams is None:
            return divergence

        def both(student: Any, rows: Examples) -> Tensor:
            with streams as distance:
                return divergence(student, rows) + weight * distance(None if rows.plain else rows.real)

        return both
