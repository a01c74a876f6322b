"""Every list of things by name: each name once, and a sentence for one that is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.errors import PlanError
from slicing.allocation import ALLOCATIONS
from slicing.basis import BASES
from slicing.inner.scores import UNIT_SCORES
from slicing.registry import Registry
from slicing.repairs import REPAIRS
from slicing.steps import STEPS

EVERY: list[Registry[Any]] = [ALLOCATIONS, BASES, UNIT_SCORES, REPAIRS, STEPS]


@pytest.mark.parametrize("known", EVERY, ids=lambda known: known.kind)
def test_a_name_is_taken_once_and_an_unknown_one_is_told_with_the_nearest(known):
    before = dict(known)
    for name, entry in before.items():
        assert known.find(name) is entry
        assert (entry if isinstance(entry, type) else type(entry)).name == name  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=f"The {known.kind} '{name}' is registered twice"):
            known.put(name, entry)
        with pytest.raises(PlanError) as told:
            known.find(f"{name}x")
        assert str(told.value).startswith(f"Unknown {known.kind} '{name}x'. Did you mean '")
        assert all(each in str(told.value) for each in (*known.others, *known))
    assert dict(known) == before
