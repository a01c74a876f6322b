"""The size of a plan at every target, and where it breaks even with the dense model."""

from __future__ import annotations

import pytest

from slicing.over_targets import SizesOverTargets, at_target, sizes_over_targets
from slicing.plans import Plan
from slicing.studies.store import bundled_run


def test_sizes_are_those_of_the_plan_at_each_target() -> None:
    run, plan = bundled_run(), Plan(settings={"base": 0.05})
    shape = run.result.shape
    assert shape
    redundancy = run.result.profile.redundancy("lr")
    found = sizes_over_targets(plan, redundancy, shape)
    assert found.targets[0] == 0.0
    assert found.targets[-1] == 0.6
    for target in (0.05, 0.25, 0.4):
        exact = plan.model_copy(update={"target": target}).schedule(redundancy, shape)
        assert found.parameters[found.targets.index(target)] == exact.shape_after(shape).parameters


def test_break_even_parts_larger_from_smaller() -> None:
    run, plan = bundled_run(), Plan()
    shape = run.result.shape
    assert shape
    redundancy = run.result.profile.redundancy("lr")
    even = sizes_over_targets(plan, redundancy, shape).break_even
    assert even is not None

    def size(target: float) -> int:
        return at_target(plan, target).schedule(redundancy, shape).shape_after(shape).parameters

    assert size(even - 0.01) > shape.parameters > size(even + 0.01)


@pytest.mark.parametrize(
    ("parameters", "even"),
    [((90, 80, 70), None), ((120, 110, 105), None), ((110, 90, 80), 0.05), ((120, 100, 90), 0.1)],
)
def test_break_even_lies_between_the_targets_around_it(
    parameters: tuple[int, ...], even: float | None
) -> None:
    found = SizesOverTargets(dense=100, targets=(0.0, 0.1, 0.2), parameters=parameters)
    assert found.break_even == (None if even is None else pytest.approx(even))


def test_a_lower_target_takes_the_base_down_with_it() -> None:
    assert at_target(Plan(settings={"base": 0.2}), 0.1).base == 0.1
    assert at_target(Plan(settings={"base": 0.2}), 0.3).base == 0.2
    assert at_target(Plan(settings={"base": 0.2}), 0.3).target == 0.3


def test_targets_that_the_largest_fraction_forbids_are_left_out() -> None:
    run = bundled_run()
    assert run.result.shape
    redundancy = run.result.profile.redundancy("lr")
    found = sizes_over_targets(Plan(max_fraction=0.4), redundancy, run.result.shape)
    assert 0.3 in found.targets
    assert found.targets[-1] <= 0.4
