"""Where the residual stream runs in each model family: who reads it, who writes it.

A block is a row of *sub-layers*; each adds to the stream what its *branches* make of it: ``x + sum of
writers(inner(readers(norm(x))))``. One branch is the rule; in a parallel block attention and MLP are two
branches of one sub-layer. To slice a model one needs no more than the names of these parts, so a family is
one entry in ``ANATOMIES``, holding only what differs. Knows nothing about rotations or slicing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from analysis.errors import ModelError, UnsupportedError
from analysis.shape import ModelShape, SublayerShape
from analysis.support import refusal
from analysis.values import Value

_PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Weights of other dtypes are codes, which stand for numbers together with a scale."""


class Branch(Value):
    """Attribute names of one way through a sub-layer."""

    kind: Literal["attention", "mlp"]
    norm: str
    """Relative to the block, as is the core."""
    core: str
    """The module that is called; several names are modules that follow one another."""
    readers: tuple[str, ...]
    """Linear maps or parameters of the core that read the stream; those a block lacks are passed over."""
    writers: tuple[str, ...]
    """Those that write it."""

    def but(self, **changes: Any) -> Branch:
        """The same with other names."""
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
    """What the norm adds to its weight: 1 where the weight is stored as gain - 1."""
    epsilon: float | None = None
    """The norms' epsilon, where they do not say it."""
    branch_scale: float = 1.0
    """What a block multiplies every branch by before adding it."""
    returns_tuple: bool = False
    """Whether a block returns a tuple, with the states first."""

    def but(self, **changes: Any) -> Anatomy:
        """The same with other names."""
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
_LATENT = _ATTENTION.but(readers=("q_proj", "q_a_proj", "kv_a_proj_with_mqa"))
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
)
_FUSED_MLP = _MLP.but(readers=("gate_up_proj",))
_LLAMA = Anatomy(sublayers=((_ATTENTION,), (_MLP,)))
_MOE = _LLAMA.but(sublayers=((_ATTENTION,), (_MIXTURE,)))
_DEEPSEEK = _LLAMA.but(sublayers=((_LATENT,), (_MIXTURE,)))
_COHERE = _LLAMA.but(sublayers=((_ATTENTION, _MLP.but(norm="input_layernorm")),), centred=True)


def _granite(config: Any) -> Anatomy:
    return _LLAMA.but(branch_scale=config.residual_multiplier)


def _granitemoe(config: Any) -> Anatomy:
    mixture = _MIXTURE.but(core="block_sparse_moe")
    return _LLAMA.but(sublayers=((_ATTENTION,), (mixture,)), branch_scale=config.residual_multiplier)


def _minicpm3(config: Any) -> Anatomy:
    scale = config.scale_depth / config.num_hidden_layers**0.5
    return _LLAMA.but(sublayers=((_LATENT,), (_MLP,)), branch_scale=scale)


def _stablelm(config: Any) -> Anatomy:
    if config.use_parallel_residual:
        return _COHERE
    return _LLAMA.but(centred=True)


