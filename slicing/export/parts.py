"""What a model of the Llama kind has in every block, whether it is dense or was made smaller.

Both forms are written from this. Knows nothing about any form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from analysis.anatomy import BRIDGED, NARROW
from analysis.errors import UnsupportedError
from slicing.modeling_narrow import Absent, NarrowLinear

FAMILIES = ("llama", "mistral", "qwen2")
"""Types of models whose blocks are those of Llama, but for biases."""
ACTIVATION = "silu"
MAPS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class BlockParts:
    """What one block has: nothing of a sub-layer whose numbers are 0."""

    place: int
    """Among the blocks of the model, from 0."""
    heads: int
    """Query heads."""
    groups: int
    """Heads of keys and values."""
    width: int
    """Channels of the MLP."""


@dataclass(frozen=True)
class Parts:
    """A model of the Llama kind, block by block. Blocks of which nothing is left are left out."""

    model: Any
    """Of the dense model's class."""
    config: Any
    head_size: int
    blocks: tuple[BlockParts, ...]
    tied: bool
    """Whether the head is the embedding table."""

    @property
    def alike(self) -> bool:
        """Whether all blocks have the same sizes, and all of them both sub-layers."""
        sizes = {(each.heads, each.groups, each.width) for each in self.blocks}
        return len(sizes) == 1 and all(min(each) > 0 for each in sizes)

    @property
    def biases(self) -> set[str]:
        """The names of the maps with a bias, in any block."""
        ends = (
            name.removesuffix(".bias").rpartition(".")[2]
            for name, _ in self.model.named_parameters()
            if name.endswith(".bias")
        )
        return set(ends)

    def weights(self, block: BlockParts) -> dict[str, Tensor]:
        """The parameters of a block by their names within it, such as ``self_attn.q_proj.weight``."""
        return dict(self.model.model.layers[block.place].named_parameters())


def read_parts(model: Any, form: str) -> Parts:
    """What this model has in every block (``UnsupportedError`` where the ``form`` cannot say it)."""
    model = _inside(model, form)
    config = model.config
    if config.model_type not in FAMILIES:
        raise UnsupportedError(
            f"A model of type '{config.model_type}' cannot be written as '{form}': its blocks have to be "
            f"those of Llama, as in the types {', '.join(FAMILIES)}; choose such a model."
        )
    if config.hidden_act != ACTIVATION:
        raise UnsupportedError(
            f"The MLPs of this model have the activation '{config.hidden_act}', and those of '{form}' have "
            f"'{ACTIVATION}': choose another model."
        )
    _refuse_windows(config, form)
    layers = model.model.layers
    if any(not each.is_floating_point() for each in model.parameters()):
        raise UnsupportedError(
            f"The weights of this model are quantised, and '{form}' takes plain ones: export the model that "
            "it was made from."
        )
    inside = sum(_cut_inside_heads(each) for each in layers)
    if inside:
        raise UnsupportedError(
            f"In {inside} of {len(layers)} blocks the values have a rank of their own or rotary pairs are "
            f"gone, for which '{form}' has no size: make the model by a method with the setting "
            f"'export={form}', such as 'mixed(export={form})'."
        )
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    blocks = tuple(_block(place, each, size) for place, each in enumerate(layers))
    left = tuple(each for each in blocks if each.heads or each.width)
    if not left:
        raise UnsupportedError(
            f"Nothing is left of any block of this model, which '{form}' cannot say: keep one at least."
        )
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    return Parts(
        model,
        config,
        size,
        left,
        head is table or (head.shape == table.shape and head.data_ptr() == table.data_ptr()),
    )


def _inside(model: Any, form: str) -> Any:
    """The model of the dense model's class, out of one of ours that is cut inside its blocks."""
    kind = model.config.model_type
    if kind == "sliced":
        raise UnsupportedError(
            f"A sliced model has a width per block and matrices on its shortcuts, which '{form}' cannot say: "
            "slice it in one basis with 'slice(plain=true)', or cut inside the blocks."
        )
    if kind == BRIDGED:
        raise UnsupportedError(
            f"This model has matrices in the place of blocks, which '{form}' cannot say: choose another "
            "repair than 'linear'."
        )
    return model.inner if kind == NARROW else model


def _refuse_windows(config: Any, form: str) -> None:
    """Refuse attention that does not see all tokens."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    if kinds or (window is not None and window < config.max_position_embeddings):
        raise UnsupportedError(
            f"Blocks of this model attend to a sliding window of tokens, which '{form}' cannot say: choose a "
            "model that attends to all of them."
        )


def _cut_inside_heads(block: Any) -> bool:
    """Whether a map of the attention leaves outputs at zero or reads only some inputs."""
    maps = [getattr(block.self_attn, name, None) for name in MAPS]
    return any(isinstance(each, NarrowLinear) and (each.full_in or each.full_out) for each in maps)


def _block(place: int, block: Any, size: int) -> BlockParts:
    attention, mlp = block.self_attn, block.mlp
    gone = isinstance(attention, Absent), isinstance(mlp, Absent)
    return BlockParts(
        place,
        0 if gone[0] else attention.q_proj.weight.shape[0] // size,
        0 if gone[0] else attention.k_proj.weight.shape[0] // size,
        0 if gone[1] else mlp.down_proj.weight.shape[1],
    )


def in_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor on the host in another type (``UnsupportedError`` where that is too narrow for it)."""
    if dtype is torch.float16 and tensor.abs().amax() > torch.finfo(dtype).max:
        raise UnsupportedError(
            f"The weights of '{name}' are too large for 16 bits: write them with '--dtype f32'."
        )
    return tensor.detach().to("cpu", dtype).contiguous()


def filled(name: str, tensor: Tensor, extra: int) -> Tensor:
    """A parameter of an MLP with so many ``extra`` channels of zeros behind its own.

    ``name`` ends in the map and its weight (D, F) or bias (F,), such as ``mlp.down_proj.weight``.
    """
    if not extra or name == "mlp.down_proj.bias":
        return tensor
    columns = name == "mlp.down_proj.weight"
    shape = (len(tensor), extra) if columns else (extra, *tensor.shape[1:])
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=1 if columns else 0)


def up_to(width: int, multiple: int) -> int:
    """The least multiple that is not below the width."""
    return -(-width // multiple) * multiple
