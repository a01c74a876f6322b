"""A model cut alike in every block, as an ordinary checkpoint of its architecture."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from analysis.errors import UnsupportedError, one_line
from analysis.sublayers import out_in
from slicing.guard import probe_logits, why_unlike
from slicing.modeling_narrow import Absent, NarrowLinear

CHANNELS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "moe_intermediate_size")
HEADS = ("num_attention_heads", "n_head", "num_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads", "num_attention_groups")


@torch.no_grad()
def as_plain(model: Any) -> Any:
    """The same model in the class and configuration of its architecture, which every tool opens.

    Raises ``UnsupportedError`` where the configuration cannot say these widths.
    """
    if any(isinstance(each, Absent) for each in model.modules()):
        raise _unfit(model, "whole sub-layers are gone")
    config = copy.deepcopy(model.config)
    text = config.get_text_config(decoder=True)
    there = {name: parameter.shape for name, parameter in model.named_parameters()}
    with torch.device("meta"):
        dense = type(model)(model.config)
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    for name, module in dense.named_modules():
        found = model.get_submodule(name)
        if isinstance(module, nn.Linear | Conv1D) and isinstance(found, NarrowLinear):
            rows, columns = out_in(module).shape
            _say(text, dense.config.get_text_config(decoder=True), (rows, columns), found, size)
    try:
        with torch.device("meta"):
            made = type(model)(config)
    except Exception as error:  # whatever the family's own code says of a configuration it cannot build
        raise _unfit(model, one_line(error)) from error
    turned = {f"{name}.weight" for name, each in made.named_modules() if isinstance(each, Conv1D)}
    wrong = [
        name
        for name, each in made.named_parameters()
        if there.get(name) not in (each.shape, each.shape[::-1] if name in turned else None)
    ]
    if wrong or any(
        isinstance(each, NarrowLinear) and (each.rows is not None or each.columns is not None)
        for each in model.modules()
    ):
        raise _unfit(model, f"the shapes of {wrong[0] if wrong else 'its heads'} differ")
    for name, module in made.named_modules():
        found = model.get_submodule(name)
        for key in module._parameters:
            own: Any = found._parameters[key]
            turned = isinstance(module, Conv1D) and key == "weight" and isinstance(found, NarrowLinear)
            module._parameters[key] = nn.Parameter(own.T.contiguous(), False) if turned else own
        module._buffers.update({key: found._buffers[key] for key in module._buffers})
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.is_meta:
                setattr(module, key, getattr(found, key))
    made.generation_config = copy.deepcopy(model.generation_config)
    made.tie_weights()
    made = made.eval()
    _check(model, made)
    return made


def _say(text: Any, dense: Any, sizes: tuple[int, int], found: NarrowLinear, size: int) -> None:
    """Put the sizes (out, in) of a smaller map into the settings that name them in the ``dense`` ones."""
    for full, left in zip(sizes, (found.out_features, found.in_features), strict=True):
        if full == left:
            continue
        for name in CHANNELS:
            if getattr(dense, name, None) == full:
                setattr(text, name, left)
        if left % size == 0 and full % size == 0:
            for name in (*HEADS, *GROUPS):
                if getattr(dense, name, None) == full // size:
                    if "head_dim" in vars(text):
                        text.head_dim = size
                    setattr(text, name, left // size)


def _check(model: Any, made: Any) -> None:
    if reason := why_unlike(probe_logits(made), probe_logits(model), model.dtype):
        raise _unfit(model, reason)


def _unfit(model: Any, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"The configuration of '{model.config.model_type}' cannot say these widths ({reason}), so that this "
        "is no ordinary checkpoint: leave out 'uniform'."
    )
