"""GGUF files, for llama.cpp and what is built on it.

A model whose blocks are all alike is written as ``llama``; any other as ``deci``, which has arrays of widths,
of query heads and of heads of keys and values. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, RopeScalingType, quants
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from analysis.errors import UnsupportedError
from analysis.storage import require_space, whole_file
from slicing.export.base import Dense, Export
from slicing.export.parts import BlockParts, Parts, filled, in_dtype, read_parts, up_to
from slicing.export.vocabulary import Vocabulary, read_vocabulary

TYPES = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
CODED = 32
"""Numbers of a row that Q8_0 gives one scale."""
SCALED = ("default", "linear", "llama3")
"""Kinds of rotary positions that are written."""
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Of the modules of a block, ours and llama.cpp's."""


class Gguf(Export):
    """A single file."""

    name = "gguf"
    title = "GGUF file"
    readers = "llama.cpp and what is built on it"
    folder = False
    dtypes = tuple(TYPES)

    def check(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, dense: Dense | None = None) -> None:
        """Refuse positions, biases and tokenizers that llama.cpp would read differently."""
        _read(model)
        read_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0])

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
        """Write the file, one tensor after the other; see ``Export.write``.

        Widths in Q8_0 are multiples of 32. Two sub-layers that are gone have to be there all the same, and
        are zeros: an MLP, without which llama.cpp leaves out the attention in front of it too, and the
        attention of the first block, from which it reads the size of heads.
        """
        name = self.dtype(dtype)
        kind, told = TYPES[name]
        parts = _read(model)
        vocabulary = read_vocabulary(tokenizer, len(parts.model.get_input_embeddings().weight))
        multiple = math.lcm(multiple, CODED) if name == "q8_0" else multiple
        blocks = [_present(parts, each, multiple) for each in parts.blocks]
        # Where all blocks are alike, `llama` is known to more readers than `deci`.
        architecture = "llama" if parts.alike and not parts.biases else "deci"
        with whole_file(path) as draft, closing(GGUFWriter(draft, architecture)) as writer:
            _say(writer, parts, blocks, made_from)
            writer.add_file_type(told)
            writer.add_quantization_version(2)
            _say_vocabulary(writer, vocabulary)
            size = 0
            for name, each in _tensors(parts, blocks):
                own = _type(each, kind)
                length = _bytes(each, own)
                writer.add_tensor_info(name, each.shape, np.dtype(np.float32), length, raw_dtype=own)
                size += length
            require_space(path, size)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, each in _tensors(parts, blocks):
                writer.write_tensor_data(_numbers(name, each, _type(each, kind)))


def _read(model: Any) -> Parts:
    """What the model has (``UnsupportedError`` where llama.cpp would compute something else)."""
    parts = read_parts(model, Gguf.name)
    positions = parts.config.rope_parameters
    kind = positions.get("rope_type", "default")
    if kind not in SCALED or positions.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedError(
            f"Rotary positions of the kind '{kind}', or of a part of a head, are not written as "
            f"'{Gguf.name}': choose a model with one of {', '.join(SCALED)}, or write '--to deci'."
        )
    rows = {each.heads * parts.head_size for each in parts.blocks if each.heads} - {parts.config.hidden_size}
    if "q_proj" in parts.biases and rows:
        raise UnsupportedError(
            "Queries of this model have biases, and some of its query heads are gone or of another size, "
            "which llama.cpp does not read: leave the heads whole, as in 'fasp(export=gguf)'."
        )
    return parts


def _present(parts: Parts, block: BlockParts, multiple: int) -> BlockParts:
    """The sizes with which a block is written: some of what it has not is there, and adds nothing."""
    heads, groups = block.heads, block.groups
    if not heads and block is parts.blocks[0]:
        heads = groups = 1
    return BlockParts(block.place, heads, groups, up_to(block.width or CODED, multiple))


