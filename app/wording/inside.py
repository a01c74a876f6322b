"""What is said of a plan that cuts inside the blocks, before it is carried out."""

from __future__ import annotations

import math

from app.wording.numbers import minus
from slicing.inner.costs import SCALED_BLOCKS, UnitCosts


def predicted_loss(nats: float) -> str:
    """Say what a predicted rise of the loss means, and how far to trust it."""
    return (
        f"Predicted: **{math.exp(nats):.2f} times the dense perplexity**, "
        f"{minus(f'{nats:+.3f}')} nats per token, before anything is fitted. The costs of all parts are "
        "added up, which counts too little where much goes: compare to know."
    )


def first_blocks(costs: UnitCosts) -> str:
    """Say how the first blocks are treated, whose predictions are too low."""
    if costs.measured_windows:
        return (
            f"In the first {SCALED_BLOCKS} blocks costs are scaled to what was measured without their "
            "attention and MLP."
        )
    return (
        f"In the first {SCALED_BLOCKS} blocks predictions are low, so that this plan cuts too much there. "
        "The comparison measures what their attention and MLP cost; a profile can do so too."
    )
