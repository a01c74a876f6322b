"""The operator for everything inside a block: units go, and what they leave is mixed into those that stay.

A cut of n units to k is two matrices R, W (n, k): new rows are R' rows, new columns are columns W. Selection
is one-hot in both. The dense model is only read. Knows nothing about how units were chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import anatomy_of, block_path, blocks, core_of
from analysis.errors import PlanError, UnsupportedError
from analysis.families import Branch
from analysis.late import nn, no_grad, torch, transformers
from analysis.read_units import branch_units
from analysis.units import Kind, Units
from slicing.guard import probe_logits, why_unlike
from slicing.inner.widths import ORDER
from slicing.late import modeling_narrow

if TYPE_CHECKING:
    from torch import Tensor

    from slicing.modeling_narrow import NarrowLinear

INSIDE_HEADS: tuple[Kind, ...] = ("value_pairs", "rotary_pairs")
"""Kinds that a family's attention has to be given at full size, with zeros where they are gone."""


@dataclass(frozen=True)
class UnitCut:
    """Which units of one kind stay in a branch, and how the others join them."""

    kind: Kind
    kept: np.ndarray
    """(k,) of places among the n units, in order; of kinds in parts, equally many of every part."""
    rows: Tensor | None = None
    """R, (n, k); ``None`` for a selection."""
    columns: Tensor | None = None
    """W, (n, k); ``None`` for a selection."""


BranchCuts = Sequence[UnitCut] | None
"""What becomes of a branch: cuts of different kinds, ``()`` to leave it whole, ``None`` to take it out."""


@no_grad
def cut_model(model: Any, cuts: Sequence[Sequence[BranchCuts]]) -> None:
    """Cut the branches of every block of ``model``, in place; its tensors may be shared, and stay.

    ``cuts`` has an entry for every branch, block by block, in the order of the anatomy. Raises
    ``UnsupportedError`` for a branch without such units, ``PlanError`` for units that are not there.
    """
    branches = [branch for row in anatomy_of(model.config).sublayers for branch in row]
    alone = [len(row) == 1 for row in anatomy_of(model.config).sublayers for _ in row]
    natural = _runs_natural(model, cuts, branches)
    answers: dict[type[nn.Module], int] = {}
    for block, each in zip(blocks(model), cuts, strict=True):
        for branch, single, own in zip(branches, alone, each, strict=True):
            if own is None:
                _take_out(model, block, branch, single, answers)
            elif own:
                cut_branch(block, branch, model.config, own, natural)


def cut_branch(block: nn.Module, branch: Branch, config: Any, cuts: Sequence[UnitCut], natural: bool) -> None:
    """Cut one branch of a ``block``. ``natural``: its attention runs with fewer heads as it is."""
    root = block if " " in branch.core else core_of(block, branch)
    by_kind: dict[Kind, UnitCut] = {
        each.kind: each for each in sorted(cuts, key=lambda cut: ORDER.index(cut.kind))
    }
    # Read before anything goes: a weight with fewer rows no longer tells how many heads there are.
    found = {kind: _units(block, branch, config, kind) for kind in by_kind}
    groups = by_kind.get("kv_groups")
    for kind, each in by_kind.items():
        if kind in INSIDE_HEADS and groups is not None:
            found[kind] = _of_parts(found[kind], groups.kept)
        _cut_units(
            root, found[kind], each, padded=kind in INSIDE_HEADS or (kind == "kv_groups" and not natural)
        )
        if kind == "kv_groups" and natural:
            # The heads that are left lie side by side, and are read again before they are cut inside.
            inside: list[Kind] = [other for other in by_kind if other in INSIDE_HEADS]
            found |= {other: _units(block, branch, config, other) for other in inside}
            groups = None


def _of_parts(units: Units, parts: np.ndarray) -> Units:
    """The units of some parts alone, in the order of these."""
    each = units.count // units.parts
    places = (np.sort(parts)[:, None] * each + np.arange(each)).ravel()
    rows, columns = (
        {name: index[places] for name, index in side.items()} for side in (units.rows, units.columns)
    )
    return replace(units, rows=rows, columns=columns, parts=len(parts))


def _units(block: nn.Module, branch: Branch, config: Any, kind: Kind) -> Units:
    found = branch_units(core_of(block, branch), branch, config)
    for units in found.of(kind):
        return units
    raise UnsupportedError(
        f"'{config.model_type}' has no {kind.replace('_', ' ')} that can be taken out of its {branch.kind}. "
        f"{found.refused.get(kind, '')}".strip()
    )


