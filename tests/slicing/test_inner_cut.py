"""Units cut out of every family: the model is then that with the units at zero, and its price is known."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alone import alone
from conftest import byte_tokenizer, tiny_model
from every_family import tiny

from analysis.anatomy import blocks
from analysis.errors import PlanError, UnsupportedError
from analysis.families import ANATOMIES
from analysis.hooks import entering_states, returns_tuple
from analysis.read_shape import read_shape
from analysis.read_units import read_units
from analysis.sources.model import ModelSource
from analysis.sublayers import set_out_in, sublayers
from analysis.units import Kind, Units
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.depth.reduce import ReducedModel
from slicing.inner import cut as operator
from slicing.inner.cut import UnitCut, as_narrow_model, copy_sharing, cut_model
from slicing.inner.plain import as_plain
from slicing.inner.select import branches_of
from slicing.inner.widths import InnerWidths, SublayerWidths
from slicing.store import open_model, save_reduced

TOKENS = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(1))
KINDS: tuple[Kind, ...] = ("channels", "kv_groups", "value_pairs", "rotary_pairs", "expert_channels")


@pytest.fixture(scope="module", params=sorted(ANATOMIES))
def model(request: pytest.FixtureRequest) -> Any:
    """One of every family that can be sliced, in fp64."""
    return tiny(request.param, torch.float64)


def some(units: Units, seed: int) -> np.ndarray | None:
    """Places that stay: all but one or two of every part, and ``None`` where a part has one unit alone."""
    each = units.count // units.parts
    if each < 2:
        return None
    order = np.random.default_rng(seed).permutation(each)[: max(1, each - 1 - seed % 2)]
    return (np.arange(units.parts)[:, None] * each + np.sort(order)).ravel()


def planned(model: Any, kinds: tuple[Kind, ...]) -> tuple[list[list[list[UnitCut]]], InnerWidths]:
    """Cuts of every branch that has units of these kinds, and the widths that they leave."""
    branches = branches_of(model)
    rows = 1 + max(row for row, _ in branches)
    cuts: list[list[list[UnitCut]]] = []
    widths = []
    for place, found in enumerate(read_units(model)):
        own: list[list[UnitCut]] = []
        kept: list[dict[Kind, int]] = [{} for _ in range(rows)]
        for (row, _), branch in zip(branches, found, strict=True):
            of = [(each, some(each, place)) for kind in kinds for each in branch.of(kind)[:1]]
            own.append([UnitCut(each.kind, stay) for each, stay in of if stay is not None])
            kept[row] |= {each.kind: len(stay) // each.parts for each, stay in of if stay is not None}
        cuts.append(own)
        widths.append(tuple(SublayerWidths(kept=each) for each in kept))
    return cuts, InnerWidths(blocks=tuple(widths))


def at_zero(model: Any, cuts: list[list[list[UnitCut]]]) -> Any:
    """The model with everything at zero by which the units that are gone write, or are read, of one kind."""
    masked = copy.deepcopy(model)
    for block, found, own in zip(blocks(masked), read_units(model), cuts, strict=True):
        for (_, branch), units, each in zip(branches_of(model), found, own, strict=True):
            for cut in each:
                (of,) = (unit for unit in units.of(cut.kind)[:1])
                gone = np.setdiff1d(np.arange(of.count), cut.kept)
                core = block if " " in branch.core else block.get_submodule(branch.core)
                for name, places in (of.columns or of.rows).items():
                    zero(core, name, places[gone].ravel(), rows=not of.columns)
    return masked


def zero(core: Any, name: str, places: np.ndarray, rows: bool) -> None:
    path, _, last = name.rpartition(".")
    holder = core.get_submodule(path)
    tensor = getattr(holder, last).detach().clone()
    at = torch.as_tensor(places)
    if last == "bias":
        tensor[at] = 0.0
    elif tensor.ndim == 3:
        flat = (tensor if rows else tensor.mT).flatten(0, 1).clone()
        flat[at] = 0.0
        tensor = flat.unflatten(0, (len(tensor), -1)) if rows else flat.unflatten(0, (len(tensor), -1)).mT
    elif (type(holder).__name__ == "Conv1D") == rows:
        tensor[:, at] = 0.0
    else:
        tensor[at] = 0.0
    setattr(holder, last, torch.nn.Parameter(tensor.contiguous(), requires_grad=False))


def cut(model: Any, cuts: Any) -> Any:
    made = reduce_blocks(model, Layout.whole(len(blocks(model))), check=False)
    cut_model(made, cuts)
    return made


def logits(model: Any) -> torch.Tensor:
    return model(TOKENS, use_cache=False).logits


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


# The operator


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_is_what_is_masked_and_costs_what_was_said(model, kind):
    cuts, widths = planned(model, (kind,))
    if not any(each for block in cuts for each in block):
        pytest.skip("no such units")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = cut(model, cuts)
    assert far(logits(made), logits(at_zero(model, cuts))) < 1e-9
    predicted = widths.shape_after(read_shape(model)).parameters
    assert sum(each.numel() for each in made.parameters()) == predicted < read_shape(model).parameters
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_several_kinds_at_once_are_one_after_the_other(model):
    kinds: tuple[Kind, ...] = ("channels", "kv_groups", "value_pairs")
    cuts, widths = planned(model, kinds)
    branches = branches_of(model)
    first = [[[each for each in own if each.kind != "value_pairs"] for own in block] for block in cuts]
    found = read_units(model)
    groups = {
        (place, index): len(each.kept)
        for place, block in enumerate(cuts)
        for index, own in enumerate(block)
        for each in own
        if each.kind == "kv_groups"
    }
    for place, block in enumerate(cuts):  # of the groups that are left
        for index in range(len(branches)):
            for pairs in found[place][index].of("value_pairs"):
                left, size = groups.get((place, index), pairs.parts), pairs.count // pairs.parts
                stay = (np.arange(left)[:, None] * size + np.arange(max(1, size - 2))).ravel()
                block[index] = [each for each in block[index] if each.kind != "value_pairs"]
                block[index].append(UnitCut("value_pairs", stay))
    kept = [
        tuple(
            SublayerWidths(
                kept={**each.kept, **({"value_pairs": _pairs(found[place])} if _has(each) else {})}
            )
            for each in row
        )
        for place, row in enumerate(widths.blocks)
    ]
    made = cut(model, cuts)
    assert logits(made).isfinite().all()
    predicted = InnerWidths(blocks=tuple(kept)).shape_after(read_shape(model)).parameters
    assert sum(each.numel() for each in made.parameters()) == predicted
    assert first


def _has(widths: SublayerWidths) -> bool:
    return "value_pairs" in widths.kept


def _pairs(branches: Any) -> int:
    (pairs,) = [each for branch in branches for each in branch.of("value_pairs")]
    return max(1, pairs.count // pairs.parts - 2)


def test_dense_matrices_mix_units_before_they_go():
    model = tiny_model("llama", torch.float64)
    (units,) = read_units(model)[0][1].of("channels")
    generator = torch.Generator().manual_seed(0)
    kept = np.arange(0, units.count, 2)
    rows, columns = (
        torch.randn(units.count, len(kept), dtype=torch.float64, generator=generator) for _ in range(2)
    )
    made = copy_sharing(model)
    cut_model(made, [[(), [UnitCut("channels", kept, rows, columns)]], [(), ()], [(), ()]])
    dense, small = blocks(model)[0].mlp, blocks(made)[0].mlp
    assert torch.allclose(small.gate_proj.weight, rows.T @ dense.gate_proj.weight)
    assert torch.allclose(small.up_proj.weight, rows.T @ dense.up_proj.weight)
    assert torch.allclose(small.down_proj.weight, dense.down_proj.weight @ columns)


def test_a_sub_layer_that_is_gone_adds_nothing(model):
    branches = branches_of(model)
    shape = read_shape(model)
    for index, (row, branch) in enumerate(branches):
        cuts: Any = [[()] * len(branches) for _ in blocks(model)]
        cuts[0][index] = None
        made = cut(model, cuts)
        silent = copy.deepcopy(model)
        sub = sublayers(silent)[0][row]
        at = [each.core for each in sub.branches].index(branch.core)
        handle = sub.roots[at].get_submodule(branch.core.split()[-1] if " " in branch.core else "")
        handle.register_forward_hook(
            lambda _, __, out: (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else 0 * out
        )
        assert far(logits(made), logits(silent)) < 1e-9
        if len(sub.branches) == 1:
            widths = [[SublayerWidths() for _ in block] for block in shape.blocks]
            widths[0][row] = SublayerWidths(gone=True)
            predicted = InnerWidths(blocks=tuple(map(tuple, widths))).shape_after(shape).parameters
            assert sum(each.numel() for each in made.parameters()) == predicted


def test_a_block_is_the_sum_of_its_sub_layers(model):
    states, contexts = entering_states(model, TOKENS, returns_tuple(model, TOKENS[:1, :8]))
    for block, rows, context in zip(blocks(model), sublayers(model), contexts, strict=True):
        output = block(states, **context)
        output = output[0] if isinstance(output, tuple) else output
        for sublayer in rows:
            states = states + sublayer.added(states, context)
        assert far(states, output) < 1e-9
        states = output


@pytest.mark.parametrize(
    ("kept", "told"),
    [([], "From 1 to 48"), ([0, 0], "each named once"), ([48], "From 1 to 48"), ([-1, 3], "From 1 to 48")],
)
def test_places_that_are_no_units_are_one_sentence(kept, told):
    model = tiny_model("llama")
    with pytest.raises(PlanError, match=told):
        cut(model, [[(), [UnitCut("channels", np.asarray(kept, dtype=int))]], [(), ()], [(), ()]])
    with pytest.raises(UnsupportedError, match="has no rotary pairs"):
        cut(tiny_model("gpt2"), [[[UnitCut("rotary_pairs", np.arange(2))], ()], [(), ()], [(), ()]])


def test_parts_keep_equally_many():
    with pytest.raises(PlanError, match="Equally many value pairs"):
        cut(tiny_model("llama"), [[[UnitCut("value_pairs", np.arange(9))], ()], [(), ()], [(), ()]])


# On disk


SAVED = ("llama", "gpt2", "phi3", "qwen3", "falcon", "opt", "gpt_neox")
OPENS = """
import json, sys, traceback
import torch
from transformers import AutoModelForCausalLM


