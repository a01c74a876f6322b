"""From a dense model and a layout to a model of the same architecture with fewer blocks.

The dense model is only read; what is not merged is shared with it. Knows nothing about how a layout was
chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from analysis.anatomy import block_path, blocks
from analysis.device import comes_and_goes, present
from analysis.errors import ModelError, UnsupportedError, one_line
from analysis.hooks import leaving_out, returns_tuple
from analysis.late import accelerate, inference_mode, nn, no_grad, torch
from slicing.assembly import spread_like
from slicing.depth.layout import Layout
from slicing.guard import probe_logits, why_unlike

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_FIRST_SO_MANY = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "max_window_layers")
"""Settings that count blocks from the first one on."""
_BY_PLACE = ("mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "moe_layers")
"""Settings that list blocks by their places."""


@no_grad
def reduce_blocks(
    model: PreTrainedModel, layout: Layout, check: bool = True, spread: bool = True
) -> PreTrainedModel:
    """The model with the blocks of ``layout``: a plain model of its class, as its configuration makes it.

    It is checked on a few tokens against the dense model with the other blocks passed by, which catches a
    configuration that cannot say which blocks are left. Where accelerate spreads the dense model, it spreads
    this one too, unless ``spread`` is false: it then has all its weights, where they can be changed, but
    cannot be called. Raises ``UnsupportedError`` for a configuration of that kind, and where blocks that are
    to become one differ in their shapes.
    """
    if layout.blocks != len(blocks(model)):
        raise UnsupportedError(
            f"The layout is for a model of {layout.blocks} blocks, and this one has {len(blocks(model))}."
        )
    merges = layout.merge != "top" and any(len(group) > 1 for group in layout.groups)
    try:
        made = _filled(model, layout)
        if check:
            # What is spread can be changed no more, and blocks that become one are merged afterwards.
            runs = _filled(model, layout) if merges or not spread else made
            spread_like(model, runs)
            _check(model, runs, layout)
    except UnsupportedError:
        raise
    except Exception as error:  # whatever the family's own code says of a configuration it cannot build
        raise _unfit(model, one_line(error)) from error
    if merges:
        _merge(model, made, layout)
    if spread and (merges or not check):
        spread_like(model, made)
    return made


def reduced_config(config: Any, layout: Layout) -> Any:
    """The configuration with the blocks of ``layout``: their count, and all that is said block by block."""
    made = copy.deepcopy(config)
    text = made.get_text_config(decoder=True)
    tops, count = layout.tops, layout.blocks
    own = text.to_dict().get("per_layer_config") or {}  # what some blocks have otherwise than the rest
    text.per_layer_config = None
    for name, value in list(vars(text).items()):
        if name in _BY_PLACE and isinstance(value, list):
            setattr(text, name, [tops.index(place) for place in value if place in tops])
        elif name in _FIRST_SO_MANY and isinstance(value, int):
            setattr(text, name, sum(place < value for place in tops) if value < count else value)
        elif isinstance(value, list | tuple) and len(value) == count and "token" not in name:
            setattr(text, name, type(value)(value[place] for place in tops))
    if hasattr(text, "attention_types"):  # GPT-Neo says them twice
        text.attention_types = [[[kind], 1] for kind in text.attention_layers]
    if hasattr(text, "scale_depth"):  # MiniCPM divides what its sub-layers write by the root of their count
        text.scale_depth *= (len(tops) / count) ** 0.5
    text.num_hidden_layers = len(tops)
    if own:
        text.per_layer_config = {
            tops.index(int(place)): each for place, each in own.items() if int(place) in tops
        }
    return made


def _filled(model: PreTrainedModel, layout: Layout) -> PreTrainedModel:
    """A model made from the reduced configuration, with the tensors of the dense one."""
    with torch.device("meta"):
        made = type(model)(reduced_config(model.config, layout))
    prefix = block_path(model) + "."

    def in_dense(name: str) -> str:
        if not name.startswith(prefix):
            return name
        place, dot, rest = name.removeprefix(prefix).partition(".")
        return f"{prefix}{layout.tops[int(place)]}{dot}{rest}"

    dense = model.state_dict()
    misfit = [n for n, tensor in made.state_dict().items() if dense[in_dense(n)].shape != tensor.shape]
    if misfit or len(blocks(made)) != len(layout.groups):
        raise _unfit(model, f"the shapes of {misfit[0] if misfit else 'its blocks'} differ")
    adopt(made, model, in_dense)
    if model.generation_config is not None:
        made.generation_config = copy.deepcopy(model.generation_config)
    made.tie_weights()
    return made.eval()


def adopt(made: nn.Module, model: nn.Module, in_dense: Callable[[str], str] = str) -> None:
    """Give a model without numbers the tensors of a dense one that have the shapes it needs.

    ``in_dense`` tells the name that a module has there.
    """
    for name, module in made.named_modules():
        there = model.get_submodule(in_dense(name))
        with accelerate.utils.align_module_device(there):  # where accelerate keeps its weights elsewhere
            for key, wanted in module._parameters.items():
                found = there._parameters[key]
                if wanted is None or found is None or wanted.shape == found.shape:
                    module._parameters[key] = _kept(found, there)
        module._buffers.update({key: there._buffers[key] for key in module._buffers})
        # What is computed when a model is made, and not stored.
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.is_meta:
                setattr(module, key, getattr(there, key))


def _kept(parameter: nn.Parameter | None, module: nn.Module) -> nn.Parameter | None:
    """A parameter of a dense ``module``, shared with it, or on the host where its own will be gone again."""
    if parameter is None:
        return None
    own = parameter.detach().to("cpu", copy=True) if comes_and_goes(module) else parameter.detach()
    return nn.Parameter(own, requires_grad=False)


@inference_mode
def _check(model: PreTrainedModel, made: PreTrainedModel, layout: Layout) -> None:
    size = model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    tokens = (torch.arange(1, 25, device=model.device) * size // 25).unsqueeze(0)
    with leaving_out(model, layout.removed, returns_tuple(model, tokens)):
        expected = probe_logits(model)
    if reason := why_unlike(probe_logits(made), expected, model.dtype):
        raise _unfit(model, reason)


def _unfit(model: PreTrainedModel, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"The configuration of '{model.config.model_type}' does not say which of its blocks are left "
        f"({reason}), so a model without some of them cannot be stored: its redundancy can still be profiled."
    )


def _merge(model: PreTrainedModel, made: PreTrainedModel, layout: Layout) -> None:
    for place, group in enumerate(layout.groups):
        if len(group) == 1:
            continue
        with ExitStack() as stack:
            for each in group:
                stack.enter_context(present(blocks(model)[each]))
            _merge_group(model, blocks(made)[place], group, layout.weights(place))


def _merge_group(
    model: PreTrainedModel, into: nn.Module, group: tuple[int, ...], weights: tuple[float, ...]
) -> None:
    many = [dict(blocks(model)[each].named_parameters()) for each in group]
    shapes = [{name: parameter.shape for name, parameter in each.items()} for each in many]
    if any(each != shapes[0] for each in shapes):
        raise UnsupportedError(f"Blocks {group[0]} to {group[-1]} differ in their shapes, and cannot be one.")
    for name, parameter in list(into.named_parameters()):
        merged = weighted_sum([each[name] for each in many], weights).to(parameter.device, parameter.dtype)
        if not merged.isfinite().all():
            raise ModelError(
                f"Merging blocks {group[0]} to {group[-1]} overflows: open the model in float32."
            )
        set_parameter(into, name, merged)


def weighted_sum(tensors: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    """The sum of tensors of one shape, each times its weight; at least in fp32."""
    precise, device = torch.promote_types(tensors[0].dtype, torch.float32), tensors[0].device
    return sum(
        (weight * tensor.to(device, precise) for tensor, weight in zip(tensors, weights, strict=True)),
        start=torch.zeros((), dtype=precise, device=device),
    )


def set_parameter(module: Any, name: str, tensor: Tensor) -> None:
    """Put a tensor in place of a parameter, which another model may share and keeps."""
    path, _, attribute = name.rpartition(".")
    frozen = torch.nn.Parameter(tensor.contiguous(), requires_grad=False)
    setattr(module.get_submodule(path), attribute, frozen)
