"""Where activations lie between two passes."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerator import simulated

from analysis.activations import Activations, budgets


@pytest.mark.parametrize("granted", [True, False])
def test_what_a_card_keeps_on_the_host_lies_in_the_same_memory_each_time(granted):
    made = torch.empty

    def empty(*size: Any, pin_memory: bool = False, **settings: Any) -> torch.Tensor:
        if pin_memory and not granted:
            raise RuntimeError("CUDA error: out of memory")
        pinned.append(pin_memory)
        return made(*size, **settings)

    pinned: list[bool] = []
    card = torch.device("cuda", 0)
    with simulated("cuda"), patch.object(torch, "empty", empty):
        kept = Activations(card, 0, 10**6)
        first, narrow = torch.rand(2, 3, 8, device=card), torch.rand(2, 3, 5, device=card)
        kept.append(first)
        assert kept.look(0, card).cpu().equal(first.cpu())
        where = kept.tensors[0].data_ptr()
        kept.take(0, card)
        kept[0] = narrow
        assert kept.tensors[0].data_ptr() == where
        assert kept.look(0, card).cpu().equal(narrow.cpu())
        assert kept.look(0, card).device == card
    assert pinned == [granted]


def test_states_leave_room_on_a_card_for_the_work_beside_them():
    with simulated("cuda", memory=900):
        card = torch.device("cuda", 0)
        assert [budgets(card, work)[0] for work in (None, 0, 500, 1000)] == [300, 844, 344, 0]
        assert budgets(torch.device("cpu"), 10**15)[0] == 0