def opens(folder):
    tokens, expected = torch.load(f"{folder}/expected.pt")
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/cut", trust_remote_code=True)
    assert torch.allclose(model(tokens).logits, expected, atol=1e-6)
    start = tokens[:, :4]
    kind = dict(attention_mask=torch.ones_like(start), pad_token_id=0, do_sample=False, max_new_tokens=6)
    cached, plain = (model.generate(start, use_cache=use, **kind) for use in (True, False))
    assert cached.equal(plain), (cached, plain)
    return ""


said = {}
for folder in sys.argv[1:]:
    try:
        said[folder] = opens(folder)
    except Exception:
        said[folder] = traceback.format_exc()
assert not [name for name in sys.modules if name.split(".")[0] in ("slicing", "analysis")]
print(json.dumps(said))
"""
"""A process with transformers alone, which says why each folder did not open. It takes seconds to start."""


@pytest.fixture(scope="module")
def opened_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By family, why its folder did not open with transformers alone: empty where it did."""
    place = tmp_path_factory.mktemp("saved")
    for family in SAVED:
        save_cut(family, place / family)
    done = alone(OPENS, *SAVED, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def save_cut(family: str, place: Path) -> None:
    """Cut a tiny model, save it, and keep its logits beside it."""
    model = tiny_model(family)
    cuts, widths = planned(model, ("channels", "kv_groups"))
    gone: Any = [list(block) for block in cuts]
    if read_shape(model).blocks[0][0].kind != "parallel":
        gone[1][0] = None
    made = cut(model, gone)
    expected = logits(made).detach()
    folder = place / "cut"
    narrow = ReducedModel(as_narrow_model(made), Layout.whole(len(blocks(model))), None, widths)
    said: Any = {"made_from": "tiny", "method": "by hand", "dense_parameters": 1, "calibration": "nothing"}
    save_reduced(narrow, byte_tokenizer(), folder, **said)
    again = open_model(ModelSource.parse(str(folder), device="cpu", dtype="float32")).model
    assert torch.equal(logits(again), expected)
    torch.save((TOKENS, expected), place / "expected.pt")
    assert "cut inside its blocks" in (folder / "README.md").read_text()


@pytest.mark.parametrize("family", SAVED)
def test_a_cut_model_is_saved_and_opens_with_transformers_alone(family, opened_alone):
    assert opened_alone[family] == ""


def test_a_class_that_saves_changes_no_weight(model):
    """Neither of what is cut, nor of the dense model with which it shares them."""
    cuts, _ = planned(model, ("channels", "kv_groups"))
    made = cut(model, cuts)
    before, cut_before = (
        {name: tensor.clone() for name, tensor in each.state_dict().items()} for each in (model, made)
    )
    inner: Any = getattr(as_narrow_model(made), "inner", made)  # itself where nothing can be cut
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.equal(cut_before[name]) for name, tensor in inner.state_dict().items())


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gpt2", "phi3", "gemma"])
def test_equal_widths_are_an_ordinary_checkpoint(family, tmp_path):
    model = tiny_model(family)
    same = np.arange(0, 48, 2)
    cuts = [[(), [UnitCut("channels", same)]] for _ in blocks(model)]
    made = cut(model, cuts)
    plain = as_plain(made)
    assert type(plain) is type(model)
    assert torch.allclose(logits(plain), logits(made), atol=1e-6)
    plain.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.allclose(logits(again), logits(made), atol=1e-6)