def _say(writer: GGUFWriter, parts: Parts, blocks: list[BlockParts], made_from: str) -> None:
    """Put the sizes and settings into the header."""
    config, positions = parts.config, parts.config.rope_parameters
    writer.add_type("model")
    writer.add_name(made_from)
    writer.add_block_count(len(blocks))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(parts.head_size)
    writer.add_value_length(parts.head_size)
    writer.add_rope_dimension_count(parts.head_size)
    writer.add_rope_freq_base(float(positions["rope_theta"]))
    if positions.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(positions["factor"]))
    first, single = blocks[0], parts.alike
    writer.add_feed_forward_length(first.width if single else [each.width for each in blocks])
    writer.add_head_count(first.heads if single else [each.heads for each in blocks])
    writer.add_head_count_kv(first.groups if single else [each.groups for each in blocks])


def _say_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.rule)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    say = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for role, place in vocabulary.special.items():
        say[role](place)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(False)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def _tensors(parts: Parts, blocks: list[BlockParts]) -> Iterator[tuple[str, Tensor]]:
    """All tensors by llama.cpp's names, each made when it is asked for."""
    inner = parts.model.model
    yield "token_embd.weight", inner.embed_tokens.weight
    yield "output_norm.weight", inner.norm.weight
    if not parts.tied:
        yield "output.weight", parts.model.get_output_embeddings().weight
    if parts.config.rope_parameters.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _slowed(parts)
    for place, (block, written) in enumerate(zip(parts.blocks, blocks, strict=True)):
        own = parts.weights(block)
        for name, tensor in own.items():
            module, _, kind = name.rpartition(".")
            if module.endswith(("q_proj", "k_proj")):
                tensor = _side_by_side(tensor, parts.head_size)
            elif module.startswith("mlp."):
                tensor = filled(name, tensor, written.width - block.width)
            yield f"blk.{place}.{NAMES[module]}.{kind}", tensor
        for name, tensor in _nothing(parts, block, written):
            yield f"blk.{place}.{name}.weight", tensor


def _nothing(parts: Parts, block: BlockParts, written: BlockParts) -> Iterator[tuple[str, Tensor]]:
    """Sub-layers that are gone and have to be there all the same: norms of one, and maps of zeros."""
    like, width, head = parts.model.model.norm.weight, parts.config.hidden_size, parts.head_size
    if written.heads > block.heads:
        yield "attn_norm", torch.ones_like(like)
        yield from ((name, like.new_zeros(head, width)) for name in ("attn_q", "attn_k", "attn_v"))
        yield "attn_output", like.new_zeros(width, head)
    if not block.width:
        yield "ffn_norm", torch.ones_like(like)
        yield from ((name, like.new_zeros(written.width, width)) for name in ("ffn_gate", "ffn_up"))
        yield "ffn_down", like.new_zeros(width, written.width)


def _side_by_side(tensor: Tensor, size: int) -> Tensor:
    """Rows of queries or keys, or their biases, with the two of a rotary pair beside each other.

    transformers has them half a head apart.
    """
    return tensor.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).reshape(tensor.shape)


def _slowed(parts: Parts) -> Tensor:
    """By how much every rotary pair is slower than its place says, (size / 2,)."""
    rotary, size = parts.model.model.rotary_emb, parts.head_size
    base = float(parts.config.rope_parameters["rope_theta"])
    usual = base ** -(torch.arange(0, size, 2, dtype=torch.float32) / size)
    return usual / rotary.inv_freq.detach().to("cpu", torch.float32)


def _type(tensor: Tensor, wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """How a tensor is stored: vectors in fp32, and rows that Q8_0 cannot divide in fp16."""
    if tensor.ndim == 1:
        return GGMLQuantizationType.F32
    if wanted is GGMLQuantizationType.Q8_0 and tensor.shape[-1] % CODED:
        return GGMLQuantizationType.F16
    return wanted


def _bytes(tensor: Tensor, kind: GGMLQuantizationType) -> int:
    per, size = GGML_QUANT_SIZES[kind]
    return tensor.numel() // per * size


def _numbers(name: str, tensor: Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    """The tensor as it is stored (``UnsupportedError`` where fp16 is too narrow for it)."""
    if kind is not GGMLQuantizationType.F32:  # the scales of Q8_0 are of 16 bits too
        in_dtype(name, tensor, torch.float16)
    return quants.quantize(in_dtype(name, tensor, torch.float32).numpy(), kind)
