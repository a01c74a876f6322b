"""Training in less memory: blocks that are run twice, and an optimiser that keeps its moments in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from analysis.anatomy import blocks
from analysis.errors import UnsupportedError, one_line
from analysis.late import torch

if TYPE_CHECKING:
    from torch import nn

Checkpointing = Literal["auto", "on", "off"]
"""Whether the graph keeps only what enters every block, and the block runs once more on the way back.
``auto``: where training does not fit without."""
Moments = Literal["fp32", "8-bit"]
"""In what the optimiser keeps the two moments of every number."""
BETAS = (0.9, 0.95)
"""Of Adam, as usual for language models."""


# Blocks that run twice (gradient checkpointing, Chen et al., 1604.06174)


def why_not_checkpointed(model: Any) -> str:
    """Say in a sentence why the blocks of a model cannot be run twice; empty where they can."""
    if getattr(model, "supports_gradient_checkpointing", False):
        return ""
    return (
        f"The blocks of a model of type '{model.config.model_type}' cannot be run a second time on the way "
        "back (gradient checkpointing): leave 'checkpointing' out, or train adapters (train=lora)."
    )


@contextmanager
def checkpointed(student: Any) -> Iterator[None]:
    """Inside the ``with``, keep only what enters every block of a student; on the way back each runs again.

    Gradients are the same, as long as dropout is off. Raises ``UnsupportedError`` where the form of the model
    does not allow it.
    """
    if reason := why_not_checkpointed(student):
        raise UnsupportedError(reason)
    listed = list(dict.fromkeys(blocks(student)))
    for block in listed:
        # On the instance, so that hooks of the block see each output once.
        block.forward = partial(_run_twice, block.forward)
    try:
        yield
    finally:
        for block in listed:
            del block.forward


def _run_twice(run: Any, *given: Any, **named: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return run(*given, **named)
    return checkpoint(run, *given, use_reentrant=False, preserve_rng_state=False, **named)


# Moments in 8 bits (Dettmers et al., 2110.02861)


def check_moments(moments: Moments) -> None:
    """Raise ``UnsupportedError`` where moments in 8 bits are asked for, and nothing here keeps them."""
    if moments == "8-bit":
        _eight_bit()


def optimiser_of(parameters: Sequence[nn.Parameter], rate: float, moments: Moments) -> torch.optim.Optimizer:
    """Make AdamW without decay, with its moments as they are asked for (``UnsupportedError``)."""
    if moments == "fp32":
        return torch.optim.AdamW(parameters, lr=rate, betas=BETAS, weight_decay=0.0)
    kind, device = _eight_bit(), parameters[0].device
    trial = torch.nn.Parameter(torch.zeros(4096, device=device))  # the least that it keeps in 8 bits
    trial.grad = torch.zeros_like(trial)
    try:
        kind([trial], lr=rate, betas=BETAS, weight_decay=0.0).step()
    except Exception as error:  # of the compiler of this machine, whatever it is
        raise UnsupportedError(
            f"Moments in 8 bits cannot be used on {device}, since torchao fails to compile its step there "
            f"({one_line(error)}): install a C++ compiler, or leave 'moments' out."
        ) from error
    return kind(parameters, lr=rate, betas=BETAS, weight_decay=0.0)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give an optimiser its learning rate, which some keep in a tensor."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _eight_bit() -> Any:
    try:
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UnsupportedError(
            "Moments in 8 bits need the package torchao, which is not installed: run "
            "pip install 'slicescope[heal]', or leave 'moments' out."
        ) from None
    return AdamW8bit