def _neox(config: Any) -> Anatomy:
    attention = _ATTENTION.but(core="attention", readers=("query_key_value",), writers=("dense",))
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
    attention = _ATTENTION.but(core="self_attention", readers=("query_key_value",), writers=("dense",))
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
    attention = _ATTENTION.but(norm="self_attn_layer_norm", writers=("out_proj",))
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
        (_ATTENTION.but(norm="ln_1", core="attn", readers=("c_attn",), writers=("c_proj",)),),
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
            ),
        ),
        _GPT.sublayers[1],
    ),
    returns_tuple=True,
)
_GPTJ = _GPT.but(
    sublayers=(
        (
            # CodeGen has the three readers in one.
            _ATTENTION.but(
                norm="ln_1", core="attn", readers=(*_ATTENTION.readers, "qkv_proj"), writers=("out_proj",)
            ),
            _MLP.but(norm="ln_1", readers=("fc_in",), writers=("fc_out",)),
        ),
    ),
    positions=None,
    returns_tuple=True,
)
_PERSIMMON = _LLAMA.but(
    sublayers=(
        (_ATTENTION.but(readers=("query_key_value",), writers=("dense",)),),
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
    "codegen": _GPTJ,
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "cohere_compass_text": _COHERE,
    "cwm": _LLAMA,
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "diffllama": _LLAMA,
    "dots1": _MOE,
    "ernie4_5": _LLAMA,
    "ernie4_5_moe": _MOE,
    "exaone_moe": _MOE,
    "falcon": _falcon,
    "flint": _MOE,
    "gemma": _LLAMA.but(gain_offset=1.0),
    "glm": _LLAMA.but(sublayers=((_ATTENTION,), (_FUSED_MLP,))),
    "glm4_moe": _MOE,
    "glm4_moe_lite": _DEEPSEEK,
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": _GPT_NEO,
    "gpt_neox": _neox,
    "gptj": _GPTJ,
    "granite": _granite,
    "granite_swa": _granite,
    "granitemoe": _granitemoe,
    "granitemoe_swa": _granitemoe,
    "helium": _LLAMA,
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


BRIDGED = "bridged"
"""The type of our models with matrices in the place of blocks (``slicing.modeling_bridged``)."""
SLICED_ALREADY = "This model is sliced already: open the dense model it was made from."


def anatomy_of(config: Any) -> Anatomy:
    """The entry for this configuration.

    Raises ``UnsupportedError`` when the family has none, or this member of it cannot be sliced.
    """
    if config.model_type not in ANATOMIES:
        raise UnsupportedError(refusal(config.model_type))
    entry = ANATOMIES[config.model_type]
    return entry if isinstance(entry, Anatomy) else entry(config)


def why_not_sliceable(config: Any) -> str | None:
    """``None`` when the family can be sliced, otherwise one sentence that says why not."""
    if config.model_type == "sliced":
        return SLICED_ALREADY
    if config.model_type == BRIDGED:
        return (
            "This model has matrices in the place of blocks, which slicing does not turn: slice the model "
            "that it was made from, or one whose gaps were closed without matrices."
        )
    try:
        anatomy_of(config)
    except UnsupportedError as error:
        return str(error)
    if getattr(config, "is_heterogeneous", False):
        return (
            "This model gives its blocks different configurations, which slicing does not handle yet; "
            "use a model whose blocks are all alike."
        )
    return None


def decoder(model: Any) -> nn.Module:
    """The model without its head."""
    found = model.get_decoder()
    # Where transformers finds none it gives the whole model, or ModernBERT's last linear layer of that name.
    return model.model if found is model or isinstance(found, nn.Linear) else found


def blocks(model: Any) -> nn.ModuleList:
    """The decoder blocks in order, for any family: the one module list that is as long as the model.

    Raises ``ModelError`` when there is no such list.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"No list of {count} blocks was found in a model of type '{model.config.model_type}'; "
        "slicescope reads decoders whose blocks are one module list."
    )


def block_path(model: nn.Module) -> str:
    """The module path of the block list, such as ``model.layers``."""
    wanted = blocks(model)
    return next(name for name, module in model.named_modules() if module is wanted)


def core_of(block: nn.Module, branch: Branch) -> nn.Module:
    """The attention or MLP module of a dense block."""
    names = branch.core.split()
    if len(names) == 1:
        return getattr(block, names[0])
    return nn.Sequential(OrderedDict((name, getattr(block, name)) for name in names))


def weights_named(core: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    """(full name, weight) of the linear maps and parameters among ``names`` that the core has.

    Weights are (..., out, in) whatever the module stores. Raises ``UnsupportedError`` for quantised ones.
    """
    for name in names:
        path, _, last = name.rpartition(".")
        holder: Any = core
        for step in path.split(".") if path else ():
            holder = getattr(holder, step, None)
        found: Any = getattr(holder, last, None)
        if found is None:
            continue
        weight = found if isinstance(found, nn.Parameter) else getattr(found, "weight", None)
        if not isinstance(weight, torch.Tensor) or not _is_plain(found, weight):
            raise UnsupportedError(
                f"'{name}' is a {type(found).__name__}, not a plain linear layer; "
                "open the model unquantised to slice it."
            )
        full = name if isinstance(found, nn.Parameter) else f"{name}.weight"
        yield full, weight.mT if isinstance(found, Conv1D) else weight


def _is_plain(holder: Any, weight: torch.Tensor) -> bool:
    if isinstance(holder, nn.Linear) and weight.shape != (holder.out_features, holder.in_features):
        return False
    return weight.dtype in _PLAIN and weight.ndim in (2, 3)


def norm_gain(norm: Any, anatomy: Anatomy, like: torch.Tensor) -> torch.Tensor:
    """The gain a norm multiplies by, shape (D,), in fp32 or better; ones where it has none (OLMo)."""
    weight = getattr(norm, "weight", None)
    precise = torch.promote_types(like.dtype, torch.float32)
    if weight is None:
        return torch.ones(like.shape[-1], dtype=precise, device=like.device)
    return weight.detach().to(like.device, precise) + anatomy.gain_offset


def norm_shift(norm: Any) -> torch.Tensor | None:
    """What a layer norm adds at its end, shape (D,), or ``None``."""
    return getattr(norm, "bias", None)


def norm_epsilon(norm: nn.Module, anatomy: Anatomy) -> float:
    """The epsilon of a norm, under whichever name the family stores it."""
    for name in ("variance_epsilon", "eps"):
        if hasattr(norm, name):
            return float(getattr(norm, name))
    if anatomy.epsilon is None:
        raise UnsupportedError(f"The norm {type(norm).__name__} has no epsilon that slicescope knows.")
    return anatomy.epsilon


def embedding_scale(embedding: nn.Module) -> float:
    """What the embedding layer multiplies its rows by (the square root of D for Gemma, else 1)."""
    return float(getattr(embedding, "scalar_embed_scale", 1.0))


def read_shape(model: nn.Module) -> ModelShape:
    """The shapes of a sliceable model; works on a model without weights (meta device) too."""
    config: Any = model.config
    if reason := why_not_sliceable(config):
        raise UnsupportedError(reason)
    anatomy = anatomy_of(config)
    inner = model.get_submodule(anatomy.decoder)
    table: torch.Tensor = getattr(inner, anatomy.embedding).weight
    head: nn.Linear = getattr(model, anatomy.head)
    positions = None if anatomy.positions is None else getattr(inner, anatomy.positions).weight
    return ModelShape(
        architecture=config.model_type,
        hidden_size=table.shape[1],
        vocab_size=table.shape[0],
        tied=bool(config.tie_word_embeddings),
        blocks=tuple(
            tuple(_sublayer_shape(block, branches, config) for branches in anatomy.sublayers)
            for block in blocks(model)
        ),
        head_bias=head.bias is not None,
        positions=0 if positions is None else len(positions),
        final_norm=len(list(getattr(inner, anatomy.final_norm).parameters())),
        final_shift=norm_shift(getattr(inner, anatomy.final_norm)) is not None,
    )


def _sublayer_shape(block: nn.Module, branches: tuple[Branch, ...], config: Any) -> SublayerShape:
    rows = columns = reader_bias = new_bias = writer_biases = inner = inner_products = 0
    idle_rows = idle_columns = 0
    norms: dict[str, nn.Module] = {branch.norm: getattr(block, branch.norm) for branch in branches}
    for branch in branches:
        core = core_of(block, branch)
        parameters = dict(core.named_parameters())
        shifted = norm_shift(norms[branch.norm]) is not None
        readers, writers = (dict(weights_named(core, n)) for n in (branch.readers, branch.writers))
        if not readers or not writers:
            raise UnsupportedError(
                f"A '{config.model_type}' block without the expected parts in '{branch.core}' was found, so "
                "it cannot be sliced; its redundancy can still be profiled."
            )
        for name, weight in readers.items():
            rows += weight.numel() // weight.shape[-1]
            idle_rows += _idle(weight, config) * weight.shape[-2]
            bias = parameters.get(_bias_name(name))
            reader_bias += 0 if bias is None else bias.numel()
            new_bias += weight.shape[-2] if shifted and bias is None else 0
        for name, weight in writers.items():
            columns += weight.numel() // weight.shape[-2]
            idle_columns += _idle(weight, config) * weight.shape[-1]
            writer_biases += _bias_name(name) in parameters
        outer = {*readers, *writers, *(_bias_name(name) for name in (*readers, *writers))}
        inner += sum(p.numel() for name, p in parameters.items() if name not in outer)
        inner_products += sum(
            module.weight.numel()
            for name, module in core.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" not in outer
        )
    return SublayerShape(
        kind=branches[0].kind if len(branches) == 1 else "parallel",
        reader_rows=rows,
        writer_columns=columns,
        reader_bias=reader_bias,
        new_bias=new_bias,
        writer_bias=writer_biases,
        inner=inner,
        inner_products=inner_products,
        norm=sum(len(list(norm.parameters())) for norm in norms.values()),
        idle_reader_rows=idle_rows,
        idle_writer_columns=idle_columns,
    )


def _bias_name(weight_name: str) -> str:
    return weight_name.removesuffix("weight") + "bias" if weight_name.endswith("weight") else ""


def _idle(weight: torch.Tensor, config: Any) -> int:
    """How many experts of a stack (E, out, in) one token leaves alone."""
    return weight.shape[0] - config.num_experts_per_tok if weight.ndim == 3 else 0
