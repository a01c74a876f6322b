"""Refuse a model whose stream cannot be rotated, by running it on a few tokens."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from analysis.anatomy import anatomy_of, decoder
from analysis.device import on_device
from analysis.errors import UnsupportedError
from analysis.hooks import entering_states
from analysis.late import inference_mode, no_grad, torch
from analysis.read_shape import read_shape
from slicing.assembly import blank, fill_in_bases
from slicing.rotation import random_bases
from slicing.schedule import SlicingSchedule

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

GUARD_TOLERANCE = {"float64": 1e-6, "float32": 1e-2, "bfloat16": 0.2, "float16": 0.2}
"""Largest relative error of the logits that rounding alone may explain, by dtype."""

_INVARIANT: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()
"""Models that passed the guard already."""


@no_grad
def refuse_unless_invariant(model: PreTrainedModel) -> None:
    """Raise ``UnsupportedError`` unless rotating the whole stream at full width leaves the logits alone.

    Walks the model once with random rotations on a few tokens, one sub-layer in memory at a time. This
    catches what no table can: a family member with another order of norms, or a layer type of its own.
    """
    if model in _INVARIANT:
        return
    shape, anatomy = read_shape(model), anatomy_of(model.config)
    # Spread over the vocabulary: its first tokens are special ones, often untrained, where rounding is large.
    tokens = torch.arange(1, 33, device=model.device) * shape.vocab_size // 33
    probe = tokens.unsqueeze(0)
    expected = _head(model, decoder(model)(probe, use_cache=False).last_hidden_state)

    schedule = SlicingSchedule.uncut(shape)
    precise = torch.promote_types(model.dtype, torch.float32)
    rotations = random_bases(shape.hidden_size, torch.Generator().manual_seed(0))

    def basis_at(site: int, width: int) -> Tensor:
        rotation = torch.eye(width) if site == len(shape.sublayers) else next(rotations)
        return rotation.to(model.device, precise)

    sliced = blank(model, schedule)
    states: Any = None
    contexts: list[dict[str, Any]] = []
    for site in fill_in_bases(model, sliced, schedule, basis_at):
        if states is None:
            states, contexts = entering_states(sliced, probe, anatomy.returns_tuple)
        device = next(site.sliced.parameters()).device
        states = site.sliced(states.to(device), on_device(contexts[site.block], device))
        site.sliced.to_empty(device="meta")
    norm = getattr(sliced.inner.get_submodule(anatomy.decoder), anatomy.final_norm)
    normed = norm(states.to(expected.device))
    found = _head(sliced.inner, normed).to(expected.device)

    error = float((found - expected).norm() / expected.norm())
    if not error <= _tolerance(model.dtype):
        raise UnsupportedError(
            f"Rotating the stream of this {model.config.model_type} model changes its logits by "
            f"{error:.1%}, so slicing would break it: it has a part that slicescope does not know; "
            "its redundancy can still be profiled."
        )
    _INVARIANT.add(model)


def _head(model: Any, states: Tensor) -> Tensor:
    head = getattr(model, anatomy_of(model.config).head)
    return head(states).to(torch.promote_types(states.dtype, torch.float32))


@inference_mode
def probe_logits(model: Any) -> Tensor:
    """Run the model on 24 tokens from all over its vocabulary, and give the logits (1, 24, V), fp32."""
    size = model.get_input_embeddings().weight.shape[0]
    tokens = (torch.arange(1, 25, device=model.device) * size // 25).unsqueeze(0)
    return model(tokens, use_cache=False).logits.float()


def why_unlike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> str:
    """Say by how much logits differ from those expected; empty where rounding alone explains it."""
    error = float((found - expected).norm() / expected.norm())
    return "" if error <= _tolerance(dtype) else f"made from it, the model's logits are {error:.1%} off"


def _tolerance(dtype: torch.dtype) -> float:
    return GUARD_TOLERANCE[str(dtype).removeprefix("torch.")]
