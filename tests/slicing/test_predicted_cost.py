"""What widths are predicted to cost is the sum of the options that they are made of."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import tiny_model

from analysis.errors import PlanError
from slicing.inner.costs import COSTED, BranchCosts, UnitCosts, UnitCurve, options, predicted_cost, widths_at
from slicing.inner.widths import InnerWidths, SublayerWidths
from slicing.inner.worth import unit_costs
from slicing.view import ModelView

BLOCKS = 4


def known(family: str) -> tuple[UnitCosts, ModelView]:
    windows = torch.randint(3, 300, (6, 24), generator=torch.Generator().manual_seed(3))
    view = ModelView(tiny_model(family, num_hidden_layers=BLOCKS), windows)
    return unit_costs(view, 2, 3), view


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])  # one branch in a sub-layer, and two
def test_the_cost_of_widths_is_that_of_the_options_they_are_made_of(family: str) -> None:
    costs, view = known(family)
    shape = view.shape
    seen = set()
    for fewer in (0.03, 0.1, 0.2, 0.3, 0.4):
        widths = widths_at(costs, shape, round(shape.parameters * (1 - fewer)))
        expected = 0.0
        for block, (row, branches) in enumerate(zip(shape.blocks, costs.blocks, strict=True)):
            for branch in branches:
                scale = branch.times_predicted if block < 3 else 1.0
                alone = sum(other.row == branch.row for other in branches) == 1
                left = widths.blocks[block][branch.row]
                own = ("channels",) if branch.kind == "mlp" else ("kv_groups", "value_pairs")
                part = SublayerWidths(kept={k: n for k, n in left.kept.items() if k in own}, gone=left.gone)
                offered = options(row[branch.row], shape.hidden_size, branch, scale, COSTED, alone)
                expected += next(each.cost for each in offered if each.widths == part)
                seen |= {"gone"} if left.gone else set(part.kept)
        assert predicted_cost(costs, widths) == pytest.approx(expected, rel=1e-9)
    assert {"channels", "value_pairs"} <= seen
    assert predicted_cost(costs, InnerWidths.whole(shape)) == 0.0


def test_more_that_goes_is_predicted_to_cost_more() -> None:
    costs, view = known("llama")
    sizes = [round(view.shape.parameters * (1 - fewer / 100)) for fewer in range(5, 40, 5)]
    found = [predicted_cost(costs, widths_at(costs, view.shape, size)) for size in sizes]
    assert all(before < after for before, after in itertools.pairwise(found))


def test_widths_between_the_points_have_no_cost() -> None:
    curve = UnitCurve(count=8, gone=(2, 4, 6), costs=(0.1, 0.2, 0.4))
    branch = BranchCosts(row=0, kind="mlp", channels=curve, whole=1.0)
    costs = UnitCosts(blocks=((branch,),), windows=1, window_length=2, curvature_windows=1, seconds=0.0)

    def at(left: int) -> float:
        return predicted_cost(costs, InnerWidths(blocks=((SublayerWidths(kept={"channels": left}),),)))

    assert at(4) == 0.2 and at(8) == 0.0
    with pytest.raises(PlanError, match="block 0 with 5 of 8 units"):
        at(5)
