"""Reads the units of every branch off a model: which parts of its weights can be taken out together.

Shapes alone are looked at, so a model without weights (meta device) will do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import anatomy_of, blocks, core_of, weights_named, why_not_sliceable
from analysis.errors import UnsupportedError
from analysis.families import Branch
from analysis.units import (
    BranchUnits,
    Heads,
    Index,
    Kind,
    Units,
    channels,
    expert_channels,
    experts,
    in_blocks,
    in_groups,
    in_sections,
    kv_groups,
    paired_groups,
    rotary_pairs,
    value_pairs,
)

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

NO_ATTENTION = "This branch is an MLP and has no heads."
NO_MLP = "This branch is an attention and has no channels."
NO_EXPERTS = "This MLP is not a mixture of experts."
SLOPES = "Positions give every head a slope of its own by its number, so that no head can go alone."
NORMED = "Its queries or keys are normed over all heads, or each head by a norm of its own."
NORMED_PAIRS = "Its queries and keys are normed, and the norm depends on every coordinate of a head."
NORMED_VALUES = "Its heads' outputs are normed, and the norm depends on every coordinate of a head."
NO_ROTATION = "Positions turn no coordinates of its queries and keys."


def read_units(model: PreTrainedModel) -> tuple[tuple[BranchUnits, ...], ...]:
    """The units of every branch, by block, in the order of the anatomy's branches.

    Raises ``UnsupportedError`` for a model that cannot be sliced, whose parts are not known.
    """
    config: Any = model.config
    if reason := why_not_sliceable(config):
        raise UnsupportedError(reason)
    branches = [branch for row in anatomy_of(config).sublayers for branch in row]
    return tuple(
        tuple(branch_units(core_of(block, branch), branch, config) for branch in branches)
        for block in blocks(model)
    )


def why_without(model: PreTrainedModel, kinds: Collection[Kind]) -> dict[Kind, str]:
    """Why there are no units of these ``kinds``, a sentence each, in a model none of whose blocks has any."""
    config, last = model.config, blocks(model)[-1]
    branches = [branch for row in anatomy_of(config).sublayers for branch in row]
    found: dict[Kind, str] = {}
    for branch in branches:
        refused = branch_units(core_of(last, branch), branch, config).refused
        elsewhere = NO_MLP if branch.kind == "attention" else NO_ATTENTION
        found |= {kind: why for kind, why in refused.items() if kind in kinds and why != elsewhere}
    return found


def branch_units(core: nn.Module, branch: Branch, config: Any) -> BranchUnits:
    """The units of one branch, whose ``core`` is the module that is called."""
    read = _attention if branch.kind == "attention" else _mlp
    found = read(core, branch, config)
    named = {name: tensor.numel() for name, tensor in core.named_parameters()}
    return replace(found, units=tuple(_with_biases(units, named) for units in found.units))


def _with_biases(units: Units, sizes: dict[str, int]) -> Units:
    biases = {name.removesuffix("weight") + "bias": places for name, places in units.rows.items()}
    there = {name: places for name, places in biases.items() if name in sizes}
    return replace(units, rows={**units.rows, **there})


def _mlp(core: nn.Module, branch: Branch, config: Any) -> BranchUnits:
    attention: tuple[Kind, ...] = ("kv_groups", "value_pairs", "rotary_pairs")
    refused: dict[Kind, str] = dict.fromkeys(attention, NO_ATTENTION)
    switches = dict(weights_named(core, branch.switches))
    readers = {n: w for n, w in weights_named(core, branch.readers) if n not in switches}
    found: list[Units] = []
    for writer, weight in weights_named(core, branch.writers):
        columns = weight.numel() // weight.shape[-2]
        own = {
            name: each.numel() // each.shape[-1]
            for name, each in readers.items()
            if _home(name) == _home(writer)
        }
        if weight.ndim == 2:
            found.append(channels(own, writer, columns))
            continue
        router = dict(_router(core, branch, len(weight)))
        # A router that chooses among groups of experts first needs as many in each of them.
        parts = getattr(config, "n_group", None) or 1
        found.append(experts(router, own, writer, columns, len(weight), parts))
        found.append(expert_channels(own, writer, columns, len(weight)))
    if not any(each.kind == "experts" for each in found):
        refused |= {"experts": NO_EXPERTS, "expert_channels": NO_EXPERTS}
    if not any(each.kind == "channels" for each in found):
        refused["channels"] = "All its channels are those of experts."
    return BranchUnits(tuple(found), refused)


def _home(name: str) -> str:
    """The path of the module that holds the map of this weight: that of its MLP."""
    return name.removesuffix(".weight").rpartition(".")[0]


def _router(core: nn.Module, branch: Branch, count: int) -> Iterator[tuple[str, int]]:
    """Return what the router holds for every expert: its weight, and what corrects its choice."""
    for name in branch.switches:
        router = getattr(core, name, None)
        for inner, tensor in (*_named(router), *(router.named_buffers() if router else ())):
            rows = tensor.shape[0] if inner == "weight" else tensor.numel()
            if rows == count:
                yield f"{name}.{inner}", count


def _named(module: nn.Module | None) -> Iterator[tuple[str, torch.Tensor]]:
    return iter(()) if module is None else module.named_parameters()


def _attention(core: nn.Module, branch: Branch, config: Any) -> BranchUnits:
    mlp: tuple[Kind, ...] = ("channels", "experts", "expert_channels")
    refused: dict[Kind, str] = dict.fromkeys(mlp, NO_MLP)
    heads, rotary = (_latent if branch.latent else _heads)(core, branch, config)
    found: list[Units] = []
    norms = [pair for name in branch.head_norms for pair in _named(getattr(core, name, None))]
    size = heads.queries[1].shape[1]
    if branch.positions == "slopes":
        refused["kv_groups"] = SLOPES
    elif any("." in name or norm.numel() != size for name, norm in norms):
        refused["kv_groups"] = NORMED
    else:
        parts = branch.blocks if branch.fused == "blocks" else 1
        groups = paired_groups(heads) if branch.paired else kv_groups(heads, parts)
        vectors = {
            name: np.arange(len(heads.queries[1])).reshape(groups.count, -1)
            for name in branch.head_vectors
            if getattr(core, name, None) is not None
        }
        found.append(replace(groups, rows={**groups.rows, **vectors}))
    if branch.paired:
        refused["value_pairs"] = NORMED_VALUES
    else:
        found.append(value_pairs(heads))
    turned = _turned(core, branch, config, rotary.keys[1].shape[1])
    if norms:
        refused["rotary_pairs"] = NORMED_PAIRS
    elif not turned:
        refused["rotary_pairs"] = NO_ROTATION
    else:
        start = size - turned if branch.latent else 0
        interleaved = branch.positions == "interleaved" and getattr(config, "rope_interleave", True)
        found.append(rotary_pairs(rotary, start, turned, interleaved))
    return BranchUnits(tuple(found), refused, _cached(core, branch, heads))


def _cached(core: nn.Module, branch: Branch, heads: Heads) -> int:
    """How many numbers the attention keeps of a token."""
    if branch.latent:  # it keeps the latent, and the keys that all heads share
        ((_, down),) = weights_named(core, ("kv_a_proj_with_mqa",))
        return down.shape[-2]
    kept = len(heads.queries[1]) if branch.repeated else heads.groups
    return kept * (heads.keys[1].shape[1] + heads.values[1].shape[1])


def _heads(core: nn.Module, branch: Branch, config: Any) -> tuple[Heads, Heads]:
    """The heads, twice: rotary pairs are those of the same keys."""
    weights = dict(weights_named(core, branch.readers))
    (writer, out), *_ = weights_named(core, branch.writers)
    size, columns = _head_size(core), out.shape[-1]
    if len(weights) == 1:
        ((name, weight),) = weights.items()
        heads = columns // size
        groups = (weight.shape[-2] // size - heads) // 2
        if branch.fused == "blocks":
            q, k, v = in_blocks(branch.blocks, heads, size)
        else:
            q, k, v = (in_groups if branch.fused == "groups" else in_sections)(heads, groups, size)
        queries, keys, values = (name, q), (name, k), (name, v)
    else:
        names = list(weights)
        sizes = [weights[each].shape[-2] for each in names]
        heads, groups = sizes[0] // size, sizes[1] // size
        queries = (names[0], _even(sizes[0], heads))
        keys, values = (names[1], _even(sizes[1], groups)), (names[2], _even(sizes[2], groups))
    found = Heads(queries, keys, values, (writer, _even(columns, heads)))
    return found, found


def _latent(core: Any, branch: Branch, config: Any) -> tuple[Heads, Heads]:
    """The heads over latents, and the same with the keys that positions turn, which all heads share."""
    # The map from the latent comes last, where there is one.
    *_, (name, weight) = weights_named(core, ("q_proj", "q_b_proj"))
    ((pairs, both),) = weights_named(core, ("kv_b_proj",))
    ((shared, down),) = weights_named(core, ("kv_a_proj_with_mqa",))
    ((writer, out),) = weights_named(core, branch.writers)
    heads = weight.shape[-2] // core.qk_head_dim
    places = _even(both.shape[-2], heads)
    plain = core.qk_head_dim - core.qk_rope_head_dim
    columns = (writer, _even(out.shape[-1], heads))
    queries = (name, _even(weight.shape[-2], heads))
    found = Heads(queries, (pairs, places[:, :plain]), (pairs, places[:, plain:]), columns)
    turned = np.arange(down.shape[-2] - core.qk_rope_head_dim, down.shape[-2])[None]
    return found, replace(found, keys=(shared, turned))


def _even(size: int, parts: int) -> Index:
    return np.arange(size).reshape(parts, -1)


def _head_size(core: nn.Module) -> int:
    for module in core.modules():
        for name in ("head_dim", "head_size"):
            if isinstance(size := getattr(module, name, None), int):
                return size
    raise UnsupportedError(f"The attention {type(core).__name__} does not say how large its heads are.")


def _turned(core: Any, branch: Branch, config: Any, size: int) -> int:
    """How many coordinates of a head positions turn; 0 where they turn none."""
    if branch.positions not in ("half", "interleaved"):
        return 0
    for name in ("rotary_ndims", "rotary_dim", "qk_rope_head_dim"):
        if isinstance(found := getattr(core, name, None), int):
            return found
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[core.layer_idx] in rope:  # every kind of block has settings of its own
        rope = rope[kinds[core.layer_idx]] or {}
    return int(size * (rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", 1.0)))
