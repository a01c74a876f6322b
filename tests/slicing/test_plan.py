"""A plan is checked when it is made, and every answer of it comes from the same few choices."""

from __future__ import annotations

import pytest
import torch
from conftest import DEMO_SHAPE

from analysis.errors import PlanError, StorageError
from app.cli.options import FormOptions, Rounding, SharingOptions
from slicing.budget import Budget
from slicing.plans import Plan, usual_rounding
from slicing.schedule import SlicingSchedule, constant_at_parameters
from slicing.studies.study import recipes, sliced

REDUNDANCY = [0.0] + [0.9 + i / 300 for i in range(29)]


def test_plan_keeps_its_target_in_every_schedule():
    plan = Plan(target=0.3, settings={"base": 0.05})
    planned, constant = plan.schedule(REDUNDANCY, DEMO_SHAPE), plan.constant(DEMO_SHAPE)
    assert planned.mean_slice == pytest.approx(0.3, abs=0.001)
    assert constant.mean_slice == pytest.approx(0.3, abs=0.001)
    assert planned.widths[0] > constant.widths[0]


def test_matched_constant_has_the_parameters_of_the_plan():
    plan = Plan(target=0.3, settings={"base": 0.0}, rounding=1)
    planned = plan.schedule(REDUNDANCY, DEMO_SHAPE)
    matched = constant_at_parameters(
        DEMO_SHAPE, planned.shape_after(DEMO_SHAPE).parameters, plan.rounding, planned.embedding
    )
    assert matched.shape_after(DEMO_SHAPE).parameters == pytest.approx(
        planned.shape_after(DEMO_SHAPE).parameters, rel=1e-4
    )
    assert max(matched.widths[:-1]) - min(matched.widths[:-1]) <= 1


@pytest.mark.parametrize(("tied", "form"), [(True, "shared"), (False, "untied")])
def test_automatic_embedding_form_follows_the_model(tied, form):
    shape = DEMO_SHAPE.model_copy(update={"tied": tied})
    assert Plan().schedule(REDUNDANCY, shape).embedding == form


def test_shared_form_of_an_untied_model_is_refused():
    with pytest.raises(PlanError, match="choose the untied form"):
        Plan(embedding="shared").constant(DEMO_SHAPE.model_copy(update={"tied": False}))


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"target": float("nan")}, "got nan"),
        ({"target": 1.0}, "from 0 up to, but not including, 1"),
        ({"target": 0.1, "settings": {"base": 0.2}}, "may not exceed the target"),
        ({"allocation": "constnt"}, r"Did you mean 'constant'\?"),
        ({"allocation": "constant", "settings": {"base": 0.1}}, "does not take the settings"),
        ({"blocks_per_basis": -1}, "0 or more blocks, but -1"),
        ({"settings": {"slope": 1.0}}, "its settings are: base"),
        ({"max_fraction": 1.0}, "largest fraction"),
        ({"rounding": 0}, "at least 1"),
    ],
)
def test_choices_that_cannot_be_are_refused_when_they_are_made(choices, sentence):
    with pytest.raises(PlanError, match=sentence):
        Plan(**choices)


def test_settings_are_those_that_differ_from_the_usual_ones():
    assert Plan(settings={"base": 0.1}) == Plan()
    assert Plan(settings={"base": 0.1}).key == Plan().key
    assert Plan(allocation="constant").settings == {}
    assert (Plan().base, Plan(settings={"base": 0}).base, Plan(allocation="constant").base) == (0.1, 0.0, 0.0)
    assert Plan.from_plain({"span": 3}, "it") == Plan(blocks_per_basis=3)


def test_plan_goes_to_json_and_back_with_the_same_key():
    plan = Plan(target=0.35, settings={"base": 0.2}, score="angular", rounding=64)
    again = Plan.from_json(plan.to_json(), "test")
    assert again == plan
    assert again.key == plan.key
    assert plan.key != Plan(target=0.35, settings={"base": 0.2}, score="angular", rounding=8).key


@pytest.mark.parametrize(
    ("kind", "said", "name", "plain"),
    [
        (Plan, {"target": 0.2}, "middle", 1.0),
        (SlicingSchedule, {"hidden_size": 8, "widths": [6, 8], "embedding": "untied"}, "middles", []),
    ],
)
def test_what_was_made_without_a_width_inside_of_blocks_is_read(kind, said, name, plain):
    assert kind.from_plain({**said, name: plain}, "it") == kind(**said)
    with pytest.raises(StorageError, match=f"{name} .* no longer cuts, .* open it with slicescope 0.1"):
        kind.from_plain({**said, name: [4] if plain == [] else 1.5}, "it")


@pytest.mark.parametrize("rounding", [1, 8])
def test_a_share_of_the_parameters_becomes_the_target_that_reaches_it(rounding: int) -> None:
    for share in (0.1, 0.2, 0.3):
        plan = Plan(rounding=rounding).with_fewer(share, REDUNDANCY, DEMO_SHAPE)
        size = plan.schedule(REDUNDANCY, DEMO_SHAPE).shape_after(DEMO_SHAPE).parameters
        wanted = Budget(measure="parameters", amount=share).parameters(DEMO_SHAPE)
        assert size == pytest.approx(wanted, rel=0.001)
        assert plan.target != Plan().target
    with pytest.raises(PlanError, match="between 0 and 1"):
        Plan().with_fewer(1.5, REDUNDANCY, DEMO_SHAPE)


def test_widths_are_multiples_of_64_on_a_gpu_and_the_key_says_so(monkeypatch, tmp_path):
    assert [usual_rounding(name) for name in ("cpu", "mps", "cuda", "cuda:0,1", "cuda+cpu")] == [
        8,
        8,
        64,
        64,
        64,
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("analysis.device.DRIVERS", (str(tmp_path / "none"),))
    assert usual_rounding("auto") == 8  # without a driver nobody asks torch
    monkeypatch.setattr("analysis.device.DRIVERS", (str(tmp_path),))
    assert usual_rounding("auto") == 64
    here, there = (sliced(SharingOptions().plan(name)) for name in ("cpu", "cuda"))
    assert here.line == "slice(dynamic)"
    assert there.line == "slice(dynamic, rounding=64)"
    assert here.key != there.key
    boards = [FormOptions().given_to(recipes("slice", "shortgpt"), "cuda", named) for named in (True, False)]
    assert [each.line for each in boards[0]] == ["slice(dynamic)", "shortgpt"]  # a line says what it says
    assert [each.line for each in boards[1]] == ["slice(dynamic, rounding=64)", "shortgpt"]
    chosen = FormOptions(rounding=Rounding.EIGHT).given_to(recipes("slice"), "cuda", False)
    assert [each.line for each in chosen] == ["slice(dynamic)"]
