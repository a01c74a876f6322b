"""Reads the shapes of a model off its modules: what its parts hold, and so what they cost.

Shapes alone are looked at, so a model without weights (meta device) will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.anatomy import anatomy_of, blocks, core_of, norm_shift, weights_named, why_not_sliceable
from analysis.errors import UnsupportedError
from analysis.families import Branch
from analysis.late import nn, transformers
from analysis.read_units import branch_units
from analysis.shape import ModelShape, SublayerShape, UnitShape
from analysis.units import Units

if TYPE_CHECKING:
    import torch


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
    windows = [
        getattr(layer, "sliding_window", None) for layer in transformers.DynamicCache(config=config).layers
    ]
    return ModelShape(
        architecture=config.model_type,
        hidden_size=table.shape[1],
        vocab_size=table.shape[0],
        tied=bool(config.tie_word_embeddings),
        blocks=tuple(
            tuple(_sublayer_shape(block, branches, config, window) for branches in anatomy.sublayers)
            for block, window in zip(blocks(model), windows, strict=True)
        ),
        head_bias=head.bias is not None,
        positions=0 if positions is None else len(positions),
        final_norm=len(list(getattr(inner, anatomy.final_norm).parameters())),
        final_shift=norm_shift(getattr(inner, anatomy.final_norm)) is not None,
    )


def _sublayer_shape(
    block: nn.Module, branches: tuple[Branch, ...], config: Any, window: int | None
) -> SublayerShape:
    units: list[UnitShape] = []
    cached = rows = columns = reader_bias = new_bias = writer_biases = inner = inner_products = 0
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
        found = branch_units(core, branch, config)
        units += (_unit_shape(each, parameters, set(readers), set(writers)) for each in found.units)
        cached += found.cached
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
        cached=cached,
        window=window if cached else None,
        units=tuple(units),
    )


def _unit_shape(
    units: Units, parameters: dict[str, nn.Parameter], readers: set[str], writers: set[str]
) -> UnitShape:
    # What corrects a router's choice is no parameter.
    rows = {name: places.shape[1] for name, places in units.rows.items() if name in parameters}
    return UnitShape(
        kind=units.kind,
        count=units.count,
        reader_rows=sum(count for name, count in rows.items() if name in readers),
        writer_columns=sum(places.shape[1] for name, places in units.columns.items() if name in writers),
        inner=sum(
            count * (parameters[name].shape[-1] if name.endswith("weight") else 1)
            for name, count in rows.items()
            if name not in readers
        ),
        parts=units.parts,
    )


def _bias_name(weight_name: str) -> str:
    return weight_name.removesuffix("weight") + "bias" if weight_name.endswith("weight") else ""


def _idle(weight: torch.Tensor, config: Any) -> int:
    """How many experts of a stack (E, out, in) one token leaves alone."""
    return weight.shape[0] - config.num_experts_per_tok if weight.ndim == 3 else 0
