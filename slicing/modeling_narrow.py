"""Causal language models whose blocks are cut inside, in a file that travels with the weights.

Written by slicescope. A narrow model is a dense model of transformers some of whose linear maps are smaller,
block by block: channels of an MLP, heads of keys and values, coordinates of values, rotary pairs. Where the
family's code wants all heads or coordinates, a map leaves the outputs that are gone at zero, or reads only
the inputs that are left. Whole sub-layers may be gone. Everything else is the dense model's class.

Needs torch and transformers 5.23 or later, and the files beside it, nothing else.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .modeling_bridged import BridgedConfig, BridgedForCausalLM

# Older versions of transformers fetch the files that are named here, and not those named in these.
from .modeling_decoder import Decoder
from .modeling_states import Resizable, run_observed  # noqa: F401


class NarrowConfig(BridgedConfig):
    """The dense model's configuration, and which of its parts are smaller or gone."""

    model_type = "narrow"

    narrow: dict | None = None
    """By module path: the sizes of linear maps, the shapes of parameters, and what is gone."""


class NarrowLinear(nn.Linear):
    """A linear map that leaves some of its outputs at zero, or reads only some of its inputs."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        full_in: int | None = None,
        full_out: int | None = None,
        **kind: Any,
    ) -> None:
        """``full_in`` and ``full_out``: how many inputs it gets and outputs it gives, where that is more."""
        super().__init__(in_features, out_features, bias, **kind)
        self.full_in, self.full_out = full_in, full_out
        self.columns: Tensor | None
        self.rows: Tensor | None
        device = self.weight.device
        for name, full, count in (("columns", full_in, in_features), ("rows", full_out, out_features)):
            places = None if full is None else torch.arange(count, device=device)
            self.register_buffer(name, places)

    def read(self, states: Tensor) -> Tensor:
        """The inputs that are left, (..., full_in) -> (..., in_features)."""
        return states if self.columns is None else states.index_select(-1, self.columns)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as torch calls it)
        """(..., full_in) -> (..., full_out)."""
        return self.write(functional.linear(self.read(input), self.weight, self.bias))

    def write(self, found: Tensor) -> Tensor:
        """All outputs, with zeros where they are gone, (..., out_features) -> (..., full_out)."""
        if self.rows is None or self.full_out is None:
            return found
        return found.new_zeros(*found.shape[:-1], self.full_out).index_copy(-1, self.rows, found)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, full_in={self.full_in}, full_out={self.full_out}"


class Absent(nn.Module):
    """Stands in for an attention or an MLP that is gone: it adds nothing to the stream."""

    def __init__(self, outputs: int, layer_idx: int | None = None) -> None:
        """``outputs``: how many the dense module answers with, 0 where that is no tuple."""
        super().__init__()
        self.outputs, self.layer_idx = outputs, layer_idx

    def forward(self, hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        """Zeros like the states; a cache counts the tokens all the same."""
        cache = named.get("past_key_values") or named.get("layer_past")
        if cache is not None and self.layer_idx is not None:
            nothing = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[-2], 1)
            cache.update(nothing, nothing, self.layer_idx)
        zeros = torch.zeros_like(hidden_states)
        return (zeros, *([None] * (self.outputs - 1))) if self.outputs else zeros


class NarrowForCausalLM(BridgedForCausalLM):
    """A causal language model cut inside its blocks: runs, generates, saves and loads like any other."""

    config_class = NarrowConfig

    def __init__(self, config: Any, inner: Any = None) -> None:
        super().__init__(config, inner)
        if inner is None:
            narrow(self.inner, config.narrow)
        if any("full_in" in said or "full_out" in said for said in config.narrow.values()):
            self.inner.register_forward_pre_hook(fit_adapters)


class NarrowDecoder(Decoder):
    """A model cut inside its blocks without its head."""

    config_class = NarrowConfig
    causal = NarrowForCausalLM


def narrow(model: nn.Module, parts: dict[str, Any]) -> None:
    """Give the named parts of a dense model their smaller shapes, without numbers; changes it in place."""
    for path, said in parts.items():
        home, _, name = path.rpartition(".")
        holder: Any = model.get_submodule(home)
        old = getattr(holder, name)
        if said["kind"] == "linear":
            like = old.weight
            sizes = {key: said.get(key) for key in ("full_in", "full_out")}
            new: Any = NarrowLinear(
                said["in"], said["out"], said["bias"], **sizes, device=like.device, dtype=like.dtype
            )
        elif said["kind"] == "parameter":
            new = nn.Parameter(old.new_empty(said["shape"]))
        elif said["kind"] == "absent":
            new = Absent(said["outputs"], said.get("layer"))
        else:
            new = nn.Identity()
        setattr(holder, name, new)


def fit_adapters(model: nn.Module, *_: Any) -> None:
    """Have the LoRA adapters of linear maps read and write the places that the maps do.

    ``peft`` makes them of the map's own sizes, and hands them all inputs. Raises ``ValueError`` for
    adapters of other kinds.
    """
    for layer in model.modules():
        base = getattr(layer, "base_layer", None)
        if not isinstance(base, NarrowLinear) or (base.columns is None and base.rows is None):
            continue
        if getattr(layer, "lora_variant", None) or not hasattr(layer, "lora_A"):
            raise ValueError(
                f"The adapter '{type(layer).__name__}' does not fit linear maps that leave some outputs at "
                "zero or read some inputs: use LoRA without variants, or name other target modules."
            )
        adapters: Any = layer
        for down, up in zip(adapters.lora_A.values(), adapters.lora_B.values(), strict=True):
            if not down._forward_pre_hooks:  # else it was done before
                down.register_forward_pre_hook(partial(_read, base))
                up.register_forward_hook(partial(_write, base))


def _read(base: NarrowLinear, _: nn.Module, given: tuple[Tensor]) -> Tensor:
    return base.read(given[0])


def _write(base: NarrowLinear, _: nn.Module, __: Any, found: Tensor) -> Tensor:
    return base.write(found)
