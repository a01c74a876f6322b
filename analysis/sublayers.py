"""Run a block sub-layer by sub-layer: what each adds to the stream, and what its output projections read.

The family's own modules compute everything; the anatomy says which of them follow one another. Knows nothing
about what is done with the numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from analysis.anatomy import anatomy_of, blocks, core_of
from analysis.families import Anatomy, Branch
from analysis.late import nn, torch, transformers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.pytorch_utils import Conv1D


class Sublayer:
    """One sub-layer of a model: its norms, its cores, and the linear maps that write the stream."""

    def __init__(self, block: nn.Module, branches: tuple[Branch, ...], anatomy: Anatomy) -> None:
        self.branches = branches
        self.scale = anatomy.branch_scale
        self.norms = [getattr(block, branch.norm) for branch in branches]
        self.cores = [core_of(block, branch) for branch in branches]
        self.roots = [core if " " not in branch.core else block for core, branch in self._pairs()]
        """The modules relative to which the names of the anatomy can be set."""
        self._accepts = [_accepted(core) if b.kind == "attention" else set() for core, b in self._pairs()]

    def _pairs(self) -> Iterator[tuple[nn.Module, Branch]]:
        return zip(self.cores, self.branches, strict=True)

    def added(self, states: Tensor, context: dict[str, Any], but: Collection[int] = ()) -> Tensor:
        """Return what the sub-layer adds to the stream, (B, T, D); ``context`` is what its block gets.

        ``but``: the places of branches that are left out.
        """
        total: Tensor | None = None
        parts = zip(self.cores, self.norms, self._accepts, strict=True)
        for place, (core, norm, accepts) in enumerate(parts):
            if place in but:
                continue
            known = context if accepts is None else {k: v for k, v in context.items() if k in accepts}
            output = core(norm(states), **known)
            output = output[0] if isinstance(output, tuple) else output
            total = output if total is None else total + output
        if total is None:
            return torch.zeros_like(states)
        return total if self.scale == 1.0 else self.scale * total

    @property
    def writers(self) -> list[nn.Linear | Conv1D]:
        """The linear maps that write the stream, branch by branch; stacks of experts are none."""
        return [m for core, branch in self._pairs() for m in linear_maps(core, branch.writers)]

    @property
    def readers(self) -> list[nn.Linear | Conv1D]:
        """The linear maps that read the stream."""
        return [m for core, branch in self._pairs() for m in linear_maps(core, branch.readers)]

    @property
    def mixed(self) -> bool:
        """Whether it writes the stream by stacks of experts too."""
        return any(
            isinstance(_at(core, name), nn.Parameter) for core, b in self._pairs() for name in b.writers
        )

    @contextmanager
    def reading(self, note: Callable[[int, Tensor], None]) -> Iterator[None]:
        """Call ``note(place, inputs)`` inside the ``with`` for every writer, by its place in ``writers``."""

        def noting(place: int) -> Callable[[Any, tuple[Tensor, ...]], None]:
            return lambda _, args: note(place, args[0])

        handles = [
            writer.register_forward_pre_hook(noting(place)) for place, writer in enumerate(self.writers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def sublayers(model: Any) -> list[list[Sublayer]]:
    """The sub-layers of every block, in the order in which they are applied."""
    anatomy = anatomy_of(model.config)
    return [[Sublayer(block, row, anatomy) for row in anatomy.sublayers] for block in blocks(model)]


def linear_maps(core: nn.Module, names: tuple[str, ...]) -> Iterator[nn.Linear | Conv1D]:
    """The linear modules among the attributes ``names`` of a core, in their order."""
    for name in names:
        found = _at(core, name)
        if isinstance(found, nn.Linear | transformers.pytorch_utils.Conv1D):
            yield found


def weights_at(core: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """The (module, attribute) of every weight among the attributes ``names``, stacks of experts too."""
    for name in names:
        found, (path, _, last) = _at(core, name), name.rpartition(".")
        if isinstance(found, nn.Parameter):
            yield (_at(core, path) if path else core), last
        elif isinstance(getattr(found, "weight", None), nn.Parameter):
            yield found, "weight"


def out_in(module: nn.Linear | Conv1D) -> Tensor:
    """The weight of a linear map as (out, in), whatever the module stores."""
    return module.weight.T if isinstance(module, transformers.pytorch_utils.Conv1D) else module.weight


def set_out_in(module: nn.Module, weight: Tensor, name: str = "weight") -> None:
    """Give a linear map another weight (out, in); a new parameter, since another model may share the old."""
    stored = (
        weight.T if isinstance(module, transformers.pytorch_utils.Conv1D) and name == "weight" else weight
    )
    like = getattr(module, name)
    setattr(module, name, nn.Parameter(stored.to(like).contiguous(), requires_grad=False))


def _at(core: nn.Module, name: str) -> Any:
    found: Any = core
    for step in name.split("."):
        found = getattr(found, step, None)
    return found


def _accepted(core: nn.Module) -> set[str] | None:
    """The names of arguments that an attention takes, or ``None`` for all."""
    parameters = inspect.signature(core.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def rms(states: Tensor) -> Tensor:
    """The root mean square of every token, (..., D) -> (..., 1), at least in fp32."""
    precise = states.to(torch.promote_types(states.dtype, torch.float32))
    return precise.square().mean(dim=-1, keepdim=True).clamp_min(1e-12).sqrt()
