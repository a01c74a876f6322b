"""slicing: changes the model.

How much to cut where (allocation, plan, schedule), the cut itself (rotation, assembly, slicer), sliced
models on disk (store) and for transformers (modeling_sliced), and recipes with their outcomes (runs).
Imports analysis, never app.

After ``import slicing``, ``AutoModelForCausalLM.from_pretrained`` and ``AutoModel.from_pretrained`` open our
folders too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from slicing.modeling_bridged import BridgedConfig, BridgedDecoder, BridgedForCausalLM
from slicing.modeling_decilm import DeciLMConfig, DeciLMForCausalLM, DeciLMModel
from slicing.modeling_narrow import NarrowConfig, NarrowDecoder, NarrowForCausalLM
from slicing.modeling_sliced import SlicedConfig, SlicedDecoder, SlicedForCausalLM
from slicing.names import check_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load"]

check_names("analysis")

for config, model, decoder in (
    (SlicedConfig, SlicedForCausalLM, SlicedDecoder),
    (BridgedConfig, BridgedForCausalLM, BridgedDecoder),
    (NarrowConfig, NarrowForCausalLM, NarrowDecoder),
):
    AutoConfig.register(config.model_type, config)
    AutoModelForCausalLM.register(config, model)
    AutoModel.register(config, decoder)
    # What is saved carries the modelling file, for those who have transformers only.
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModelForCausalLM")
    decoder.register_for_auto_class("AutoModel")

# transformers has no such type of its own.
AutoConfig.register(DeciLMConfig.model_type, DeciLMConfig)
AutoModelForCausalLM.register(DeciLMConfig, DeciLMForCausalLM)
AutoModel.register(DeciLMConfig, DeciLMModel)


def load(
    folder: str | Path, device: str = "auto", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a sliced folder: the model, ready for inference, and its tokenizer.

    ``device`` and ``dtype`` as in ``ModelSource``. Raises ``ModelError`` or ``StorageError`` when it is no
    sliced folder or a damaged one.
    """
    from analysis.sources.model import ModelSource
    from slicing.store import load_sliced

    sliced, tokenizer = load_sliced(ModelSource.parse(str(folder), device, dtype))
    return sliced.model, tokenizer
