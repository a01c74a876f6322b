"""Units are whole: shuffled, turned or taken out with all their parts, they leave the logits alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import FAMILIES, tiny_model
from every_family import OVERRIDES, tiny
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analysis.anatomy import anatomy_of, blocks, core_of, weights_named
from analysis.families import ANATOMIES, Branch
from analysis.read_shape import read_shape
from analysis.read_units import read_units
from analysis.units import COARSE, BranchUnits, Kind, Units

WINDOWS = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(1))
VARIANTS: dict[str, dict[str, Any]] = {
    "codegen": {"n_head": 8},
    "diffllama": {"num_attention_heads": 8, "num_key_value_heads": 4},
    "gpt_bigcode": {"multi_query": False},
}
NAMES = [*sorted(ANATOMIES), *(name for name in FAMILIES if name not in ANATOMIES)]
NAMES += [f"{name}, again" for name in VARIANTS]
COUNTED = ("num_heads", "num_attention_heads", "num_kv_heads", "num_key_value_heads", "kv_heads", "kv_dim")
COUNTED += ("split_size", "embed_dim")
"""What attentions call sizes that go down with their heads."""


def made(name: str) -> Any:
    """A model in fp64, whose experts and attention follow any sizes."""
    if name in ANATOMIES:
        model = tiny(name, torch.float64)
    elif name in FAMILIES:
        model = tiny_model(name, torch.float64)
    else:
        name = name.removesuffix(", again")
        with patch.dict(OVERRIDES, {name: VARIANTS[name]}):
            model = tiny(name, torch.float64)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Any:
    """Made once for all tests, which change copies of it."""
    return made(request.param)


def each_branch(model: Any) -> Iterator[tuple[nn.Module, Branch, BranchUnits]]:
    branches = [branch for row in anatomy_of(model.config).sublayers for branch in row]
    for block, found in zip(blocks(model), read_units(model), strict=True):
        for branch, units in zip(branches, found, strict=True):
            yield core_of(block, branch), branch, units


def holder_of(core: nn.Module, name: str) -> tuple[Any, str]:
    path, _, last = name.rpartition(".")
    return core.get_submodule(path), last


def features(core: nn.Module, name: str, side: str) -> Tensor:
    """Rows or columns of a weight, (features, others); the entries of a vector."""
    holder, last = holder_of(core, name)
    tensor = getattr(holder, last)
    if tensor.ndim == 3:
        return (tensor if side == "rows" else tensor.mT).flatten(0, 1)
    if last != "weight" and side == "rows":
        return tensor.flatten()
    return tensor.T if isinstance(holder, Conv1D) == (side == "rows") else tensor


def put(core: nn.Module, name: str, side: str, found: Tensor) -> None:
    """Put rows or columns back, perhaps fewer of them."""
    holder, last = holder_of(core, name)
    old = getattr(holder, last)
    if old.ndim == 3:
        found = found.unflatten(0, (len(old), -1))
        found = found if side == "rows" else found.mT
    elif last == "weight":
        found = found.T if isinstance(holder, Conv1D) == (side == "rows") else found
    elif found.numel() == old.numel():
        found = found.view_as(old)
    if isinstance(old, nn.Parameter):
        setattr(holder, last, nn.Parameter(found.contiguous(), requires_grad=False))
        if isinstance(holder, Conv1D) and last == "weight":
            holder.nf = found.shape[1]
    else:
        setattr(holder, last, found.contiguous())


def sides(units: Units) -> Iterator[tuple[str, str, np.ndarray]]:
    yield from (("rows", name, places) for name, places in units.rows.items())
    yield from (("columns", name, places) for name, places in units.columns.items())


def shuffle(core: nn.Module, units: Units) -> None:
    generator = np.random.default_rng(0)
    parts = np.arange(units.count).reshape(units.parts, -1)
    order = np.concatenate([generator.permutation(part) for part in parts])
    for side, name, places in sides(units):
        old = features(core, name, side)
        new = old.clone()
        new[torch.as_tensor(places)] = old[torch.as_tensor(places[order])]
        put(core, name, side, new)


def turn(core: nn.Module, units: Units) -> None:
    """Turn every pair of a unit by one angle, which what positions turn it by commutes with."""
    angle = torch.linspace(0.3, 2.0, units.count, dtype=torch.float64)[:, None]
    for side, name, places in sides(units):
        new = features(core, name, side).clone()
        first, second = (torch.as_tensor(places[:, part::2]) for part in (0, 1))
        cos, sin = (f(angle)[(...,) + (None,) * (new.ndim - 1)] for f in (torch.cos, torch.sin))
        new[first], new[second] = cos * new[first] - sin * new[second], sin * new[first] + cos * new[second]
        put(core, name, side, new)


def gone(units: Units) -> np.ndarray:
    """The last unit of every part, or the last but one of many."""
    parts = np.arange(units.count).reshape(units.parts, -1)
    return parts[:, -2:].flatten() if parts.shape[1] > 4 else parts[:, -1]


def zero(core: nn.Module, units: Units) -> None:
    """What a unit writes; of rotary pairs, which write nothing, what they read."""
    for side, name, places in sides(units):
        if side == "rows" and units.columns:
            continue
        new = features(core, name, side).clone()
        new[torch.as_tensor(places[gone(units)])] = 0.0
        put(core, name, side, new)


def remove(core: nn.Module, units: Units) -> None:
    for side, name, places in sides(units):
        old = features(core, name, side)
        left = np.setdiff1d(np.arange(len(old)), places[gone(units)])
        put(core, name, side, old[torch.as_tensor(left)])
    if units.kind == "kv_groups":
        share = 1 - len(gone(units)) / units.count
        for module in core.modules():
            for attribute in COUNTED:
                if isinstance(value := vars(module).get(attribute), int):
                    setattr(module, attribute, max(1, round(value * share)))
        if hasattr(core, "config"):  # Phi-3 counts heads there
            core.config = copy.deepcopy(core.config)
            core.config.num_attention_heads = round(core.config.num_attention_heads * share)  # type: ignore


def changed(model: Any, kind: Kind, change: Callable[[nn.Module, Units], None]) -> tuple[Tensor, int]:
    """Logits of a model whose units of one kind were all changed, and how many values of them there were."""
    model, count = copy.deepcopy(model), 0
    for core, _, found in list(each_branch(model)):
        for units in found.of(kind):
            change(core, units)
            count += 1
    return logits(model), count


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(WINDOWS, use_cache=False).logits


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_units_can_change_places(model):
    expected = logits(model)
    for kind in ("channels", "experts", "expert_channels", "kv_groups", "value_pairs"):
        assert_equal(changed(model, kind, shuffle)[0], expected)


def test_rotary_pairs_can_be_turned(model):
    assert_equal(changed(model, "rotary_pairs", turn)[0], logits(model))


def test_units_whose_columns_are_zero_can_be_taken_out(model):
    for kind in ("channels", "expert_channels", "kv_groups"):
        if any(each.count == each.parts for *_, found in each_branch(model) for each in found.of(kind)):
            continue  # nothing would be left
        zeroed, count = changed(model, kind, zero)
        if not count:
            continue
        assert float((zeroed - logits(model)).norm()) > 1e-3
        assert_equal(changed(model, kind, remove)[0], zeroed)


def test_shapes_count_units_and_what_each_of_them_holds(model):
    width = model.config.get_text_config().hidden_size
    told = [units for each in read_shape(model).sublayers for units in each.units]
    found = [(core, units) for core, _, each in each_branch(model) for units in each.units]
    assert len(told) == len(found)
    for shape, (core, units) in zip(told, found, strict=True):
        assert (shape.kind, shape.count, shape.parts) == (units.kind, units.count, units.parts)
        core = copy.deepcopy(core)
        before = sum(each.numel() for each in core.parameters())
        remove(core, units)
        after = sum(each.numel() for each in core.parameters())
        each = (shape.reader_rows + shape.writer_columns) * width + shape.inner
        assert before - after == len(gone(units)) * each


def test_cache_is_as_large_as_told(model):
    tokens = WINDOWS.shape[1]
    with torch.no_grad():
        kept = model(WINDOWS[:1], use_cache=True).past_key_values.layers
    size = sum(each.keys.numel() + each.values.numel() for each in kept)
    assert read_shape(model).cache_bytes(tokens, 8) == 8 * size


@pytest.mark.parametrize("name", ["llama", "qwen2", "cohere", "helium"])
def test_pairs_inside_of_heads_can_be_taken_out(name):
    model = made(name)
    zeroed, shorter = copy.deepcopy(model), copy.deepcopy(model)
    left: list[int] = []
    rotation = shorter.model.rotary_emb  # it keeps the frequencies of the pairs that are left
    for each, change in ((zeroed, zero), (shorter, remove)):
        for core, branch, found in list(each_branch(each)):
            for units in (*found.of("value_pairs"), *found.of("rotary_pairs")):
                change(core, units)
            if each is shorter and branch.kind == "attention":
                (pairs,) = found.of("rotary_pairs")
                drop = pairs.rows["q_proj.weight"][gone(pairs)[: len(gone(pairs)) // pairs.parts], :2]
                attention: Any = core
                left = [place for place in range(attention.head_dim) if place not in drop]
                attention.head_dim = len(left)  # two coordinates fewer of queries, keys and values alike
    original = rotation.forward
    rotation.forward = lambda *given, **named: tuple(f[..., left] for f in original(*given, **named))
    assert float((logits(zeroed) - logits(model)).norm()) > 1e-3
    assert_equal(logits(shorter), logits(zeroed))


def test_every_row_and_column_belongs_to_one_coarse_unit(model):
    for core, branch, found in each_branch(model):
        coarse = [each for kind in COARSE for each in found.of(kind)]
        if not coarse:
            assert found.refused["kv_groups"]
            continue
        readers = {n: w for n, w in weights_named(core, branch.readers) if "shared_expert_gate" not in n}
        if not branch.latent:  # latents are read once for all heads
            for full, weight in readers.items():
                places = np.concatenate([each.rows[full].ravel() for each in coarse if full in each.rows])
                assert sorted(places) == list(range(weight.numel() // weight.shape[-1]))
        for full, weight in weights_named(core, branch.writers):
            places = np.concatenate([each.columns[full].ravel() for each in coarse if full in each.columns])
            assert sorted(places) == list(range(weight.numel() // weight.shape[-2]))


def test_kinds_are_there_or_refused_in_one_sentence(model):
    skeleton = copy.deepcopy(model).to("meta")
    for here, there in zip(sum(read_units(model), ()), sum(read_units(skeleton), ()), strict=True):
        for kind in ("channels", "experts", "expert_channels", "kv_groups", "value_pairs", "rotary_pairs"):
            assert bool(here.of(kind)) != (kind in here.refused)
        assert all(reason.endswith(".") and ". " not in reason for reason in here.refused.values())
        assert here.refused == there.refused
        assert [each.count for each in here.units] == [each.count for each in there.units]
