"""Where the residual stream runs in each model family: who reads it, who writes it.

A block is a row of *sub-layers*; each is ``x + writer(inner(readers(norm(x))))``. To slice a model one
needs no more than the names of these four parts, so a family is one entry in ``ANATOMIES``, holding
only what differs. Knows nothing about rotations or slicing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from analysis.errors import ModelError, UnsupportedError
from analysis.shape import ModelShape, SublayerShape


@dataclass(frozen=True)
class Sublayer:
    """Attribute names of one half of a block, relative to the block (norm, core) or to the core."""

    kind: str
    norm: str
    core: str
    readers: tuple[str, ...]
    writer: str


@dataclass(frozen=True)
class Anatomy:
    """Attribute names of one model family, relative to the decoder (``model.base_model``)."""

    sublayers: tuple[Sublayer, ...]
    embedding: str = "embed_tokens"
    blocks: str = "layers"
    final_norm: str = "norm"
    head: str = "lm_head"
    """Relative to the model, not to the decoder."""
    gain_offset: float = 0.0
    """What the norm adds to its weight: 1 for Gemma, which stores gain - 1."""


_ATTENTION = Sublayer("attention", "input_layernorm", "self_attn", ("q_proj", "k_proj", "v_proj"), "o_proj")
_MLP = Sublayer("mlp", "post_attention_layernorm", "mlp", ("gate_proj", "up_proj"), "down_proj")
_LLAMA = Anatomy((_ATTENTION, _MLP))

ANATOMIES: dict[str, Anatomy] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "phi3": Anatomy((replace(_ATTENTION, readers=("qkv_proj",)), replace(_MLP, readers=("gate_up_proj",)))),
    "gemma": replace(_LLAMA, gain_offset=1.0),
}
"""The families that can be sliced, by ``config.model_type``."""


def anatomy_of(config: Any) -> Anatomy:
    """The entry for this configuration.

    Raises ``UnsupportedError`` when the family has none, naming those that have.
    """
    if config.model_type not in ANATOMIES:
        raise UnsupportedError(_no_anatomy(config))
    return ANATOMIES[config.model_type]


def why_not_sliceable(config: Any) -> str | None:
    """``None`` when the family can be sliced, otherwise one sentence that says why not."""
    if getattr(config, "sliced", False):
        return "This model is sliced already: open the dense model it was made from."
    if config.model_type not in ANATOMIES:
        return _no_anatomy(config)
    if getattr(config, "is_heterogeneous", False):
        return (
            "This model gives its blocks different configurations, which slicing does not handle yet; "
            "use a model whose blocks are all alike."
        )
    return None


def _no_anatomy(config: Any) -> str:
    return (
        f"The architecture '{config.model_type}' cannot be sliced yet (its redundancy can still be "
        f"profiled); sliceable are: {', '.join(sorted(ANATOMIES))}."
    )


def decoder(model: Any) -> nn.Module:
    """The model without its head."""
    return model.get_decoder()


def blocks(model: Any) -> nn.ModuleList:
    """The decoder blocks in order, for any family: the one module list that is as long as the model.

    Raises ``ModelError`` when there is no such list.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"No list of {count} blocks was found in a model of type '{model.config.model_type}'; "
        "slicescope reads decoders whose blocks are one module list."
    )


def block_path(model: nn.Module) -> str:
    """The module path of the block list, such as ``model.layers``."""
    wanted = blocks(model)
    return next(name for name, module in model.named_modules() if module is wanted)


def norm_gain(norm: nn.Module, anatomy: Anatomy) -> torch.Tensor:
    """The gain a norm multiplies by, shape (D,), in fp32 or better."""
    weight: torch.Tensor = norm.weight  # type: ignore[assignment]
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32)) + anatomy.gain_offset


def norm_epsilon(norm: nn.Module) -> float:
    """The epsilon of an RMS norm, under whichever name the family stores it."""
    for name in ("variance_epsilon", "eps"):
        if hasattr(norm, name):
            return float(getattr(norm, name))
    raise UnsupportedError(f"The norm {type(norm).__name__} has no epsilon that slicescope knows.")


def embedding_scale(embedding: nn.Module) -> float:
    """What the embedding layer multiplies its rows by (the square root of D for Gemma, else 1)."""
    return float(getattr(embedding, "scalar_embed_scale", 1.0))


def read_shape(model: nn.Module) -> ModelShape:
    """The shapes of a sliceable model; works on a model without weights (meta device) too."""
    config: Any = model.config
    if reason := why_not_sliceable(config):
        raise UnsupportedError(reason)
    anatomy = anatomy_of(config)
    table: torch.Tensor = getattr(decoder(model), anatomy.embedding).weight
    head: nn.Linear = getattr(model, anatomy.head)
    return ModelShape(
        architecture=config.model_type,
        hidden_size=table.shape[1],
        vocab_size=table.shape[0],
        tied=bool(config.tie_word_embeddings),
        blocks=tuple(
            tuple(_sublayer_shape(block, sublayer) for sublayer in anatomy.sublayers)
            for block in blocks(model)
        ),
        head_bias=head.bias is not None,
    )


def _sublayer_shape(block: nn.Module, sublayer: Sublayer) -> SublayerShape:
    core = getattr(block, sublayer.core)
    linears: Mapping[str, nn.Linear] = {
        name: core.get_submodule(name) for name in (*sublayer.readers, sublayer.writer)
    }
    for name, linear in linears.items():
        if type(linear) is not nn.Linear:
            raise UnsupportedError(
                f"'{sublayer.core}.{name}' is a {type(linear).__name__}, not a plain linear layer; "
                "open the model unquantised to slice it."
            )
    readers = [linears[name] for name in sublayer.readers]
    writer = linears[sublayer.writer]
    outer = sum(parameter.numel() for linear in linears.values() for parameter in linear.parameters())
    return SublayerShape(
        kind=sublayer.kind,
        reader_rows=sum(reader.out_features for reader in readers),
        writer_columns=writer.in_features,
        reader_bias=sum(reader.bias.numel() for reader in readers if reader.bias is not None),
        writer_bias=writer.bias is not None,
        inner=sum(parameter.numel() for parameter in core.parameters()) - outer,
    )
