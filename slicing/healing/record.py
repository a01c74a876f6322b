"""What healing did, in plain numbers. No torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

from analysis.values import Value


class Look(NamedTuple):
    """One look at the model while it was trained."""

    tokens: int
    """Tokens that it had been trained on."""
    loss: float
    """On the windows held out, nats per token."""


class Healed(Value):
    """Tell what one step of healing did, and whether it was kept: judged by the loss on held-out windows."""

    step: str
    """Its name."""
    windows: int
    """Held out of the training."""
    before: float
    """Loss on them before training, nats per token."""
    after: float
    """The least loss of all looks."""
    tokens: int
    """It was trained on so many, each counted as often as it was seen. Where blocks are trained one by one,
    no block saw more."""
    distinct: int
    """Tokens of the text that training draws from."""
    parameters: int
    """Numbers that were trained."""
    looks: tuple[Look, ...] = ()
    """In their order; the first is in front of all training."""
    ended: Literal["budget", "no gain"] = "budget"
    """Whether the tokens or minutes were used up, or the loss had ceased to fall."""
    seconds: float
    """Training took so long, looks included."""
    precision: str = "exact"
    """Of the matrix products of training: ``exact`` in float32, ``fast`` in bfloat16."""
    accuracy_before: float | None = None
    """The share of held-out texts whose label the model predicted correctly before training, from 0 to 1.

    ``None`` where the healing text has no labels.
    """
    accuracy_after: float | None = None
    """The same share after training."""
    checkpointed: bool = False
    """Whether every block ran once more on the way back, which takes time and less memory."""

    @property
    def kept(self) -> bool:
        """Tell whether the trained model was kept; where it is not better, it is not."""
        return self.after < self.before

    def accuracy_at(self, place: int) -> float | None:
        """Give the accuracy at a look, by its place; it is known at the first and at the best."""
        if place == 0:
            return self.accuracy_before
        losses = [look.loss for look in self.looks]
        return self.accuracy_after if place == losses.index(min(losses)) else None

    @property
    def told(self) -> str:
        """Say in a sentence what it did."""
        losses = f"from {self.before:.3f} to {self.after:.3f} nats per token"
        ended = "" if self.ended == "budget" else ", where the loss had ceased to fall"
        kept = "it was kept" if self.kept else "it was not kept, and the model is as it was before"
        twice = ", running every block twice to save memory" if self.checkpointed else ""
        held = f"{self.windows} windows held out"
        if self.accuracy_before is not None and self.accuracy_after is not None:
            held = f"the labels of {self.windows} texts held out"
            before, after = f"{self.accuracy_before:.1%}", f"{self.accuracy_after:.1%}"
            kept += f"; it predicted {before} of them correctly before training, and {after} after it"
        return (
            f"'{self.step}' trained {self.parameters:,} parameters on {self.tokens:,} tokens, of "
            f"{self.distinct:,} different ones, in {self.seconds:.0f} s{twice}{ended}. The loss on "
            f"{held} went {losses}: {kept}."
        )
