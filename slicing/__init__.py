"""slicing: changes the model.

How much to cut where (allocation, plan, schedule), the cut itself (rotation, assembly, slicer), sliced
models on disk (store) and for transformers (modeling_sliced), and recipes with their outcomes (runs).
Imports analysis, never app.

After ``import slicing``, ``AutoModelForCausalLM.from_pretrained`` opens sliced folders too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModelForCausalLM

from slicing.modeling_bridged import BridgedConfig, BridgedForCausalLM
from slicing.modeling_narrow import NarrowConfig, NarrowForCausalLM
from slicing.modeling_sliced import SlicedConfig, SlicedForCausalLM
from slicing.names import check_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load"]

check_names("analysis")

for config, model in (
    (SlicedConfig, SlicedForCausalLM),
    (BridgedConfig, BridgedForCausalLM),
    (NarrowConfig, NarrowForCausalLM),
):
    AutoConfig.register(config.model_type, config)
    AutoModelForCausalLM.register(config, model)
    # What is saved carries the modelling file, for those who have transformers only.
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModelForCausalLM")


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
