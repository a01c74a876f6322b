"""A tiny random model of every causal language model type of the installed transformers; what works on it.

``python tests/every_family.py`` says of each type whether it runs; with ``--write`` it tries which can be
sliced and profiled, and writes the outcome into docs/models.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sys
import time
from copy import deepcopy
from dataclasses import fields
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

BLOCKS = 3

NOT_TRIED: dict[str, str] = {
    "gemma3n": "its vision tower needs the package timm",
    "gemma4_assistant": "drafts from another model's states and keys: no forward on token ids alone",
    "gemma4_unified_assistant": "drafts from another model's states and keys: no forward on token ids alone",
    "musicgen": "the auto class hands the decoder the composite configuration, which lacks its fields",
    "musicgen_melody": "the auto class hands the decoder the composite configuration, which lacks its fields",
}


def _by_name(table: dict[str, int]) -> dict[str, int]:
    return {name: size for names, size in table.items() for name in names.split()}


# What a field becomes wherever a configuration has it, under any of the families' names for it.
SIZES: dict[str, int] = _by_name(
    {
        "hidden_size d_model n_embd emb_dim embedding_size word_embed_proj_dim embedding_dim": 32,
        "out_hidden_size adapter_in_dim adapter_input_size adapter_out_dim": 32,
        "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim dim_ff dff d_inner mlp_dim": 48,
        "ffn_hidden_size intermediate_size_mlp dense_intermediate_size feed_forward_size": 48,
        "moe_intermediate_size shared_intermediate_size expert_ffn_hidden_size": 24,
        "shared_expert_intermediate_size shared_experts_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 24,
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth": BLOCKS,
        "num_encoder_layers num_decoder_layers num_blocks": BLOCKS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads attention_heads": 4,
        "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads": 4,
        "swa_num_attention_heads linear_num_heads linear_num_value_heads": 4,
        "mamba_n_heads mamba_num_heads": 4,
        "head_dim swa_head_dim dim_head d_head kv_channels attention_head_size linear_head_dim": 8,
        "linear_key_head_dim linear_value_head_dim v_head_dim qk_nope_head_dim index_head_dim": 8,
        "query_pre_attn_scalar": 8,
        "qk_rope_head_dim rotary_dim": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "mamba_d_state state_size ssm_state_size mamba_chunk_size": 8,
        "num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num": 4,
        "vocab_size vocab_size_per_layer_input decoder_vocab_size": 300,
        "max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length": 128,
        "max_target_positions max_source_positions": 128,
        # Shorter than the sequences of the tests, so that the masks differ.
        "sliding_window attention_window_size sliding_window_size window_size": 8,
        "attention_chunk_size index_topk keep_window_size": 8,
        # Vision and audio towers, where the class cannot be built without.
        "image_size": 32,
        "patch_size": 8,
        "num_position_embeddings": 16,
    }
)
# The same, but never more than the family's own.
AT_MOST: dict[str, int] = _by_name(
    {
        "num_key_value_heads num_kv_heads kv_n_heads swa_num_key_value_heads": 2,
        "linear_num_key_heads index_n_heads mamba_n_groups n_groups": 2,
        "num_experts_per_tok num_experts_per_token moe_k moe_topk moe_top_k top_k_experts": 2,
        "n_group num_expert_group": 2,
        "topk_group first_k_dense_replace num_dense_layers": 1,
    }
)
# Set also where the family's own default is None.
ALWAYS: dict[str, Any] = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_key_value_heads": 2,
    "is_decoder": True,  # else the encoders attend to what follows
}

# The defaults of these are neutral, those of the released models are not.
GRANITE: dict[str, Any] = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.125,
    "logits_scaling": 8.0,
}
GEMMA4: dict[str, Any] = {"global_head_dim": 16, "hidden_size_per_layer_input": 8}
DOTS3: dict[str, Any] = {
    "index_n_heads": 2,
    "sliding_window": 8,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_q_lora_rank": 24,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 12,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
# What remains by type, of sub-configurations too (by field, where they have no type).
OVERRIDES: dict[str, dict[str, Any]] = {
    "afmoe": {"mup_enabled": True},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 300, "local_attention_window_len": 8},
    "blt_local_encoder": {"hidden_size": 16, "hidden_size_global": 32},
    "blt_local_decoder": {"hidden_size": 16, "hidden_size_global": 32},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
            "full_attention": None,
        },
    },
    "cohere2_moe": {"num_shared_experts": 1},
    "cpmant": {
        "prompt_types": 4,
        "prompt_length": 4,
        "segment_types": 4,
        "position_bias_num_buckets": 8,
        "position_bias_max_distance": 128,
    },
    "attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0},  # of dbrx, which reads them although they are unset
    "ffn_config": {"moe_top_k": 2},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        "partial_rotary_factor": 0.5,
        "o_groups": 2,
        "o_lora_rank": 8,
        "index_topk": 2,
        "layer_types": [
            "heavily_compressed_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
        ],
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
    },
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    },
    "dots3_note_text": DOTS3,
    "electra": {"embedding_size": 16},
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "embedding_multiplier": 5.0,
        "lm_head_multiplier": 0.5,
        "mlp_multipliers": [0.9, 0.6],
        "key_multiplier": 0.4,
        "attention_out_multiplier": 0.9,
        "ssm_multipliers": [0.35, 0.25, 0.35, 0.5, 0.3],
        "ssm_out_multiplier": 0.35,
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma3n_text": {
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
        "num_kv_shared_layers": 1,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "activation_sparsity_pattern": [0.95, 0.0, 0.0],
    },
    "gemma4_text": GEMMA4,
    "gemma4_unified_text": {"global_head_dim": 16},
    "git_vision_model": {"num_hidden_layers": 2},  # unlike the text's, as in the released models
    "got_ocr2_vision": {"window_size": 2, "global_attn_indexes": [1], "output_channels": 8},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granite": GRANITE,
    "granite_swa": GRANITE,
    "granitemoe": GRANITE,
    "granitemoe_swa": GRANITE,
    "granitemoehybrid": {
        **GRANITE,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "granitemoeshared": {**GRANITE, "shared_intermediate_size": 24},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4, "moe_topk": 2},
    "hyperclovax": GRANITE,
    "inkling_text": {"mlp_layer_types": ["dense", "sparse", "sparse"], "d_rel": 4, "rel_extent": 16},
    "inkling2_text": {
        "unpadded_vocab_size": 300,
        "n_layers_per_attn_res_block": 2,
        "d_rel": 4,
        "rel_extent": 16,
    },
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 2},
    "laguna": {
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "num_attention_heads_per_layer": [4, 8, 8],
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "longcat_flash": {"head_dim": 4},
    "mamba2": {"head_dim": 16, "chunk_size": 8},
    "minicpm3": {"dim_model_base": 16},
    "minimax": {
        "block_size": 8,
        "full_attn_alpha_factor": 3.5,
        "linear_attn_alpha_factor": 3.5,
        "mlp_alpha_factor": 3.5,
    },
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "ministral": {"head_dim": 8},
    "mllama_text_model": {"cross_attention_layers": [1]},
    "modernbert-decoder": {"local_attention": 16},
    "nemotron_h": {"mamba_head_dim": 16, "chunk_size": 8},
    "phi4_multimodal_audio": {
        "ext_pw_out_channel": 32,
        "depthwise_separable_out_channel": 32,
        "nemo_conv_channels": 8,
        "input_size": 16,
    },
    "phi4_multimodal_vision": {"crop_size": 32},
    "qwen4_exp_text": {
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "ple_layer_ids": [1],
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 100,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
    },
    "reformer": {
        "attn_layers": ["local", "lsh", "local"],
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "hash_seed": 0,
    },
    "rembert": {"input_embedding_size": 24, "output_embedding_size": 48},
    "roc_bert": {
        "pronunciation_vocab_size": 300,
        "pronunciation_embed_dim": 16,
        "shape_vocab_size": 300,
        "shape_embed_dim": 16,
    },
    "xlm": {"causal": True},
    # Its widths are rounded up to multiples of 64, which its cache does not follow.
    "xlstm": {"qk_dim_factor": 2.0, "v_dim_factor": 2.0, "chunk_size": 8, "ffn_round_up_to_multiple_of": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"]},  # shared by at least two
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "n_mamba_heads": 4,
        "adapter_rank": 8,
        "chunk_size": 8,
    },
    "zaya": {"router_hidden_size": 8},
}


def causal_types() -> list[str]:
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The type's own defaults with every size made small, and three of its blocks."""
    return _shrunk(CONFIG_MAPPING[model_type], model_type)


