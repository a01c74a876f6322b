"""Causal language models with sizes of their own in every block, in the form of DeciLM, in a file that
travels with the weights.

Written by slicescope. A DeciLM model (``nemotron-nas``) is a Llama whose ``block_configs`` say for each block
how wide its MLP is, how many query heads share a head of keys and values, and whether its attention or its
MLP is there at all. vLLM takes the configuration from here, and runs the model with code of its own.

Needs torch and transformers 4.57 or later, nothing else.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, __version__
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP

# Attention answers with other outputs in older versions, which would fail far from here.
if tuple(int(part) for part in __version__.split(".")[:2]) < (4, 57):
    raise ImportError(
        f"This model needs transformers 4.57 or later, and here is transformers {__version__}: run "
        "'pip install --upgrade transformers' and open it again."
    )

MULTIPLE = 256
"""Widths that are said by ``ffn_mult`` are rounded up to multiples of this."""


class Said(dict):
    """A part of a configuration whose entries are attributes too, as vLLM reads them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class DeciLMConfig(LlamaConfig):
    """The configuration of a Llama, and what is different in each of its blocks."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs: list | None = None, **kwargs: Any) -> None:
        """``block_configs``: an entry for every block, with ``attention`` and ``ffn``."""
        super().__init__(**kwargs)
        self.block_configs = [
            Said({name: Said(part) for name, part in each.items()}) for each in block_configs or []
        ]


class NoOp(nn.Module):
    """Stands in for an attention or an MLP that is not there: it adds nothing to the stream."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states: Tensor, **named: Any) -> Any:
        """Zeros like the states, and for an attention no weights beside them."""
        zeros = hidden_states.new_zeros(hidden_states.shape)
        return (zeros, None) if self.attention else zeros


class DeciLMForCausalLM(LlamaForCausalLM):
    """A Llama whose blocks have sizes of their own."""

    config_class = DeciLMConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        shape_blocks(self.model.layers, config)
        self.post_init()


class DeciLMModel(LlamaModel):
    """The same without its head."""

    config_class = DeciLMConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        shape_blocks(self.layers, config)
        self.post_init()


def shape_blocks(layers: nn.ModuleList, config: Any) -> None:
    """Give every block of a Llama the parts that ``block_configs`` says, without their numbers."""
    for place, (block, said) in enumerate(zip(layers, config.block_configs, strict=True)):
        if said.attention.no_op:
            block.self_attn, block.input_layernorm = NoOp(True), nn.Identity()
        else:
            heads = config.num_attention_heads // said.attention.n_heads_in_group
            block.self_attn = LlamaAttention(_but(config, num_key_value_heads=heads), place)
        if said.ffn.no_op:
            block.mlp, block.post_attention_layernorm = NoOp(False), nn.Identity()
        else:
            block.mlp = LlamaMLP(_but(config, intermediate_size=width_of(said.ffn, config.hidden_size)))


def _but(config: Any, **changes: Any) -> Any:
    """A shallow copy of a configuration with some settings changed."""
    made = copy.copy(config)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def width_of(ffn: Said, hidden_size: int) -> int:
    """The width of an MLP, which is said itself or as a multiple of the hidden size."""
    if ffn.get("intermediate_size") is not None:
        return ffn.intermediate_size
    return -(-int(2 * ffn.ffn_mult * hidden_size / 3) // MULTIPLE) * MULTIPLE
