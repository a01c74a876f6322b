"""Which parts of a block read the residual stream and which write it, for every family: the data.

To add a family is to add one entry to ``ANATOMIES``, which holds only what differs from another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from analysis.errors import UnsupportedError
from analysis.values import Value


class Branch(Value):
    """Attribute names of one way through a sub-layer."""

    kind: Literal["attention", "mlp"]
    norm: str
    """Relative to the block, as is the core."""
    core: str
    """The module that is called; several names are modules that follow one another."""
    readers: tuple[str, ...]
    """Linear maps or parameters of the core that read the stream; those a block lacks are passed over.

    Those of an attention are query, key and value, in this order, or one for all three."""
    writers: tuple[str, ...]
    """Those that write it."""
    fused: Literal["sections", "groups", "blocks"] = "sections"
    """How one reader for all three is laid out. ``sections``: all queries, then all keys, then all values.
    ``groups``: group by group, queries, key and value. ``blocks``: in so many blocks, queries, values and
    keys."""
    blocks: int = 1
    positions: Literal["half", "interleaved", "slopes", "none"] = "half"
    """How an attention sees positions. They turn pairs of coordinates, each with the one ``half`` of all
    further on or, ``interleaved``, neighbours; they add ``slopes`` per head to its scores; or ``none``."""
    latent: bool = False
    """Whether queries, keys and values are read once for all heads (multi-head latent attention)."""
    paired: bool = False
    """Whether heads half of all apart make one output (differential attention)."""
    repeated: bool = False
    """Whether keys and values are repeated for every query head before they are cached for later tokens."""
    head_norms: tuple[str, ...] = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm")
    """Norms of queries and keys."""
    head_vectors: tuple[str, ...] = ("sinks",)
    """Parameters of the core with one number for every query head."""
    switches: tuple[str, ...] = ()
    """Readers that choose or weigh the MLPs of a mixture of experts."""

    def but(self, **changes: Any) -> Branch:
        """Copy it with some fields changed."""
        return self.model_copy(update=changes)


class Anatomy(Value):
    """Attribute names of one model family, relative to the decoder."""

    sublayers: tuple[tuple[Branch, ...], ...]
    decoder: str = "model"
    """The model without its head, and the head: relative to the model."""
    head: str = "lm_head"
    embedding: str = "embed_tokens"
    positions: str | None = None
    """The table of learned positions, which writes the stream too."""
    widened: str | None = None
    """The module in front of the blocks, in decoders that take their output's width from there."""
    blocks: str = "layers"
    final_norm: str = "norm"
    centred: bool = False
    """Whether the norms take off the mean (layer norm), as the writers then must do in their place."""
    gain_offset: float = 0.0
    """The norm adds this to its weight: 1 where the weight is stored as gain - 1."""
    epsilon: float | None = None
    """The norms' epsilon, where they do not say it."""
    branch_scale: float = 1.0
    """A block multiplies every branch by this before it adds the branch."""
    returns_tuple: bool = False
    """Whether a block returns a tuple, with the states first."""

    def but(self, **changes: Any) -> Anatomy:
        """Copy it with some fields changed."""
        return self.model_copy(update=changes)


_ATTENTION = Branch(
    kind="attention",
    norm="input_layernorm",
    core="self_attn",
    readers=("q_proj", "k_proj", "v_proj"),
    writers=("o_proj",),
)
_MLP = Branch(
    kind="mlp",
    norm="post_attention_layernorm",
    core="mlp",
    readers=("gate_proj", "up_proj"),
    writers=("down_proj",),
)
# The latent of multi-head latent attention is read once, for all heads.
_LATENT = _ATTENTION.but(
    readers=("q_proj", "q_a_proj", "kv_a_proj_with_mqa"), latent=True, positions="interleaved"
)
# Some blocks of a mixture of experts are plain MLPs. The router chooses by what it reads.
_MIXTURE = _MLP.but(
    readers=(
        *_MLP.readers,
        "gate",
        "router",
        "experts.gate_up_proj",
        "shared_expert_gate",
        *(f"{name}.{part}" for name in ("shared_expert", "shared_experts") for part in _MLP.readers),
    ),
    writers=(*_MLP.writers, "experts.down_proj", "shared_expert.down_proj", "shared_experts.down_proj"),
    switches=("gate", "router", "shared_expert_gate"),
)
_FUSED_MLP = _MLP.but(readers=("gate_up_proj",))
_LLAMA = Anatomy(sublayers=((_ATTENTION,), (_MLP,)))
_MOE = _LLAMA.but(sublayers=((_ATTENTION,), (_MIXTURE,)))
_DEEPSEEK = _LLAMA.but(sublayers=((_LATENT,), (_MIXTURE,)))
_PARALLEL_MLP = _MLP.but(norm="input_layernorm")
_PARALLEL = _LLAMA.but(sublayers=((_ATTENTION, _PARALLEL_MLP),), centred=True)
_COHERE = _PARALLEL.but(sublayers=((_ATTENTION.but(positions="interleaved"), _PARALLEL_MLP),))
_NEIGHBOURS = _LLAMA.but(sublayers=((_ATTENTION.but(positions="interleaved"),), (_MLP,)))


