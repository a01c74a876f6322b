"""Fine-tuning: what is left is trained to predict the next token of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from slicing.healing.examples import Examples
from slicing.healing.student import Trained
from slicing.healing.training import Loss
from slicing.steps.base import Made, step
from slicing.steps.healing import Training

if TYPE_CHECKING:
    from torch import Tensor

    from slicing.view import ModelView


@step
class Finetune(Training):
    """Train by the cross-entropy of the next token, as SliceGPT recovers what slicing lost.

    By default with its adapters: rank 32, alpha 10 (2401.15024, section 4). On a healing text with labels it
    learns to tell the label behind each text, as Yuan et al., Why Lift so Heavy?, 2024, train a model whose
    last blocks are gone on a classification task.
    """

    name = "finetune"
    title = "Fine-tuning on the next token"
    source = "Ashkboos et al., SliceGPT, ICLR 2024"
    cite = "ashkboos2024slicegpt"
    known_issue = (
        "It learns the text, and not what the dense model knows: on text of another kind it can lose what it "
        "gains on its own."
    )

    train: Trained = Field(default="lora", title="What is trained")
    """All numbers, or adapters of low rank (LoRA), added in at the end, which need far less memory."""
    rate: float = Field(default=2e-4, gt=0.0, title="Learning rate")
    """The largest; it rises to this and falls by a cosine."""

    def loss(self, view: ModelView, made: Made, student: Any) -> Loss:
        """The mean negative log-likelihood of all tokens but the first, or of those of a label."""

        def next_token(student: Any, rows: Examples) -> Tensor:
            return rows.next_token_loss(student(rows.tokens, use_cache=False).logits)

        return next_token
