"""Our models without their heads, for ``AutoModel``; travels with the weights.

Written by slicescope. Needs torch and transformers 5.23 or later, and the file beside it, nothing else.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from .modeling_states import run_observed


class Decoder(PreTrainedModel):
    """A causal language model without its head: gives the states behind the final norm.

    It has the parts of the whole model under the same names, so both read the same files. A class of it
    names the class of the whole one, ``causal``.
    """

    causal: ClassVar[Any]
    whole: Any
    base_model_prefix = "inner"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        whole = self.causal(config)
        self.inner = whole.inner
        # Not as a part: its parts are those of ``inner``, and would be stored twice.
        vars(self)["whole"] = whole
        head = whole.get_output_embeddings()
        name = next(name for name, module in self.inner.named_modules() if module is head)
        self.inner.set_submodule(name, nn.Identity())
        self.inner._tied_weights_keys, self.inner.all_tied_weights_keys = None, {}
        self._no_split_modules = whole._no_split_modules
        self._keys_to_ignore_on_load_unexpected = {rf"^inner\.{re.escape(name)}\."}
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the decoder of the dense model's class; see there. What is ``None`` is left to it.

        ``last_hidden_state`` (B, T, D) is what the head of the whole model reads. Other hidden states are
        those of the whole model.
        """
        named = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
        }
        arguments = {**{name: value for name, value in named.items() if value is not None}, **kwargs}
        decoder, blocks, attentions = self.whole.observed()
        return run_observed(self, decoder, blocks, attentions, arguments, self.get_decoder())

    @classmethod
    def can_generate(cls) -> bool:
        """No: there is no head."""
        return False

    @classmethod
    def is_custom_code(cls) -> bool:
        """As the whole model."""
        return cls.causal.is_custom_code()

    def get_decoder(self) -> Any:
        """The model inside, of the dense model's class."""
        return self.whole.get_decoder()

    def get_input_embeddings(self) -> Any:
        """The embedding."""
        return self.whole.get_input_embeddings()