def _granite(config: Any) -> Anatomy:
    return _LLAMA.but(branch_scale=config.residual_multiplier)


def _granitemoe(config: Any) -> Anatomy:
    mixture = _MIXTURE.but(core="block_sparse_moe")
    return _LLAMA.but(sublayers=((_ATTENTION,), (mixture,)), branch_scale=config.residual_multiplier)


def _minicpm3(config: Any) -> Anatomy:
    scale = config.scale_depth / config.num_hidden_layers**0.5
    return _LLAMA.but(sublayers=((_LATENT.but(positions="half"),), (_MLP,)), branch_scale=scale)


def _stablelm(config: Any) -> Anatomy:
    if config.use_parallel_residual:
        return _PARALLEL
    return _LLAMA.but(centred=True)


def _neox(config: Any) -> Anatomy:
    attention = _ATTENTION.but(
        core="attention", readers=("query_key_value",), writers=("dense",), fused="groups"
    )
    mlp = _MLP.but(readers=("dense_h_to_4h",), writers=("dense_4h_to_h",))
    parallel = config.use_parallel_residual
    return Anatomy(
        sublayers=((attention, mlp),) if parallel else ((attention,), (mlp,)),
        decoder="gpt_neox",
        embedding="embed_in",
        final_norm="final_layer_norm",
        centred=True,
    )


def _falcon(config: Any) -> Anatomy:
    attention = _ATTENTION.but(
        core="self_attention",
        readers=("query_key_value",),
        writers=("dense",),
        fused="groups",
        positions="slopes" if config.alibi else "half",
        repeated=config.new_decoder_architecture,
    )
    mlp = _MLP.but(readers=("dense_h_to_4h",), writers=("dense_4h_to_h",))
    if config.new_decoder_architecture and config.num_ln_in_parallel_attn in (None, 2):
        sublayers: Any = ((attention.but(norm="ln_attn"), mlp.but(norm="ln_mlp")),)
    elif config.new_decoder_architecture or config.parallel_attn:
        sublayers = ((attention, mlp.but(norm="input_layernorm")),)
    else:
        sublayers = ((attention,), (mlp,))
    return Anatomy(
        sublayers=sublayers,
        decoder="transformer",
        embedding="word_embeddings",
        blocks="h",
        final_norm="ln_f",
        centred=True,
        returns_tuple=True,
    )


def _opt(config: Any) -> Anatomy:
    if not config.do_layer_norm_before or config._remove_final_layer_norm:
        raise UnsupportedError(
            "This OPT model norms the stream after each sub-layer, where a rotation does not pass through; "
            "its redundancy can still be profiled."
        )
    if config.word_embed_proj_dim != config.hidden_size:
        raise UnsupportedError(
            "This OPT model projects its embeddings to another width, which slicing does not handle yet; "
            "its redundancy can still be profiled."
        )
    attention = _ATTENTION.but(norm="self_attn_layer_norm", writers=("out_proj",), positions="none")
    mlp = _MLP.but(norm="final_layer_norm", core="fc1 activation_fn fc2", readers=("fc1",), writers=("fc2",))
    return _LLAMA.but(
        sublayers=((attention,), (mlp,)),
        decoder="model.decoder",
        positions="embed_positions",
        final_norm="final_layer_norm",
        centred=True,
    )


_GPT = Anatomy(
    sublayers=(
        (
            _ATTENTION.but(
                norm="ln_1", core="attn", readers=("c_attn",), writers=("c_proj",), positions="none"
            ),
        ),
        (_MLP.but(norm="ln_2", readers=("c_fc",), writers=("c_proj",)),),
    ),
    decoder="transformer",
    embedding="wte",
    positions="wpe",
    widened="drop",
    blocks="h",
    final_norm="ln_f",
    centred=True,
)


def _gpt_bigcode(config: Any) -> Anatomy:
    attention = _GPT.sublayers[0][0].but(fused="sections" if config.multi_query else "groups")
    return _GPT.but(sublayers=((attention,), _GPT.sublayers[1]))


