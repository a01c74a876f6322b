"""A repair of cuts is one file: whoever registers one finds it everywhere."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model

from analysis.errors import PlanError
from slicing.depth.layout import Layout
from slicing.depth.reduce import reduce_model
from slicing.repairs import REPAIRS, CutRepair
from slicing.repairs.base import repair
from slicing.studies.recipe import Recipe


@pytest.fixture
def doubling():
    @repair
    class Double(CutRepair):
        name = "double"
        title = "the last norm doubled"

        def need(self, unrepaired, model, layout, tokens, batch):
            return unrepaired

        def close(self, cuts):
            cuts.tell(1, 1)
            closed = tiny_model("llama", num_hidden_layers=2)
            closed.load_state_dict(cuts.reduced.state_dict())
            closed.model.norm.weight.mul_(2.0)
            return closed, ()

    yield Double
    REPAIRS.pop("double", None)


@torch.no_grad()
def test_a_repair_in_one_place_is_found_everywhere(doubling, windows):
    recipe = Recipe.parse("shortgpt(repair=double)")
    assert recipe.line == "shortgpt(repair=double)"
    assert recipe.repaired == "double"
    assert recipe.fits() == set()
    assert recipe.title.endswith("the last norm doubled")
    told = []
    found = reduce_model(
        tiny_model("llama"), Layout.without(3, {1}), windows, "double", lambda *given: told.append(given)
    )
    assert told == [("Repairing", 1, 1)]
    assert found.repair is not None
    assert found.repair.repaired != found.repair.unrepaired
    with pytest.raises(ValueError, match="registered twice"):
        repair(doubling)


def test_an_unknown_repair_is_told_with_the_nearest():
    with pytest.raises(PlanError, match=r"nknown repair 'wrters'\. Did you mean 'writers'"):
        Recipe.parse("sleb(repair=wrters)")