def _cut_units(root: nn.Module, units: Units, cut: UnitCut, padded: bool) -> None:
    kept = np.sort(np.asarray(cut.kept, dtype=np.int64))
    if not len(kept) or kept[0] < 0 or kept[-1] >= units.count or len(set(kept.tolist())) != len(kept):
        raise PlanError(
            f"From 1 to {units.count} of the {units.kind.replace('_', ' ')} can stay, each named once by its "
            f"place from 0 on; got {len(kept)} from {kept[:3]} on."
        )
    each = units.count // units.parts
    if units.parts > 1 and len(set(np.bincount(kept // each, minlength=units.parts).tolist())) != 1:
        raise PlanError(
            f"Equally many {units.kind.replace('_', ' ')} must stay in each of {units.parts} parts."
        )
    for name, places in units.rows.items():
        if padded and _is_vector(root, name):
            continue  # of a head that is computed, and reads and writes zeros
        _shrink(root, name, places, kept, cut.rows, True, padded)
    for name, places in units.columns.items():
        _shrink(root, name, places, kept, cut.columns, False, padded)


def _shrink(
    root: Any, name: str, places: np.ndarray, kept: np.ndarray, mix: Tensor | None, rows: bool, padded: bool
) -> None:
    """Keep the rows or columns of the kept units of one weight, bias or vector."""
    path, _, last = name.rpartition(".")
    holder = root.get_submodule(path)
    if last == "bias" and isinstance(holder, nn.Linear | transformers.pytorch_utils.Conv1D):
        return  # it went with its weight
    old = getattr(holder, last)
    stay = np.sort(places[kept].ravel())
    gone_places = np.setdiff1d(places.ravel(), stay)
    if not isinstance(holder, nn.Linear | transformers.pytorch_utils.Conv1D):
        found = _kept(_features(old, rows), places, kept, mix, gone_places)
        shape = list(old.shape)
        if old.ndim == 3:
            found = found.unflatten(0, (len(old), -1))
            found = found if rows else found.mT
        elif old.ndim != 2:
            found = found.reshape([-1 if size == old.numel() else size for size in shape])
        _put(holder, last, found)
        return
    linear = _as_narrow(holder)
    weight = linear.weight if rows else linear.weight.T
    full: Any = len(weight)
    there: Any = linear.rows if rows else linear.columns
    if there is not None:  # units of another kind went before, of the same weight
        full = linear.full_out if rows else linear.full_in
        left = there.cpu().numpy()
        now = np.full(full, -1)
        now[left] = np.arange(len(left))
        places = now[places]
        if places.min() < 0:
            raise UnsupportedError(f"'{name}' is cut already.")
        gone_places = now[gone_places]
    found = _kept(weight, places, kept, mix, gone_places)
    linear.weight = _parameter(found if rows else found.T)
    remaining = torch.as_tensor(np.setdiff1d(np.arange(len(weight)), gone_places), device=weight.device)
    remaining = remaining if there is None else there[remaining]
    if rows:
        if linear.bias is not None:
            linear.bias = _parameter(_kept(linear.bias[:, None], places, kept, mix, gone_places)[:, 0])
        linear.out_features = len(found)
        if padded:
            linear.full_out, linear.rows = full, remaining
    else:
        linear.in_features = len(found)
        if padded:
            linear.full_in, linear.columns = full, remaining
    parent, _, own = path.rpartition(".")
    setattr(root.get_submodule(parent), own, linear)


def _kept(
    features: Tensor, places: np.ndarray, kept: np.ndarray, mix: Tensor | None, gone: np.ndarray
) -> Tensor:
    """Features (F, others) without those that are gone, which a ``mix`` (n, k) adds to those that stay."""
    remaining = np.setdiff1d(np.arange(len(features)), gone)
    if mix is None:
        return features[torch.as_tensor(remaining, device=features.device)]
    found = features.clone()
    precise = torch.promote_types(features.dtype, torch.float32)
    matrix = mix.to(features.device, precise)
    for slot in range(places.shape[1]):
        every = torch.as_tensor(places[:, slot], device=features.device)
        own = features[every].to(precise)
        found[every[torch.as_tensor(kept, device=every.device)]] = (matrix.T @ own).to(features.dtype)
    return found[torch.as_tensor(remaining, device=features.device)]


def _features(tensor: Tensor, rows: bool) -> Tensor:
    """A parameter as (features, others): the rows or columns of every expert, or the entries of a vector."""
    if tensor.ndim == 3:
        return (tensor if rows else tensor.mT).flatten(0, 1)
    return tensor if tensor.ndim == 2 and len(tensor) > 1 else tensor.reshape(-1, 1)


def _as_narrow(module: Any) -> NarrowLinear:
    """A linear map that shares the module's numbers, and can be made smaller."""
    weight = module.weight.T if isinstance(module, transformers.pytorch_utils.Conv1D) else module.weight
    sizes = {name: getattr(module, name, None) for name in ("full_in", "full_out")}
    found = modeling_narrow.NarrowLinear(
        weight.shape[1], weight.shape[0], module.bias is not None, **sizes, device="meta"
    )
    found.weight = _parameter(weight)
    if module.bias is not None:
        found.bias = _parameter(module.bias)
    for name in ("rows", "columns"):
        setattr(found, name, getattr(module, name, None))
    return found.train(module.training)


def _is_vector(root: nn.Module, name: str) -> bool:
    path, _, last = name.rpartition(".")
    return last not in ("weight", "bias") and getattr(root.get_submodule(path), last).ndim == 1


def _put(holder: Any, name: str, tensor: Tensor) -> None:
    there = getattr(holder, name)
    setattr(holder, name, _parameter(tensor) if isinstance(there, nn.Parameter) else tensor.contiguous())


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().contiguous(), requires_grad=False)


def _take_out(
    model: Any, block: Any, branch: Branch, alone: bool, answers: dict[type[nn.Module], int]
) -> None:
    """Put what adds nothing in the place of a branch, and nothing in that of its norm.

    ``answers``: with how many things cores of a class answer, as far as it was tried.
    """
    names = branch.core.split()
    last = getattr(block, names[-1])
    if type(last) not in answers:
        answers[type(last)] = _outputs(model, block, last)
    outputs = answers[type(last)]
    layer = getattr(last, "layer_idx", None) if branch.kind == "attention" else None
    for name in names[:-1]:
        setattr(block, name, nn.Identity())
    setattr(block, names[-1], modeling_narrow.Absent(outputs, layer))
    if alone:  # else another branch may read through the same norm
        setattr(block, branch.norm, nn.Identity())


def _outputs(model: Any, block: nn.Module, core: nn.Module) -> int:
    """How many things a core answers with, 0 for states alone: tried on a few tokens."""
    seen: list[int] = []
    handle = core.register_forward_hook(lambda _, __, o: seen.append(len(o) if isinstance(o, tuple) else 0))
    try:
        probe_logits(model)
    finally:
        handle.remove()
    return seen[0]


def _runs_natural(model: Any, cuts: Sequence[Sequence[BranchCuts]], branches: list[Branch]) -> bool:
    """Tell whether the attention runs with fewer heads as it is, by trying the first block that loses
    some. Its logits are then those with the heads that are gone at zero.
    """
    for place, own in enumerate(cuts):
        for index, (branch, each) in enumerate(zip(branches, own, strict=True)):
            groups = [cut for cut in each or () if cut.kind == "kv_groups"]
            if not groups:
                continue
            if len(branch.readers) != 3 or branch.latent or branch.paired:
                return False
            found = [_with_one_branch(model, place, index, groups, way) for way in (False, True)]
            if found[1] is None:
                return False
            expected: Any = found[0]
            return not why_unlike(found[1], expected, model.dtype)
    return True


def _with_one_branch(
    model: Any, place: int, index: int, cuts: Sequence[UnitCut], natural: bool
) -> Tensor | None:
    """Logits of the model with one branch cut, which is whole again afterwards; ``None`` where it fails."""
    block = blocks(model)[place]
    branch = [each for row in anatomy_of(model.config).sublayers for each in row][index]
    before = {name: module for name, module in block.named_modules() if name}
    core = core_of(block, branch)
    parameters = dict(core.named_parameters(recurse=False))
    cut_branch(block, branch, model.config, cuts, natural)
    try:
        return probe_logits(model)
    except (RuntimeError, ValueError):  # shapes that its code does not expect
        return None
    finally:
        for name, module in before.items():
            home, _, last = name.rpartition(".")
            setattr(block.get_submodule(home), last, module)
        for name, parameter in parameters.items():
            setattr(core, name, parameter)


def as_narrow_model(model: Any) -> Any:
    """The model in a class of ours that saves and opens; itself where nothing of it is cut."""
    parts = narrow_parts(model)
    if not parts:
        return model
    # The new configuration sets the way to attend in that of the model too, which other models share.
    text = copy.deepcopy(model.config)
    config = modeling_narrow.NarrowConfig(
        text_config=text, blocks=block_path(model), bridges=[], narrow=parts, dtype=model.dtype
    )
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):  # else transformers draws all its weights anew, those of other models too
        made = modeling_narrow.NarrowForCausalLM(config, inner=model)
    made.generation_config = model.generation_config
    return made.eval()


def narrow_parts(model: Any) -> dict[str, Any]:
    """What ``slicing.modeling_narrow.narrow`` makes of a dense model to get the shapes of this one."""
    with torch.device("meta"):
        dense = type(model)(model.config)
    there = dict(model.named_modules())
    parts: dict[str, Any] = {}
    for name, module in dense.named_modules():
        found = there.get(name)
        if isinstance(found, modeling_narrow.NarrowLinear):
            sizes = {"full_in": found.full_in, "full_out": found.full_out}
            parts[name] = {
                "kind": "linear",
                "in": found.in_features,
                "out": found.out_features,
                "bias": found.bias is not None,
                **{key: size for key, size in sizes.items() if size is not None},
            }
        elif isinstance(found, modeling_narrow.Absent):
            parts[name] = {"kind": "absent", "outputs": found.outputs, "layer": found.layer_idx}
        elif isinstance(found, nn.Identity) and not isinstance(module, nn.Identity):
            parts[name] = {"kind": "identity"}
        elif found is not None:
            for key, parameter in module.named_parameters(recurse=False):
                shape = list(getattr(found, key).shape)
                if shape != list(parameter.shape):
                    parts[f"{name}.{key}"] = {"kind": "parameter", "shape": shape}
    return parts


def copy_sharing(model: Any) -> Any:
    """A second model with modules of its own that shares all tensors with the first."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
