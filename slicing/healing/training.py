"""The training loop of healing: look, step, keep the best, stop when nothing is gained, go on after a kill.

Knows nothing about what the loss is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analysis.batches import batch_size
from analysis.device import out_of_memory_told, synchronise
from analysis.late import nn, no_grad, torch
from analysis.precision import Precision
from slicing.healing.examples import Examples
from slicing.healing.judged import AT_A_TIME, held_loss
from slicing.healing.limits import Limits, rate_at
from slicing.healing.looks import shown
from slicing.healing.record import Healed, Look
from slicing.healing.resume import Resume
from slicing.healing.short import Moments, optimiser_of, set_rate
from slicing.healing.student import products

if TYPE_CHECKING:
    from torch import Tensor

LOOKS = 10
"""How often the loss on the held-out windows is looked at, beside that before training."""
PATIENCE = 5
"""Looks in a row without gain after which training stops: much is gained late, when the rate is small."""
CLIP = 1.0
"""The largest norm of a gradient."""

Loss = Callable[[Any, Examples], "Tensor"]
"""Takes a model and examples (B, T). Gives the mean loss of the tokens that count, with its graph."""


@dataclass(frozen=True)
class Settings:
    """How a training goes."""

    name: str
    """Of the step that trains."""
    rate: float
    """The largest learning rate."""
    batch: int
    """Windows in a step of the optimiser."""
    seed: int
    """Of the order of the windows."""
    precision: Precision
    moments: Moments = "fp32"
    """Of the optimiser."""


@dataclass
class _State:
    """How far training has come. All of it is stored, so that training goes on as if nothing had been."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    looks: list[Look] = field(default_factory=list)
    waited: int = 0
    ended: str = ""

    def plain(self) -> dict[str, Any]:
        """Give it as plain data: a file of weights is read back only where it holds no type of ours."""
        return {**vars(self), "looks": [tuple(each) for each in self.looks]}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> _State:
        """Make it of its plain data."""
        return cls(**{**plain, "looks": [Look(*each) for each in plain["looks"]]})


def train(
    student: nn.Module,
    loss: Loss,
    examples: Examples,
    held: Examples,
    limits: Limits,
    settings: Settings,
    tell: Callable[[float], None],
    resume: Resume | None = None,
) -> Healed:
    """Train the parameters of ``student`` that require gradients, and leave it with the best of its looks.

    ``examples`` (N, T) are trained on by AdamW, in an order drawn anew for each pass over them; the loss on
    ``held`` (n, T) is looked at ``LOOKS`` times while the budget of ``limits`` is used up. The learning rate
    rises, and falls by a cosine. Dropout is off, so that the same tokens give the same weights. ``tell`` gets
    the share of the budget that is used. With ``resume`` the state is stored at looks, and a training that
    was interrupted goes on from there.
    """
    parameters = [each for each in student.parameters() if each.requires_grad]
    optimiser = optimiser_of(parameters, settings.rate, settings.moments)
    state, best = _State(), _copied(parameters)
    if resume and (stored := resume.load()):
        state = _State.read(stored["state"])
        _put(parameters, stored["now"])
        best = stored["best"]
        optimiser.load_state_dict(stored["optimiser"])
    device = parameters[0].device
    before, start = state.seconds, time.perf_counter()

    def spent() -> float:
        synchronise(device)
        return before + time.perf_counter() - start

    with out_of_memory_told("training", device), shown(settings.name, len(held)) as note:
        while True:
            used = limits.used(state.tokens, state.seconds)
            if used * LOOKS >= len(state.looks) or used >= 1.0:
                best = _look(student, parameters, held, state, best, settings.precision)
                state.seconds = spent()
                note(state.looks, state.tokens, used)
                tell(used)
                if used >= 1.0 or state.waited >= PATIENCE:
                    state.ended = "budget" if used >= 1.0 else "no gain"
                    break
                if resume:
                    resume.save(
                        lambda best=best: {
                            "state": state.plain(),
                            "now": _copied(parameters),
                            "best": best,
                            "optimiser": optimiser.state_dict(),
                        }
                    )
            set_rate(optimiser, rate_at(used, settings.rate))
            rows = examples[_order(state.step, settings.batch, len(examples), settings.seed)].trimmed()
            _step(student, parameters, optimiser, loss, rows, settings.precision)
            state.step += 1
            state.tokens += rows.size
            state.seconds = spent()
            used = limits.used(state.tokens, state.seconds)
            note(state.looks, state.tokens, used)
            tell(used)
    _put(parameters, best)
    return Healed(
        step=settings.name,
        windows=len(held),
        before=state.looks[0].loss,
        after=min(look.loss for look in state.looks),
        tokens=state.tokens,
        distinct=examples.size,
        parameters=sum(each.numel() for each in parameters),
        looks=tuple(state.looks),
        ended="budget" if state.ended == "budget" else "no gain",
        seconds=state.seconds,
        precision=settings.precision,
    )


def _look(
    student: nn.Module,
    parameters: Sequence[nn.Parameter],
    held: Examples,
    state: _State,
    best: list[Tensor],
    precision: Precision,
) -> list[Tensor]:
    """Add a look, and give the weights of the best so far."""
    found = held_loss(student, held, precision)
    gained = not state.looks or found < min(look.loss for look in state.looks)
    state.looks.append(Look(state.tokens, found))
    state.waited = 0 if gained else state.waited + 1
    return _copied(parameters) if gained else best


def _step(
    student: nn.Module,
    parameters: Sequence[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    loss: Loss,
    rows: Examples,
    precision: Precision,
) -> None:
    """One step on examples (B, T), a few of them at a time: their logits are what fills the memory."""
    device = parameters[0].device
    for part in rows.split(max(1, batch_size(rows.tokens, device) // AT_A_TIME)):
        with products(precision, device):
            found = loss(student, part.to(device)) * (part.predicted / rows.predicted)
        found.backward()
    nn.utils.clip_grad_norm_(parameters, CLIP)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)  # a look takes the memory that gradients have


def _order(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The places of the windows of a step: every pass over all of them is in an order of its own."""
    places = []
    for number in range(step * batch, (step + 1) * batch):
        turn = torch.Generator().manual_seed(seed * 1_000_003 + number // count)
        places.append(int(torch.randperm(count, generator=turn)[number % count]))
    return places


def _copied(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [each.detach().clone() for each in parameters]


@no_grad
def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for each, value in zip(parameters, values, strict=True):
        each.copy_(value)