def test_heads_of_equal_number_are_an_ordinary_checkpoint_too():
    model = tiny_model("llama")
    cuts = [[[UnitCut("kv_groups", np.asarray([1]))], ()] for _ in blocks(model)]
    plain = as_plain(cut(model, cuts))
    assert plain.config.num_key_value_heads == 1
    assert plain.config.num_attention_heads == 2
    assert plain.config.head_dim == 8


ONE_GROUP = {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.parametrize(
    ("family", "changes", "kind", "kept", "said"),
    [
        # An MLP as wide as all heads of 8, one of six heads, or one shared beside experts.
        ("llama", {"intermediate_size": 32}, "channels", 24, {"intermediate_size": 24}),
        ("llama", {"intermediate_size": 16}, "channels", 8, {"intermediate_size": 8}),
        ("qwen2", {"intermediate_size": 32}, "kv_groups", 1, {**ONE_GROUP, "head_dim": 8}),
        (
            "qwen2_moe",
            {"shared_expert_intermediate_size": 24, "mlp_only_layers": []},
            "channels",
            16,
            {"shared_expert_intermediate_size": 16},
        ),
        # A width that the configuration leaves to the code.
        ("gpt2", {"n_inner": None}, "channels", 100, {"n_inner": 100}),
        # The size of a head follows from their number unless it is said.
        ("phi", {}, "kv_groups", 1, {**ONE_GROUP, "head_dim": 8}),
        ("qwen3", {}, "kv_groups", 1, ONE_GROUP),
    ],
)
def test_a_width_is_said_by_the_role_of_what_is_cut(family, changes, kind, kept, said, tmp_path):
    """And not by which settings have the same number."""
    model = tiny_model(family, **changes)
    cuts = [
        [[UnitCut(kind, np.arange(kept))] if each.of(kind) else () for each in row]
        for row in read_units(model)
    ]
    plain = as_plain(cut(model, cuts))
    before, after = (each.config.to_dict() for each in (model, plain))
    assert {name: value for name, value in after.items() if value != before.get(name)} == said
    plain.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.allclose(logits(again), logits(plain), atol=1e-6)


def test_widths_that_no_configuration_says_are_refused():
    model = tiny_model("llama")
    made = cut(model, [[(), [UnitCut("channels", np.arange(40))]], [(), ()], [(), ()]])
    with pytest.raises(UnsupportedError, match="cannot say these widths"):
        as_plain(made)
    gone = cut(model, [[(), None], [(), ()], [(), ()]])
    with pytest.raises(UnsupportedError, match="whole sub-layers are gone"):
        as_plain(gone)


def test_set_out_in_leaves_what_another_model_shares():
    model = tiny_model("llama")
    other = copy_sharing(model)
    there = blocks(model)[0].mlp.down_proj.weight
    assert blocks(other)[0].mlp.down_proj.weight is there
    set_out_in(blocks(other)[0].mlp.down_proj, torch.zeros_like(there))
    assert blocks(model)[0].mlp.down_proj.weight is there
    assert there.abs().sum() > 0


def test_how_the_branches_that_go_answer_is_tried_once_for_each_kind(monkeypatch):
    tried = []

    def outputs(model, block, core, original=operator._outputs):
        tried.append(type(core).__name__)
        return original(model, block, core)

    monkeypatch.setattr(operator, "_outputs", outputs)
    model = tiny_model("llama")
    made = reduce_blocks(model, Layout.whole(3), check=False)
    cut_model(made, [[None, None], [(), None], [None, ()]])
    assert tried == ["LlamaAttention", "LlamaMLP"]
    assert torch.isfinite(made(torch.arange(8)[None]).logits).all()