_APERTUS = _LLAMA.but(
    sublayers=(
        (_ATTENTION.but(norm="attention_layernorm"),),
        (_MLP.but(norm="feedforward_layernorm"),),
    )
)
_GPT_NEO = _GPT.but(
    sublayers=(
        (
            _ATTENTION.but(
                norm="ln_1",
                core="attn",
                readers=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
                writers=("attention.out_proj",),
                positions="none",
            ),
        ),
        _GPT.sublayers[1],
    ),
    returns_tuple=True,
)
_GPTJ = _GPT.but(
    sublayers=(
        (
            _ATTENTION.but(
                norm="ln_1",
                core="attn",
                writers=("out_proj",),
                positions="interleaved",
            ),
            _MLP.but(norm="ln_1", readers=("fc_in",), writers=("fc_out",)),
        ),
    ),
    positions=None,
    returns_tuple=True,
)
_CODEGEN = _GPTJ.but(
    sublayers=(
        (
            _GPTJ.sublayers[0][0].but(readers=("qkv_proj",), fused="blocks", blocks=4),
            _GPTJ.sublayers[0][1],
        ),
    )
)
_PERSIMMON = _LLAMA.but(
    sublayers=(
        (_ATTENTION.but(readers=("query_key_value",), writers=("dense",), fused="groups"),),
        (_MLP.but(readers=("dense_h_to_4h",), writers=("dense_4h_to_h",)),),
    ),
    final_norm="final_layernorm",
    centred=True,
)
_PHI = _LLAMA.but(
    sublayers=(
        (
            _ATTENTION.but(writers=("dense",)),
            _MLP.but(norm="input_layernorm", readers=("fc1",), writers=("fc2",)),
        ),
    ),
    final_norm="final_layernorm",
    centred=True,
)
_PHI3 = _LLAMA.but(sublayers=((_ATTENTION.but(readers=("qkv_proj",)),), (_FUSED_MLP,)))
_STARCODER2 = _LLAMA.but(
    sublayers=((_ATTENTION,), (_MLP.but(readers=("c_fc",), writers=("c_proj",)),)), centred=True
)
_VAULTGEMMA = _LLAMA.but(
    sublayers=((_ATTENTION,), (_MLP.but(norm="pre_feedforward_layernorm"),)), gain_offset=1.0
)

ANATOMIES: dict[str, Anatomy | Callable[[Any], Anatomy]] = {
    "apertus": _APERTUS,
    "arcee": _LLAMA,
    "codegen": _CODEGEN,
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "cohere_compass_text": _PARALLEL,
    "cwm": _LLAMA,
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "diffllama": _LLAMA.but(sublayers=((_ATTENTION.but(paired=True),), (_MLP,))),
    "dots1": _MOE,
    "ernie4_5": _NEIGHBOURS,
    "ernie4_5_moe": _MOE.but(sublayers=(_NEIGHBOURS.sublayers[0], (_MIXTURE,))),
    "exaone_moe": _MOE,
    "falcon": _falcon,
    "flint": _MOE,
    "gemma": _LLAMA.but(gain_offset=1.0),
    "glm": _LLAMA.but(sublayers=(_NEIGHBOURS.sublayers[0], (_FUSED_MLP,))),
    "glm4_moe": _MOE,
    "glm4_moe_lite": _DEEPSEEK,
    "gpt2": _GPT,
    "gpt_bigcode": _gpt_bigcode,
    "gpt_neo": _GPT_NEO,
    "gpt_neox": _neox,
    "gptj": _GPTJ,
    "granite": _granite,
    "granite_swa": _granite,
    "granitemoe": _granitemoe,
    "granitemoe_swa": _granitemoe,
    "helium": _NEIGHBOURS,
    "hunyuan_v1_dense": _LLAMA,
    "internlm3": _LLAMA,
    "iquestcoder": _LLAMA,
    "jais2": _LLAMA.but(centred=True),
    "llama": _LLAMA,
    "mellum": _MOE,
    "mimo_v2_flash": _MOE,
    "minicpm3": _minicpm3,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _MOE,
    "nemotron": _LLAMA.but(centred=True, gain_offset=1.0),
    "olmo": _LLAMA.but(centred=True, epsilon=1e-5),
    "olmoe": _MOE,
    "opt": _opt,
    "persimmon": _PERSIMMON,
    "phi": _PHI,
    "phi3": _PHI3,
    "qwen2": _LLAMA,
    "qwen2_moe": _MOE,
    "qwen3": _LLAMA,
    "qwen3_moe": _MOE,
    "seed_oss": _LLAMA,
    "smollm3": _LLAMA,
    "solar_open": _MOE,
    "stablelm": _stablelm,
    "starcoder2": _STARCODER2,
    "vaultgemma": _VAULTGEMMA,
    "youtu": _DEEPSEEK,
}
"""The families that can be sliced, by ``config.model_type``; a function where the configuration decides."""
