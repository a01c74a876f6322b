"""Where the residual stream runs in each model family: who reads it, who writes it.

A block is a row of *sub-layers*; each adds to the stream what its *branches* make of it: ``x + sum of
writers(inner(readers(norm(x))))``. One branch is the rule; in a parallel block attention and MLP are two
branches of one sub-layer. To slice a model one needs no more than the names of these parts, so a family is
one entry in ``analysis.families``, holding only what differs. Knows nothing about rotations or slicing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from analysis.errors import ModelError, UnsupportedError
from analysis.families import ANATOMIES, Anatomy, Branch
from analysis.late import nn, torch, transformers
from analysis.support import why_unsupported

_PLAIN = ("float64", "float32", "bfloat16", "float16")
"""Weights of other dtypes are codes, which stand for numbers together with a scale."""

BRIDGED = "bridged"
"""The type of our models with matrices in the place of blocks (``slicing.modeling_bridged``)."""
NARROW = "narrow"
"""The type of our models that are cut inside their blocks (``slicing.modeling_narrow``)."""
SLICED = "sliced"
"""The type of our models with a narrower stream (``slicing.modeling_sliced``)."""
SLICED_ALREADY = "This model is sliced already: open the dense model it was made from."


def anatomy_of(config: Any) -> Anatomy:
    """The entry for this configuration.

    Raises ``UnsupportedError`` when the family has none, or this member of it cannot be sliced.
    """
    if config.model_type not in ANATOMIES:
        raise UnsupportedError(why_unsupported(config.model_type))
    entry = ANATOMIES[config.model_type]
    return entry if isinstance(entry, Anatomy) else entry(config)


def why_not_sliceable(config: Any) -> str | None:
    """``None`` when the family can be sliced, otherwise one sentence that says why not."""
    if config.model_type == SLICED:
        return SLICED_ALREADY
    if config.model_type == NARROW:
        return (
            "This model is cut inside its blocks already: open the dense model it was made from, or one that "
            "was made with 'uniform'."
        )
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


def family_config(config: Any) -> Any:
    """Give the configuration of the family's own class, which runs inside a model of ours."""
    return config.text_config if config.model_type in (SLICED, NARROW, BRIDGED) else config


def decoder(model: Any) -> nn.Module:
    """The model without its head."""
    found = model.get_decoder()
    # Where transformers finds none it gives the whole model, or ModernBERT's last linear layer of that name.
    return model.model if found is model or isinstance(found, nn.Linear) else found


def final_norm(model: Any) -> nn.Module:
    """The norm between the last block and the head, in a family that can be sliced."""
    anatomy = anatomy_of(model.config)
    return getattr(model.get_submodule(anatomy.decoder), anatomy.final_norm)


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
        yield full, weight.mT if isinstance(found, transformers.pytorch_utils.Conv1D) else weight


def _is_plain(holder: Any, weight: torch.Tensor) -> bool:
    if isinstance(holder, nn.Linear) and weight.shape != (holder.out_features, holder.in_features):
        return False
    return any(weight.dtype is getattr(torch, name) for name in _PLAIN) and weight.ndim in (2, 3)


def norm_gain(norm: Any, anatomy: Anatomy, like: torch.Tensor) -> torch.Tensor:
    """The gain a norm multiplies by, shape (D,), in fp32 or better; ones where it has none (OLMo)."""
    weight = getattr(norm, "weight", None)
    precise = torch.promote_types(like.dtype, torch.float32)
    if weight is None:
        return torch.ones(like.shape[-1], dtype=precise, device=like.device)
    return weight.detach().to(like.device, precise) + anatomy.gain_offset


def norm_shift(norm: Any) -> torch.Tensor | None:
    """Return what a layer norm adds at its end, shape (D,), or ``None``."""
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
    """Return the factor of the embedding layer's rows (the square root of D for Gemma, else 1)."""
    return float(getattr(embedding, "scalar_embed_scale", 1.0))
