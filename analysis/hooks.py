"""Watching the residual stream as it passes through the blocks of a model.

Own hooks, because ``output_hidden_states`` of transformers replaces the last state by its final-normed
form, and counts layers by class. Nothing is kept here; what is seen is handed on at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from analysis.anatomy import SLICED, anatomy_of, blocks, decoder, family_config, why_not_sliceable
from analysis.late import inference_mode, nn, stand_ins, torch

if TYPE_CHECKING:
    from torch import Tensor

Look = Callable[[int, "Tensor", "Tensor"], None]
"""``look(block index, entering (B, T, D), leaving (B, T, D))``."""


@contextmanager
def watch_blocks(model: nn.Module, look: Look) -> Iterator[None]:
    """Call ``look`` for each block of every forward pass made inside the ``with``.

    Both states are true residual states: what leaves the last block is seen before the final norm.
    """
    handles = [
        block.register_forward_hook(_hook(index, look), with_kwargs=True)
        for index, block in enumerate(blocks(model))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(index: int, look: Look) -> Callable[..., None]:
    def hook(block: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        leaving = output[0] if isinstance(output, tuple | list) else output
        look(index, entering.to(leaving.device), leaving)  # a model may be spread over devices

    return hook


@inference_mode
def entering_states(
    model: Any, tokens: Tensor, returns_tuple: bool = False
) -> tuple[Tensor, list[dict[str, Any]]]:
    """The stream that enters block 0, (B, T, D), and the context every block is called with.

    The decoder itself makes the context (positions, masks), with its blocks stood in for, so every
    family's own rules for it hold and no block is computed. ``returns_tuple`` says what it expects of them.
    """
    real = blocks(model)
    recorders = [stand_ins.Recorder(block, returns_tuple) for block in real]
    if model.config.model_type == SLICED:  # whose last block ends in the width of the norm behind it
        recorders[-1].__dict__["leaving"] = model.config.hidden_size
    parent, name = _holder(model, real)
    setattr(parent, name, nn.ModuleList(recorders))
    try:
        decoder(model)(tokens, use_cache=False)
    finally:
        setattr(parent, name, real)
    entering = recorders[0].__dict__["entering"]
    return entering, [recorder.__dict__["context"] for recorder in recorders]


@contextmanager
def going_on_from(
    model: nn.Module, block: int, states: Tensor, returns_tuple: bool = False
) -> Iterator[None]:
    """Let the model go on at ``block`` with ``states`` (B, T, D), whatever its tokens would have made there.

    The blocks before are not computed; ``block`` may be the number of blocks, for the end alone.
    """
    real = blocks(model)
    first = [stand_ins.Passed(each, returns_tuple, None) for each in real[:block]]
    if first:
        first[-1].__dict__["states"] = states
    parent, name = _holder(model, real)
    setattr(parent, name, nn.ModuleList([*first, *real[block:]]))
    try:
        yield
    finally:
        setattr(parent, name, real)


@contextmanager
def leaving_out(model: nn.Module, some: Collection[int], returns_tuple: bool = False) -> Iterator[None]:
    """Let the stream pass by ``some`` blocks of the model, by their places, as if they were not there.

    Without a cache: what would be kept for those blocks is missing.
    """
    real = blocks(model)
    parent, name = _holder(model, real)
    passed = (
        stand_ins.Passed(block, returns_tuple, None) if place in some else block
        for place, block in enumerate(real)
    )
    setattr(parent, name, nn.ModuleList(passed))
    try:
        yield
    finally:
        setattr(parent, name, real)


@inference_mode
def returns_tuple(model: nn.Module, tokens: Tensor) -> bool:
    """Tell whether the blocks answer with a tuple: by the family's entry, or tried on ``tokens`` (B, T)."""
    config = family_config(model.config)
    if why_not_sliceable(config) is None:
        return anatomy_of(config).returns_tuple
    answers: list[bool] = []
    first = blocks(model)[0]
    handle = first.register_forward_hook(lambda _, args, output: answers.append(isinstance(output, tuple)))
    try:
        decoder(model)(tokens, use_cache=False)
    finally:
        handle.remove()
    return answers[0]


@contextmanager
def head_alone(model: Any, output: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """The model's own head, scales and caps included, as a function of decoder states (1, n, D).

    So that logits can be had for some tokens at a time. ``output`` is what the decoder gave; inside the
    ``with`` it is all that the model has for a decoder.
    """
    real, given = decoder(model), stand_ins.Given()
    parent, name = _holder(model, real)

    def head(states: Tensor) -> Tensor:
        part = copy.copy(output)
        part["last_hidden_state"] = states
        given.__dict__["output"] = part
        dummy = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        return model(dummy, use_cache=False).logits

    setattr(parent, name, given)
    try:
        yield head
    finally:
        setattr(parent, name, real)


def _holder(model: nn.Module, child: nn.Module) -> tuple[nn.Module, str]:
    for module in model.modules():
        for name, candidate in module.named_children():
            if candidate is child:
                return module, name
    raise AssertionError("blocks() returns a module of the model")
