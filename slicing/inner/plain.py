"""A model cut alike in every block, as an ordinary checkpoint of its architecture."""

from __future__ import annotations

import copy
from typing import Any

from analysis.anatomy import anatomy_of, blocks, core_of
from analysis.errors import UnsupportedError, one_line
from analysis.families import Branch
from analysis.late import nn, no_grad, torch, transformers
from analysis.sublayers import linear_maps, out_in
from slicing.guard import probe_logits, why_unlike
from slicing.late import modeling_narrow

CHANNELS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
SHARED = ("shared_expert_intermediate_size",)
HEADS = ("num_attention_heads", "n_head", "num_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads", "num_attention_groups")
"""Names of settings: how wide an MLP is, and one that all tokens share beside experts; how many heads of
queries, and of keys and values, an attention has."""


@no_grad
def as_plain(model: Any, instead: str = "leave out 'uniform'") -> Any:
    """The same model in the class and configuration of its architecture, which every tool opens.

    Raises ``UnsupportedError`` where the configuration cannot say these widths; ``instead`` is what it then
    tells to do.
    """
    if any(isinstance(each, modeling_narrow.Absent) for each in model.modules()):
        raise _unfit(model, "whole sub-layers are gone", instead)
    config = copy.deepcopy(model.config)
    text = config.get_text_config(decoder=True)
    there = {name: parameter.shape for name, parameter in model.named_parameters()}
    with torch.device("meta"):
        dense = type(model)(model.config)
    known = dense.config.get_text_config(decoder=True)
    branches = [branch for row in anatomy_of(model.config).sublayers for branch in row]
    for block, other in zip(blocks(model), blocks(dense), strict=True):
        for branch in branches:
            _say(text, known, branch, core_of(block, branch), core_of(other, branch))
    try:
        with torch.device("meta"):
            made = type(model)(config)
    except Exception as error:  # whatever the family's own code says of a configuration it cannot build
        raise _unfit(model, one_line(error), instead) from error
    turned = {
        f"{name}.weight"
        for name, each in made.named_modules()
        if isinstance(each, transformers.pytorch_utils.Conv1D)
    }
    wrong = [
        name
        for name, each in made.named_parameters()
        if there.get(name) not in (each.shape, each.shape[::-1] if name in turned else None)
    ]
    if wrong or any(
        isinstance(each, modeling_narrow.NarrowLinear) and (each.rows is not None or each.columns is not None)
        for each in model.modules()
    ):
        raise _unfit(model, f"the shapes of {wrong[0] if wrong else 'its heads'} differ", instead)
    for name, module in made.named_modules():
        found = model.get_submodule(name)
        for key in module._parameters:
            own: Any = found._parameters[key]
            turned = (
                isinstance(module, transformers.pytorch_utils.Conv1D)
                and key == "weight"
                and isinstance(found, modeling_narrow.NarrowLinear)
            )
            module._parameters[key] = nn.Parameter(own.T.contiguous(), False) if turned else own
        module._buffers.update({key: found._buffers[key] for key in module._buffers})
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.is_meta:
                setattr(module, key, getattr(found, key))
    made.generation_config = copy.deepcopy(model.generation_config)
    made.tie_weights()
    made = made.eval()
    if reason := why_unlike(probe_logits(made), probe_logits(model), model.dtype):
        raise _unfit(model, reason, instead)
    return made


def _say(text: Any, known: Any, branch: Branch, core: nn.Module, dense: nn.Module) -> None:
    """Put how wide a branch is into the settings that name it; ``known`` are those of the ``dense`` one.

    The role of a map decides, since a width of an MLP may be that of all heads by chance.
    """
    for writer in branch.writers:
        for found, whole in zip(linear_maps(core, (writer,)), linear_maps(dense, (writer,)), strict=True):
            left, full = (out_in(each).shape[1] for each in (found, whole))
            if left == full:
                continue
            if branch.kind == "attention":
                _say_heads(text, known, left, full)
                continue
            names = SHARED if writer.startswith("shared_expert.") else CHANNELS
            for name in names:
                # None is a multiple of the hidden size, which the family's own code knows.
                if hasattr(known, name) and getattr(known, name) in (full, None):
                    setattr(text, name, left)


def _say_heads(text: Any, known: Any, left: int, full: int) -> None:
    """Put how many heads there are into the settings, where ``left`` of ``full`` inputs of the writer are."""
    if getattr(known, "head_dim", None) is None:  # else it would follow from the number of heads
        text.head_dim = known.hidden_size // known.num_attention_heads
    for name in (*HEADS, *GROUPS):
        count = getattr(known, name, None)
        if isinstance(count, int) and count * left % full == 0:
            setattr(text, name, count * left // full)


def _unfit(model: Any, reason: str, instead: str) -> UnsupportedError:
    return UnsupportedError(
        f"The configuration of '{model.config.model_type}' cannot say these widths ({reason}), so that this "
        f"is no ordinary checkpoint: {instead}."
    )
