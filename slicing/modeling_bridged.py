"""Causal language models with a linear map in the place of blocks that were removed, in a file that travels
with the weights.

Written by slicescope. A bridged model is a model of transformers with fewer blocks; behind some of them the
residual stream passes through a matrix, which stands for the blocks that followed (Ghosted Layers, arXiv
2605.15491; ReplaceMe, arXiv 2505.02819). Everything else is the dense model's class.

Needs torch and transformers 5.23 or later, and the files beside it, nothing else.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, __version__

try:
    from transformers import PreTrainedConfig
    from transformers.configuration_utils import SubConfigSpec
except ImportError as error:
    raise ImportError(
        f"This model needs transformers 5.23 or later, and here is transformers {__version__}: run "
        "'pip install --upgrade transformers' and open it again."
    ) from error

from .modeling_decoder import Decoder
from .modeling_states import Resizable, run_observed


class BridgedConfig(PreTrainedConfig):
    """The reduced model's configuration, and where its bridges are."""

    model_type = "bridged"
    sub_configs_defaults: ClassVar = {"text_config": SubConfigSpec(AutoConfig, model_type="llama")}

    text_config: Any = None
    """The configuration of the reduced model; its class runs this one."""
    blocks: str = ""
    """The path of the list of blocks in it."""
    bridges: list | None = None
    """The places of the blocks that a bridge follows."""
    tie_word_embeddings: bool = False

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """The part of the reduced model's configuration that is for text."""
        inner = self.__dict__.get("text_config")
        return self if inner is None else inner.get_text_config(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # What tools ask of any configuration (vocabulary, context, heads) is the reduced model's answer.
        if name.startswith("_") or "text_config" not in self.__dict__:
            raise AttributeError(name)
        inner = self.__dict__["text_config"]
        if name in (getattr(inner, "per_layer_attributes", None) or ()):  # no one answer for all blocks
            raise AttributeError(name)
        return getattr(inner, name)


class BridgedBlock(nn.Module):
    """A block, and behind it the matrix (D, D) that the stream is multiplied by."""

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block = block
        like = next(block.parameters())
        self.bridge = nn.Parameter(like.new_empty(width, width))

    def __getattr__(self, name: str) -> Any:
        # Some decoders read attributes off their blocks, such as the kind of attention.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the block, with its states bridged."""
        output = self.block(*args, **kwargs)
        if isinstance(output, tuple):
            return (self.bridged(output[0]), *output[1:])
        return self.bridged(output)

    def bridged(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D); in fp32 where the model is in 16 bits: the stream is large."""
        precise = torch.promote_types(states.dtype, torch.float32)
        return (states.to(precise) @ self.bridge.to(precise)).to(states.dtype)


class BridgedForCausalLM(Resizable, GenerationMixin):
    """A causal language model with bridges: runs, generates, saves and loads like any of transformers."""

    config_class = BridgedConfig
    base_model_prefix = "inner"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: Any, inner: Any = None) -> None:
        super().__init__(config)
        text = config.text_config
        self.inner = AutoModelForCausalLM.from_config(text, dtype=text.dtype) if inner is None else inner
        self.supports_gradient_checkpointing = self.inner.supports_gradient_checkpointing
        self._tied_weights_keys = {
            f"inner.{head}": f"inner.{table}" for head, table in (self.inner._tied_weights_keys or {}).items()
        }
        self.config.tie_word_embeddings = bool(getattr(text, "tie_word_embeddings", False))
        listed = self.inner.get_submodule(config.blocks)
        for place in config.bridges:
            listed[place] = BridgedBlock(listed[place], text.get_text_config().hidden_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """As the reduced model's class; see there. What that does not name is passed over.

        Hidden states are those behind the bridges, where there are any.
        """
        named = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
        }
        known = inspect.signature(self.inner.forward).parameters
        arguments = {**{name: value for name, value in named.items() if name in known}, **kwargs}
        return run_observed(self, *self.observed(), arguments)

    def observed(self) -> tuple[Any, Any, tuple[()]]:
        """The decoder and its blocks, whose outputs can be asked for; its attentions answer by themselves."""
        return self.get_decoder(), self.inner.get_submodule(self.config.blocks), ()

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """As the reduced model's class."""
        return self.inner.prepare_inputs_for_generation(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the reduced model's class, which may have positions and a cache of its own."""
        self.inner.generation_config = self.generation_config
        return self.inner.generate(*args, **kwargs)

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: else transformers passes over what the class inside computes anew when a model is opened."""
        return False

    def get_decoder(self) -> Any:
        """The model without its head."""
        found = self.inner.get_decoder()
        # Where transformers finds none it gives the whole model, or a last linear layer of that name.
        return self.inner.model if found is self.inner or isinstance(found, nn.Linear) else found

    def get_input_embeddings(self) -> Any:
        """The embedding."""
        return self.inner.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding in."""
        self.inner.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """The head."""
        return self.inner.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another head on."""
        self.inner.set_output_embeddings(new_embeddings)


class BridgedDecoder(Decoder):
    """A model with bridges without its head."""

    config_class = BridgedConfig
    causal = BridgedForCausalLM
