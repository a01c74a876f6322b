"""What parts inside blocks cost: predicted by hand, measured by brute force, and the widths that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from every_family import tiny

from analysis.curvature import curvature
from analysis.errors import PlanError, StorageError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.costs import BranchCosts, UnitCosts, UnitCurve, widths_at
from slicing.inner.cut import BranchCuts, cut_model
from slicing.inner.widths import parameters_saved
from slicing.inner.worth import unit_costs, unit_worth
from slicing.steps.mixed import Mixed
from slicing.studies.requests import ProfileRequest
from slicing.studies.run import perform
from slicing.studies.sound import require_sound
from slicing.studies.store import find_run
from slicing.view import ModelView

BLOCKS = 4
WINDOWS = torch.randint(3, 300, (10, 24), generator=torch.Generator().manual_seed(3))


def view_of(family: str, **changes: Any) -> ModelView:
    return ModelView(tiny_model(family, num_hidden_layers=BLOCKS, **changes), WINDOWS)


@pytest.fixture(scope="module")
def view() -> ModelView:
    return view_of("llama")


@pytest.fixture(scope="module")
def costs(view) -> UnitCosts:
    return unit_costs(view, BLOCKS, 5)


def read_back(value: UnitCosts) -> UnitCosts:
    return UnitCosts.from_json(value.to_json(), "it")


# The prediction


def written(model: Any) -> list[list[torch.Tensor]]:
    """By block and sub-layer: what tokens are given, over the size of the stream behind it, (tokens, D)."""
    scale = getattr(model.config, "residual_multiplier", 1.0)
    found: list[list[torch.Tensor]] = []
    streams: dict[int, torch.Tensor] = {}

    def note(place: int, row: int) -> Any:
        def hook(_: Any, args: Any, output: Any) -> None:
            added = scale * (output[0] if isinstance(output, tuple) else output)
            streams[place] = streams[place] + added
            size = streams[place].square().mean(-1, keepdim=True).sqrt()
            found[place].append((added / size).flatten(0, 1).double())

        return hook

    handles = []
    for place, block in enumerate(model.model.layers):
        found.append([])
        enter = lambda _, args, at=place: streams.__setitem__(at, args[0])  # noqa: E731
        handles.append(block.register_forward_pre_hook(enter))
        handles.append(block.self_attn.register_forward_hook(note(place, 0)))
        handles.append(block.mlp.register_forward_hook(note(place, 1)))
    model(WINDOWS, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_the_predicted_cost_of_a_branch_is_the_quadratic_form_token_by_token(family):
    view = view_of(family)
    curved = curvature(view.model, WINDOWS[:8])
    found = unit_costs(view)
    for place, rows in enumerate(written(view.model)):
        for row, deltas in enumerate(rows):
            moment = curved.moments[place][row].double()
            expected = float(torch.einsum("ti,ij,tj->t", deltas, moment, deltas).mean() / 2)
            whole = found.blocks[place][row].whole
            assert whole == pytest.approx(expected, rel=1e-4)
            assert whole is not None
            assert whole > 0.0


def test_every_branch_says_which_share_of_the_curvature_massive_tokens_would_have():
    windows = WINDOWS[:3].clone()
    windows[windows == 3] = 4
    windows[:, 0] = 3
    model = tiny_model("llama", num_hidden_layers=2, tie_word_embeddings=False)
    model.get_input_embeddings().weight.data[3] *= 1000.0
    massive = curvature(model, windows).massive
    told = unit_costs(ModelView(model, windows)).blocks
    assert tuple(tuple(branch.massive for branch in block) for block in told) == massive
    assert all(0.0 < share < 1.0 for block in massive for share in block)


@pytest.mark.parametrize("family", ["llama", "phi", "granite"])
def test_token_by_token_the_gradient_meets_what_the_branch_adds(family):
    """By hand: automatic differentiation of the whole model, with labels drawn as for the curvature."""
    view = view_of(family)
    model: Any = tiny_model(family, num_hidden_layers=BLOCKS).requires_grad_(True)
    added: dict[tuple[int, int], torch.Tensor] = {}

    def note(place: tuple[int, int]) -> Any:
        def hook(_: Any, args: Any, output: Any) -> None:
            added[place] = output[0] if isinstance(output, tuple) else output
            added[place].retain_grad()

        return hook

    for place, block in enumerate(model.model.layers):
        block.self_attn.register_forward_hook(note((place, 0)))
        block.mlp.register_forward_hook(note((place, 1)))
    generator, sums = torch.Generator().manual_seed(0), dict.fromkeys(unit_worth(view), 0.0)
    for window in WINDOWS[:8]:
        logits = model(window[None], use_cache=False).logits[0]
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        for place, output in added.items():
            assert output.grad is not None
            sums[place] += float((output.grad * output.detach()).sum(-1).square().sum())
    found = unit_costs(view, paired=True)
    for (block, index), total in sums.items():
        assert found.blocks[block][index].paired == pytest.approx(total / WINDOWS[:8].numel() / 2, rel=1e-3)


def test_predicting_token_by_token_changes_no_other_number(view, costs):
    both = unit_costs(view, BLOCKS, 5, paired=True)
    bare = [[each.model_copy(update={"paired": None}) for each in block] for block in both.blocks]
    assert tuple(map(tuple, bare)) == costs.blocks
    assert all(each.paired is None for block in costs.blocks for each in block)


def test_curves_are_the_costs_of_the_order_in_which_units_go(view, costs):
    for (block, index), worth in unit_worth(view).items():
        branch: Any = costs.blocks[block][index]
        if worth.channels:
            assert branch.channels.count == 48
            assert branch.channels.gone == tuple(range(1, 48))
            assert branch.channels.costs == tuple(worth.channels.costs[:-1].tolist())
            assert list(branch.channels.costs) == sorted(branch.channels.costs)
            continue
        assert worth.groups is not None
        assert branch.order == tuple(worth.groups.units.tolist())
        assert branch.kv_groups.costs == tuple(worth.groups.costs[:-1].tolist())
        together = branch.curve("value_pairs")
        for gone, cost in together.points():
            expected = sum(float(ranks.costs[together.count - gone]) for ranks in worth.ranks)
            assert cost == pytest.approx(expected, rel=1e-9)


def test_long_curves_have_few_points():
    found = unit_costs(view_of("llama", intermediate_size=500))
    (_, mlp), *_ = found.blocks
    assert mlp.channels is not None
    assert mlp.channels.gone == tuple(range(2, 500, 2))
    assert mlp.channels.nearest(0.25) == (124, mlp.channels.costs[61])


def test_one_head_alone_has_no_curve():
    found = unit_costs(view_of("llama", num_key_value_heads=1))
    (attention, _), *_ = found.blocks
    alone = UnitCurve(count=1, gone=(), costs=())
    assert attention.kv_groups == alone
    assert alone.nearest(0.25) is None


# What is measured


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
def test_measured_costs_are_those_of_a_model_without_the_branch(family):
    """Brute force: each branch is taken out of a model of its own. Phi runs both branches side by side."""
    view = ModelView(tiny_model(family), WINDOWS)
    found = unit_costs(view, view.block_count, 5)
    assert found.measured_windows == 5
    assert found.is_measured
    dense = float(np.mean(perplexity(view.model, WINDOWS[:5]).nll))
    for block, branches in enumerate(found.blocks):
        for index, branch in enumerate(branches):
            cuts: list[list[BranchCuts]] = [[()] * len(branches) for _ in range(view.block_count)]
            cuts[block][index] = None
            other = reduce_blocks(view.model, Layout.whole(view.block_count), check=False)
            cut_model(other, cuts)
            rise = float(np.mean(perplexity(other, WINDOWS[:5]).nll)) - dense
            assert branch.measured == pytest.approx(rise, abs=1e-5)


def test_only_what_is_asked_for_is_measured(view):
    some = unit_costs(view, 2, 3)
    assert [[branch.measured is not None for branch in block] for block in some.blocks] == [
        [True, True],
        [True, True],
        [False, False],
        [False, False],
    ]
    assert not some.is_measured
    none = unit_costs(view)
    assert none.measured_windows == 0
    assert none.compared() == ()


# What follows


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("family", ["llama", "llama untied, biases, long heads", "phi"])
def test_widths_at_any_size_follow_from_the_numbers_alone(family, uniform):
    view = view_of(family)
    step = Mixed(uniform=uniform, measured=2, windows=3)
    told = read_back(unit_costs(view, 2, 3))
    for share in (0.05, 0.15, 0.25):
        size = round((1 - share) * view.shape.parameters)
        expected = step.plan(view, size).widths
        assert widths_at(told, view.shape, size, uniform, scaled_blocks=2) == expected


def test_measured_costs_scale_the_first_blocks_up_and_never_down():
    def branch(measured: float | None) -> BranchCosts:
        return BranchCosts(row=0, kind="mlp", whole=0.5, measured=measured)

    assert [branch(each).times_predicted for each in (None, 0.1, 2.0)] == [1.0, 1.0, 4.0]
    assert branch(2.0).ratio == 4.0
    assert branch(None).ratio is None


def test_widths_of_another_model_are_refused(view, costs):
    other = view_of("phi").shape
    with pytest.raises(PlanError, match="or other sub-layers: measure them on this model"):
        widths_at(costs, other, other.parameters // 2)


def test_a_mixture_of_experts_has_no_cost_as_a_whole_and_never_goes_whole():
    """The expert that all tokens share is a small part of it, and says nothing of the others."""
    view = view_of("qwen2_moe")
    found = unit_costs(view, BLOCKS, 3)
    for block, (attention, mlp) in enumerate(found.blocks):
        assert attention.whole is not None
        assert mlp.channels is not None
        assert (mlp.whole is None) == (block != 1)  # block 1 has an ordinary MLP
        assert mlp.measured is not None
    size = round(0.7 * view.shape.parameters)
    widths = widths_at(found, view.shape, size)
    assert all(not block[1].gone for place, block in enumerate(widths.blocks) if place != 1)
    with pytest.raises(PlanError, match="differ in how many units they have"):
        widths_at(found, view.shape, size, uniform=True)


def test_routed_experts_have_neither_units_nor_a_whole():
    found = unit_costs(ModelView(tiny("olmoe"), WINDOWS[:2]))
    assert all((mlp.channels, mlp.whole) == (None, None) for _, mlp in found.blocks)


def test_savings_are_told_by_the_shape(view, costs):
    options = widths_at(costs, view.shape, view.shape.parameters - 5000)
    saved = sum(
        parameters_saved(shape, each, view.shape.hidden_size)
        for row, widths in zip(view.shape.blocks, options.blocks, strict=True)
        for shape, each in zip(row, widths, strict=True)
    )
    assert saved == view.shape.parameters - options.shape_after(view.shape).parameters >= 5000


@pytest.mark.parametrize(
    ("gone", "told"), [((1, 1), "a cost for every number"), ((1, 4), "a cost"), ((1,), "got 1 numbers and 2")]
)
def test_curves_that_make_no_sense_are_refused(gone, told):
    with pytest.raises(PlanError, match=told):
        UnitCurve(count=4, gone=gone, costs=(0.1, 0.2))


# Runs


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "tiny"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (tmp_path / "text.txt").write_text("What is taken away is missed where it stood. " * 40)
    return {
        "model": ModelSource.parse(str(folder), device="cpu"),
        "text": TextSource(kind="file", location=str(tmp_path / "text.txt")),
        "windows": 3,
        "window_length": 24,
    }


def test_a_run_keeps_the_costs_and_tells_its_phases(asked):
    heard: list[str] = []
    request = ProfileRequest(**asked, units=True, units_measured=True)
    run: Any = perform(request, lambda phase, *_: heard.append(phase))
    assert {phase for phase, _ in request.phases()} == set(heard)
    again: Any = find_run(run.key)
    assert again.result.units == run.result.units
    assert run.result.units.is_measured
    assert run.result.units.measured_windows == run.result.units.windows == 3
    assert len(run.result.units.blocks) == run.result.profile.blocks
    assert run.result.units.seconds > 0.0


def test_without_being_asked_for_nothing_is_measured(asked):
    run: Any = perform(ProfileRequest(**asked))
    assert run.result.units is None
    predicted: Any = perform(ProfileRequest(**asked, units=True))
    assert predicted.result.units.measured_windows == 0
    assert predicted.key != run.key


def test_measuring_without_predicting_is_one_sentence(asked):
    with pytest.raises(PlanError, match=r"ask for the costs of units \(units\) too"):
        ProfileRequest(**asked, units_measured=True)


def test_a_model_whose_parts_are_not_known_is_refused_before_any_pass(asked, tmp_path):
    folder = tmp_path / "other"
    tiny("gemma2").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    heard: list[str] = []
    with pytest.raises(UnsupportedError, match="What units cost is told of models whose parts are known"):
        perform(
            ProfileRequest(**{**asked, "model": ModelSource.parse(str(folder), device="cpu")}, units=True),
            lambda phase, *_: heard.append(phase),
        )
    assert "Profiling" not in heard


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda units: units | {"blocks": units["blocks"][:2]}, "or other sub-layers"),
        (lambda units: _with(units, 1, channels={"count": 7, "gone": [1], "costs": [0.1]}), "7 channels"),
        (lambda units: _with(units, 0, order=[1, 1]), "names each of them once"),
    ],
)
def test_stored_costs_that_are_not_of_the_model_are_told(asked, change, told):
    run = perform(ProfileRequest(**asked, units=True))
    data = run.model_dump(mode="json")
    data["result"]["units"] = change(data["result"]["units"])
    with pytest.raises(StorageError, match=told):
        require_sound(type(run).from_plain(data, "it"), "it")


def _with(units: dict[str, Any], index: int, **fields: Any) -> dict[str, Any]:
    first, *others = units["blocks"]
    changed = [each | fields if place == index else each for place, each in enumerate(first)]
    return units | {"blocks": [changed, *others]}
