"""From a dense model and bases of its stream to a sliced model: shapes from a schedule, numbers from bases.

The dense model is only read; the sliced one shares with it what slicing leaves alone. Knows nothing about
calibration: bases come from outside.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.anatomy import (
    Branch,
    anatomy_of,
    blocks,
    core_of,
    embedding_scale,
    norm_epsilon,
    norm_gain,
    norm_shift,
    weights_named,
)
from analysis.device import HOST, batch_tokens, comes_and_goes, memory_of, present
from analysis.late import nn, no_grad, torch
from analysis.needs import engine_room
from analysis.spread import dispatch, parts_of
from slicing.late import modeling_sliced
from slicing.rotation import centred, read_in, shifted_bias, write_in
from slicing.schedule import SlicingSchedule

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from slicing.modeling_sliced import SlicedForCausalLM, SlicedSublayer

_ROWS = 8192
"""Rows of an embedding table, or of a head, that are turned to fp32 at a time."""


class Site(NamedTuple):
    """One sub-layer, in the dense model and in the sliced one."""

    block: int
    """Its place in the model."""
    dense: nn.Module
    """The dense block."""
    branches: tuple[Branch, ...]
    sliced: SlicedSublayer
    reserve: int = 0
    """Bytes that its card needs for the work on the next one."""

    @property
    def leaving(self) -> int:
        """The width it writes."""
        return self.sliced.leaving

    @property
    def turns(self) -> bool:
        """Tell whether the stream leaves in another basis."""
        return self.sliced.shortcut is not None


def blank(model: PreTrainedModel, schedule: SlicingSchedule) -> SlicedForCausalLM:
    """The sliced model in its shapes, without numbers (on the meta device)."""
    anatomy = anatomy_of(model.config)
    text_config = copy.deepcopy(model.config)
    text_config.tie_word_embeddings = False
    config = modeling_sliced.SlicedConfig(
        text_config=text_config,
        anatomy=anatomy.model_dump(mode="json"),
        widths=list(schedule.widths),
        embedding=schedule.embedding,
        span=schedule.span,
        norm_epsilon=norm_epsilon(getattr(blocks(model)[0], anatomy.sublayers[0][0].norm), anatomy),
        tie_word_embeddings=schedule.embedding == "shared",
        dtype=model.dtype,
    )
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):
        sliced = modeling_sliced.SlicedForCausalLM(config)
    if model.generation_config is not None:
        sliced.generation_config = copy.deepcopy(model.generation_config)
    return sliced.eval().requires_grad_(False)


def sites(model: PreTrainedModel, sliced: SlicedForCausalLM) -> Iterator[Site]:
    """Every sub-layer in the order of application."""
    rows = anatomy_of(model.config).sublayers
    on_card = model.device.type == "cuda"
    reserve = engine_room(model, model.dtype.itemsize, batch_tokens(model.device)) if on_card else 0
    for index, (dense, block) in enumerate(zip(blocks(model), blocks(sliced), strict=True)):
        for branches, sublayer in zip(rows, block.sublayers, strict=True):  # type: ignore[arg-type]
            yield Site(index, dense, branches, sublayer, reserve)


@no_grad
def fill_readers(model: PreTrainedModel, site: Site, basis: Tensor) -> None:
    """Make a sub-layer read the stream in ``basis`` (D, W); what neither reads nor writes is shared.

    The gain of the norm goes into the readers, its shift into their biases.
    """
    anatomy = anatomy_of(model.config)
    for branch, core in zip(site.branches, site.sliced.cores, strict=True):
        dense, norm = core_of(site.dense, branch), getattr(site.dense, branch.norm)
        readers = dict(weights_named(dense, branch.readers))
        writers = dict(weights_named(dense, branch.writers))
        share_with(core, dense, but={*readers, *writers})
        gain, shift = norm_gain(norm, anatomy, basis.T), norm_shift(norm)
        for name, weight in readers.items():
            _set(core, name, read_in(weight, basis, gain))
            if shift is not None:
                bias = dense.get_parameter(_bias(name)) if _has(dense, _bias(name)) else None
                _set(core, _bias(name), shifted_bias(weight.to(basis.device), bias, shift))


@no_grad
def fill_writers(model: PreTrainedModel, site: Site, basis: Tensor) -> None:
    """Make a sub-layer write the stream in ``basis`` (D, W)."""
    anatomy = anatomy_of(model.config)
    into = (centred(basis) if anatomy.centred else basis) * anatomy.branch_scale
    for branch, core in zip(site.branches, site.sliced.cores, strict=True):
        dense = core_of(site.dense, branch)
        for name, weight in weights_named(dense, branch.writers):
            _set(core, name, write_in(weight, into))
            if _has(dense, _bias(name)):
                _set(core, _bias(name), write_in(dense.get_parameter(_bias(name)), into))


def fill_shortcut(site: Site, shortcut: Tensor, dtype: torch.dtype) -> None:
    """Give a sub-layer its way from the old basis to the new, (W, W'), where they are two."""
    if site.turns:
        site.sliced.shortcut = nn.Parameter(shortcut.to(dtype).contiguous(), requires_grad=False)


@contextmanager
def present_ends(model: PreTrainedModel) -> Iterator[None]:
    """Have the weights that are not in blocks here, where accelerate keeps them elsewhere."""
    anatomy = anatomy_of(model.config)
    dense = model.get_submodule(anatomy.decoder)
    ends = [child for name, child in dense.named_children() if name != anatomy.blocks]
    with ExitStack() as stack:
        for module in (*ends, getattr(model, anatomy.head)):
            for each in module.modules():
                stack.enter_context(present(each))
        yield


@no_grad
def fill_ends(model: PreTrainedModel, sliced: SlicedForCausalLM, basis: Tensor) -> None:
    """Give a sliced model all that is not in its blocks; the embedding writes in ``basis`` (D, W).

    Shared form: final norm and head stay those of the dense model. Untied form: the final norm's gain and
    shift go into a head of its own.
    """
    anatomy = anatomy_of(model.config)
    dense, inner = model.get_submodule(anatomy.decoder), sliced.inner.get_submodule(anatomy.decoder)
    made = {anatomy.embedding, anatomy.blocks, anatomy.widened}
    into = centred(basis) if anatomy.centred else basis

    table, embedding = getattr(dense, anatomy.embedding), getattr(inner, anatomy.embedding)
    head, new_head = getattr(model, anatomy.head), getattr(sliced.inner, anatomy.head)
    shared = embedding.rotation is not None
    if shared:
        share_with(embedding, table)
        _set(embedding, "rotation", into.to(table.weight))
    else:
        scale = embedding_scale(table)
        own = by_rows(table.weight, into.shape[1], lambda rows, _: rows.to(into) * scale @ into)
        _set(embedding, "weight", own)
    if anatomy.positions is not None:
        made.add(anatomy.positions)
        positions = getattr(dense, anatomy.positions).weight
        own = by_rows(positions, into.shape[1], lambda rows, _: rows.to(into) @ into)
        _set(getattr(inner, anatomy.positions), "weight", own)

    share_with(new_head, head)
    if not shared:
        made.add(anatomy.final_norm)
        norm, like = getattr(dense, anatomy.final_norm), head.weight
        shift = norm_shift(norm)
        gain = norm_gain(norm, anatomy, like)
        _set(new_head, "weight", by_rows(like, like.shape[1], lambda rows, _: rows.to(gain) * gain))
        if shift is not None:
            bias = by_rows(like, 1, lambda rows, here: _shifted(rows, head.bias, shift, here))
            _set(new_head, "bias", bias.squeeze(1))
    for name, child in dense.named_children():
        if name not in made:
            share_with(getattr(inner, name), child)
    inner._buffers.update(dense._buffers)


def by_rows(table: Tensor, width: int, turn: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """A table (V, D) turned to (V, width), some rows at a time: in fp32 it would be as large as blocks are.

    ``turn`` gets rows and where they are.
    """
    made = torch.empty(len(table), width, dtype=table.dtype, device=table.device)
    for start in range(0, len(table), _ROWS):
        here = slice(start, start + _ROWS)
        made[here] = turn(table[here], here)
    return made


def _shifted(rows: Tensor, bias: Tensor | None, shift: Tensor, here: slice) -> Tensor:
    return shifted_bias(rows, None if bias is None else bias[here], shift).unsqueeze(1)


def share_with(core: nn.Module, dense: nn.Module, but: Collection[str] = ()) -> None:
    """Let ``core`` use the tensors of ``dense`` that slicing leaves alone."""
    for path, module in dense.named_modules():
        if not _has_module(core, path):
            continue
        target = core.get_submodule(path)
        keep = _copied if comes_and_goes(module) else _as_it_is
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if prefix + name not in but and parameter is not None:
                target._parameters[name] = keep(parameter)
        target._buffers.update({n: b for n, b in module._buffers.items() if n in target._buffers})


def _as_it_is(parameter: nn.Parameter) -> nn.Parameter:
    return parameter


def _copied(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=False)


def fill_in_bases(
    model: PreTrainedModel,
    sliced: SlicedForCausalLM,
    schedule: SlicingSchedule,
    basis_at: Callable[[int, int], Tensor],
) -> Iterator[Site]:
    """Give a blank model its numbers, in bases that are known: ``basis_at(site, width)`` is (D, width).

    Yields every sub-layer as soon as it is done.
    """
    entering = basis_at(0, schedule.widths[0])
    with present_ends(model):
        fill_ends(model, sliced, entering)
    for following, site in enumerate(sites(model, sliced), start=1):
        leaving = basis_at(following, site.leaving)
        with present(site.dense) as device:
            entering, leaving = entering.to(device), leaving.to(device)
            fill_readers(model, site, entering)
            fill_writers(model, site, leaving)
            fill_shortcut(site, entering.T @ leaving, model.dtype)
            yield site
            put_away(site)
        entering = leaving


def put_away(site: Site) -> None:
    """Move a finished sub-layer to the host when its dense block rests there too, or its card has no room for
    the work on the next one beside it.
    """
    first = next(site.sliced.parameters())
    if first.is_meta:  # given up, as the guard does with what it has tried
        return
    rests = any(comes_and_goes(module) for module in site.dense.modules())
    if rests or (first.device.type == "cuda" and memory_of(first.device)[0] < site.reserve):
        _move(site.sliced, HOST)


def spread_like(model: PreTrainedModel, made: PreTrainedModel) -> None:
    """Let what was made of a model run where its parts are: on several devices, or in part on the host.

    Of blocks on the host, as many as half of what is free holds go to the model's first card; the others
    visit it. Nothing is done where all lies on one device.
    """
    if lies_together(made):
        return
    parts, card = parts_of(made, made.dtype.itemsize), model.device
    where = {name: _device_of(made, name, card) for name in (*parts.ends, *parts.blocks)}
    room = memory_of(card)[0] // 2 if card.type == "cuda" else 0
    for name, size in parts.blocks.items():
        if where[name] == HOST and size <= room:
            where[name], room = str(card), room - size
        _move(made.get_submodule(name), where[name])
    dispatch(made, where)


def lies_together(made: nn.Module) -> bool:
    """Tell whether all weights of a model are on one device."""
    return len({each.device for each in made.parameters()}) == 1


def _device_of(made: nn.Module, name: str, card: torch.device) -> str:
    """Name the device of a part of a model: the host, where any of it rests there."""
    parent, _, last = name.rpartition(".")
    own = made.get_submodule(parent)._parameters.get(last)
    part = [own] if own is not None else [*made.get_submodule(name).parameters()]
    devices = [str(each.device) for each in part]
    return HOST if HOST in devices else next(iter(devices), str(card))


def _move(module: nn.Module, device: torch.device | str) -> None:
    """Move what a module has to a device; a parameter that it shares with another model stays there too."""
    for each in module.modules():
        for name, own in each._parameters.items():
            if own is not None and own.device != torch.device(device):
                each._parameters[name] = nn.Parameter(own.detach().to(device), requires_grad=False)
        for name, buffer in each._buffers.items():
            each._buffers[name] = None if buffer is None else buffer.to(device)


def _has_module(core: nn.Module, path: str) -> bool:
    try:
        core.get_submodule(path)
    except AttributeError:
        return False
    return True


def _bias(weight_name: str) -> str:
    # An expert's weight is a parameter without a module, and has no bias.
    return weight_name.removesuffix("weight") + "bias" if weight_name.endswith("weight") else "no bias"


def _has(core: nn.Module, name: str) -> bool:
    path, _, attribute = name.rpartition(".")
    return _has_module(core, path) and getattr(core.get_submodule(path), attribute, None) is not None


def _set(core: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, attribute = name.rpartition(".")
    holder: Any = core.get_submodule(path)
    setattr(holder, attribute, nn.Parameter(tensor.contiguous(), requires_grad=False))
