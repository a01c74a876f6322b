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

from slicing.auto import tell_transformers
from slicing.names import check_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load"]

check_names("analysis")

tell_transformers()


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