def tiny(model_type: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model of the type, whose norms have gains worth folding and whose blocks do something."""
    config = tiny_config(model_type)
    if dtype is torch.float64:
        config._experts_implementation = "eager"  # the grouped product knows no doubles
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        lowered = name.lower()
        if parameter.dim() < 2 and ("norm" in lowered or "ln" in lowered):  # no matrix of "prelayernorm.…"
            parameter.add_(torch.randn_like(parameter) * 0.2)
        elif name.endswith("bias"):
            parameter.normal_(std=0.1)
        elif bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(torch.randn_like(parameter) * 0.2)  # gates and scales that start at zero or one
        else:
            parameter.mul_(4.0)  # larger than initialised, so that blocks do something to the stream
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # of routers; it starts at zero, too
            buffer.normal_(std=0.1)
    return model


def _shrunk(kind: type[PreTrainedConfig], model_type: str) -> PreTrainedConfig:
    own = kind()
    given: dict[str, Any] = {field.name: field.default for field in fields(kind)}
    changes: dict[str, Any] = {}
    for name, default in given.items():
        value = vars(own).get(name)
        if isinstance(value, PreTrainedConfig):
            changes[name] = _shrunk(type(value), value.model_type or name)
        elif name in SIZES and default:
            changes[name] = SIZES[name]
        elif name in AT_MOST and default:
            changes[name] = min(AT_MOST[name], default)
        elif name in ALWAYS:
            changes[name] = ALWAYS[name]
    if "kv_lora_rank" in given and "num_key_value_heads" in given:
        changes["num_key_value_heads"] = changes["num_attention_heads"]  # a latent, expanded for every head
    changes.update(_three_blocks(own, [name for name in given if name not in changes]))
    changes.update(deepcopy(OVERRIDES.get(model_type, {})))  # some configurations fill in what they are given
    return kind(**changes)


def _three_blocks(own: PreTrainedConfig, names: list[str]) -> dict[str, list[Any]]:
    """Every list of one entry per block cut to three blocks, of as many kinds as the family has."""
    count = getattr(own, "num_hidden_layers", 0)
    lists = {
        name: list(value)
        for name in names
        if isinstance(value := vars(own).get(name), list | tuple)
        and len(value) == count > BLOCKS
        and list(value) != list(range(count))  # the blocks' numbers, not what each is
    }
    if not lists:
        return {}
    rows = list(zip(*lists.values(), strict=True))
    firsts = [i for i, row in enumerate(rows) if row not in rows[:i]][:BLOCKS]
    rest = [i for i in reversed(range(count)) if i not in firsts]
    chosen = sorted(firsts + rest[: BLOCKS - len(firsts)])
    return {name: [value[i] for i in chosen] for name, value in lists.items()}


def _report(model_type: str) -> str:
    if model_type in NOT_TRIED:
        return f"{model_type}: not tried: {NOT_TRIED[model_type]}"
    start = time.perf_counter()
    try:
        model = tiny(model_type)
        ids = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(1))
        logits = model(input_ids=ids, use_cache=False).logits
        verdict = "ok" if torch.isfinite(logits).all() else "logits not finite"
        size = sum(parameter.numel() for parameter in model.parameters())
    except Exception as error:
        return f"{model_type}: {type(error).__name__}: {str(error)[:300]!r}"
    return f"{model_type}: {verdict}, {size:,} parameters, {time.perf_counter() - start:.2f} s"


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    if "--write" in sys.argv:
        from support_table import write_table

        write_table()
    else:
        for each in causal_types():
            print(_report(each), flush=True)  # noqa: T201
