"""DeciLM folders, which say the sizes of every block in ``block_configs``: for vLLM and mlx-lm.

Keys as vLLM (``nemotron_nas.py``) and mlx-lm (``nemotron-nas.py``) read them. Every block has all query
heads. vLLM takes any width; what else reads the form takes multiples of 256, which ``ffn_mult`` says.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerBase

from analysis.errors import UnsupportedError
from analysis.portable import make_portable, with_old_names
from analysis.sources.model import quiet_transformers
from analysis.storage import require_space, whole_folder
from slicing import modeling_decilm
from slicing.export.base import TYPES, Dense, Export
from slicing.export.parts import BlockParts, Parts, filled, in_dtype, read_parts, up_to

ARCHITECTURE = "DeciLMForCausalLM"
MULTIPLE = modeling_decilm.MULTIPLE
ATTENTION_BIASES = {"q_proj", "k_proj", "v_proj", "o_proj"}


class Deci(Export):
    """A folder of the type ``nemotron-nas``."""

    name = "deci"
    title = "DeciLM folder"
    readers = "vLLM, transformers 4.57 or later, and mlx-lm where widths are multiples of 256"
    folder = True
    dtypes = ("own", *TYPES)

    def check(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, dense: Dense | None = None) -> None:
        """Refuse query heads that are gone from some blocks, and a first block without attention."""
        _read(model)

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
        """Write configuration, modelling file, weights, tokenizer and a card; see ``Export.write``."""
        parts = _read(model)
        kind: torch.dtype = TYPES.get(self.dtype(dtype)) or parts.model.model.norm.weight.dtype
        weights = _weights(parts, kind, multiple)
        require_space(path, sum(each.numel() * each.itemsize for each in weights.values()))
        with whole_folder(path) as draft, quiet_transformers():
            save_torch_state_dict(weights, draft)
            config = json.dumps(_config(parts, kind, multiple), indent=2, sort_keys=True)
            (draft / "config.json").write_text(config, encoding="utf-8")
            shutil.copy(modeling_decilm.__file__, draft / "modeling_decilm.py")
            parts.model.generation_config.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            make_portable(draft, tokenizer)
            (draft / "README.md").write_text(_card(made_from, parts, weights), encoding="utf-8")


def _read(model: Any) -> Parts:
    """What the model has (``UnsupportedError`` where DeciLM cannot say it)."""
    parts = read_parts(model, Deci.name)
    counts = Counter(each.heads for each in parts.blocks if each.heads)
    if len(counts) > 1:
        most = max(counts)
        fewer = sum(count for heads, count in counts.items() if heads != most)
        raise UnsupportedError(
            f"Some of {most} query heads are gone from {fewer} of {len(parts.blocks)} blocks, and in "
            f"'{Deci.name}' every block has all of them: write '--to gguf', or make the model by a method "
            f"with the setting 'export={Deci.name}', such as 'mixed(export={Deci.name})'."
        )
    if not parts.blocks[0].heads:
        raise UnsupportedError(
            f"The first block of this model has no attention, with which the readers of '{Deci.name}' begin: "
            "write '--to gguf', or keep the first attention."
        )
    return parts


def _config(parts: Parts, dtype: torch.dtype, multiple: int) -> dict[str, Any]:
    """The content of ``config.json``: that of a Llama of the largest sizes, and the sizes of every block."""
    said = parts.config.to_dict()
    names = (
        *("vocab_size", "hidden_size", "hidden_act", "max_position_embeddings", "initializer_range"),
        *("rms_norm_eps", "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
    )
    widths = [up_to(each.width, multiple) for each in parts.blocks]
    biases = parts.biases
    with quiet_transformers():
        config = LlamaConfig(
            **{name: said[name] for name in names if said.get(name) is not None},
            head_dim=parts.head_size,
            intermediate_size=max(widths),
            num_hidden_layers=len(parts.blocks),
            num_attention_heads=max(each.heads for each in parts.blocks),
            num_key_value_heads=max(each.groups for each in parts.blocks),
            attention_bias=bool(biases & ATTENTION_BIASES),
            mlp_bias=bool(biases - ATTENTION_BIASES),
            tie_word_embeddings=parts.tied,
            dtype=dtype,
        )
    by_factor = all(width % MULTIPLE == 0 for width in widths)
    blocks = [
        {"attention": _attention(each), "ffn": _ffn(width, parts.config.hidden_size, by_factor)}
        for each, width in zip(parts.blocks, widths, strict=True)
    ]
    return {
        **with_old_names(json.loads(config.to_json_string(use_diff=False))),
        "model_type": modeling_decilm.DeciLMConfig.model_type,
        "architectures": [ARCHITECTURE],
        "auto_map": {
            "AutoConfig": "modeling_decilm.DeciLMConfig",
            "AutoModel": "modeling_decilm.DeciLMModel",
            "AutoModelForCausalLM": f"modeling_decilm.{ARCHITECTURE}",
        },
        "block_configs": blocks,
    }


def _attention(block: BlockParts) -> dict[str, Any]:
    shared = block.heads // block.groups if block.heads else None
    return {"n_heads_in_group": shared, "no_op": not block.heads, "replace_with_linear": False}


def _ffn(width: int, hidden_size: int, by_factor: bool) -> dict[str, Any]:
    """The width itself, or the factor from which readers compute it, rounded up to a multiple of 256."""
    said: dict[str, Any] = {"no_op": not width, "replace_with_linear": False}
    if not by_factor:
        return {**said, "intermediate_size": width or None}
    # Rounded down, so that no reader's rounding leads to the next multiple.
    factor = math.floor(1.5 * width / hidden_size * 1e6) / 1e6
    return {**said, "ffn_mult": factor or None}


def _weights(parts: Parts, dtype: torch.dtype, multiple: int) -> dict[str, Tensor]:
    """All weights by their names in DeciLM. Where some maps have a bias, all of their kind do."""
    inner = parts.model.model
    found = {
        "model.embed_tokens.weight": inner.embed_tokens.weight,
        "model.norm.weight": inner.norm.weight,
    }
    if not parts.tied:
        found["lm_head.weight"] = parts.model.get_output_embeddings().weight
    biased = parts.biases & ATTENTION_BIASES
    for place, block in enumerate(parts.blocks):
        extra = up_to(block.width, multiple) - block.width
        own = parts.weights(block)
        for name, tensor in own.items():
            channels = extra if name.startswith("mlp.") else 0
            found[f"model.layers.{place}.{name}"] = filled(name, tensor, channels)
        for name in ATTENTION_BIASES if biased and block.heads else ():
            there = f"self_attn.{name}"
            if f"{there}.bias" not in own:
                weight = own[f"{there}.weight"]
                found[f"model.layers.{place}.{there}.bias"] = weight.new_zeros(len(weight))
    return {name: in_dtype(name, each, dtype) for name, each in found.items()}


def _card(made_from: str, parts: Parts, weights: dict[str, Tensor]) -> str:
    size = sum(each.numel() for each in weights.values())
    return f"""---
library_name: transformers
tags: [slicescope, structured-pruning, pruned]
---

# {made_from}, as DeciLM

{made_from} in the form of DeciLM: `block_configs` in `config.json` says how wide the MLP of each of its
{len(parts.blocks)} blocks is, how many query heads share a head of keys and values, and which attentions and
MLPs are not there. {size:,} parameters; written by slicescope.

## Use

```shell
vllm serve PATH --trust-remote-code
```

The file `modeling_decilm.py` in this folder is run, so read it first: vLLM takes the configuration from it,
and transformers 4.57 or later the model too.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("PATH", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("PATH", trust_remote_code=False)
```
"""
