"""Ordinary checkpoints of a model's architecture, which need no code of ours: for whatever opens models.

Settings are written under their names in transformers 4 as well (``analysis.portable``).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from analysis.anatomy import BRIDGED, NARROW
from analysis.errors import UnsupportedError
from analysis.sources.model import quiet_transformers
from analysis.storage import require_space, whole_folder
from slicing.export.base import TYPES, Dense, Export
from slicing.export.parts import in_dtype
from slicing.inner.plain import as_plain
from slicing.store import CARD, write_checkpoint

AS_IT_IS = "open the folder as it is with transformers 5.23"


class Hf(Export):
    """A folder of the model's own architecture."""

    name = "hf"
    title = "checkpoint of its architecture"
    readers = "transformers 4.57 or later, and whatever opens models of this architecture"
    folder = True
    dtypes = ("own", *TYPES)

    def check(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, dense: Dense | None = None) -> None:
        """Refuse sizes that differ from block to block, matrices between blocks, and quantised weights."""
        _plain(model)

    def write(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        path: Path,
        *,
        made_from: str,
        dtype: str | None = None,
        multiple: int = 1,
        dense: Dense | None = None,
    ) -> None:
        """Write configuration, weights, tokenizer and a card; see ``Export.write``."""
        kind = TYPES.get(self.dtype(dtype))
        self.leave_widths(multiple)
        made = _plain(model)
        if kind is not None and kind != made.dtype:
            for name, parameter in made.named_parameters():
                in_dtype(name, parameter, kind)
            made = copy.deepcopy(made).to(kind)
        size = sum(each.numel() * each.itemsize for each in made.parameters())
        require_space(path, size)
        with whole_folder(path) as draft, quiet_transformers():
            write_checkpoint(made, tokenizer, draft)
            (draft / CARD).write_text(_card(made_from, made), encoding="utf-8")


def _plain(model: Any) -> Any:
    """The model in the class of its architecture (``UnsupportedError`` where that cannot be)."""
    kind = model.config.model_type
    if any(not each.is_floating_point() for each in model.parameters()):
        raise UnsupportedError(
            f"The weights of this model are quantised, and '{Hf.name}' takes plain ones: export the model "
            "that it was made from."
        )
    if kind == "sliced":
        raise UnsupportedError(
            f"A sliced model has a width per block and matrices on its shortcuts, which '{Hf.name}' cannot "
            f"say: slice it in one basis with 'slice(plain=true)', or {AS_IT_IS}."
        )
    if kind == BRIDGED:
        raise UnsupportedError(
            f"This model has matrices in the place of blocks, which '{Hf.name}' cannot say: choose another "
            f"repair than 'linear', or {AS_IT_IS}."
        )
    if kind == NARROW:
        return as_plain(
            model.inner,
            "make the model with 'uniform=true', or open the folder as it is with transformers 5.23",
        )
    return model


def _card(made_from: str, model: Any) -> str:
    size = sum(each.numel() for each in model.parameters())
    return f"""---
library_name: transformers
tags: [slicescope, pruned]
---

# {made_from}

{made_from} as a checkpoint of its architecture like any other; written by slicescope. {size:,} parameters.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```
"""
