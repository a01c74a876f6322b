"""The streams of a dense model and of one with fewer blocks over the same windows, block by block.

For every family whose blocks run one after the other: a block is called with the context that the dense
model's decoder makes for it. Knows nothing about what is fitted on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from analysis.anatomy import blocks
from analysis.device import on_device
from analysis.evaluate import batches_of
from analysis.hooks import entering_states, returns_tuple
from slicing.kept import Kept, budgets


class Walk:
    """Two streams (B, T, D) in batches: ``dense``, and the one that fewer blocks make of the same windows."""

    def __init__(self, model: PreTrainedModel, windows: Tensor, budget: tuple[int, int] | None) -> None:
        self.model, self.device = model, model.device
        self.passed = 0
        """Blocks of the dense model that its stream has passed."""
        tuples = returns_tuple(model, windows[:1, :8].to(self.device))
        sizes = budgets(self.device) if budget is None else budget
        self.dense, self.short = (Kept(self.device, *sizes) for _ in range(2))
        self.contexts: list[list[dict[str, Any]]] = []
        self.windows = len(windows)
        known: dict[torch.Size, list[dict[str, Any]]] = {}
        for batch in batches_of(windows, self.device):
            states, context = entering_states(model, batch.to(self.device), tuples)
            self.dense.append(states)
            self.short.append(states.clone())
            self.contexts.append(known.setdefault(batch.shape, context))

    def pass_dense(self, to: int) -> None:
        """Pass the dense stream through its blocks up to, but not including, ``to``."""
        while self.passed < to:
            block = blocks(self.model)[self.passed]
            for index in range(len(self.dense)):
                states = self.dense.take(index, self.device)
                self.dense[index] = self.called(block, self.passed, index, states)
            self.passed += 1

    def pass_short(self, place: int, block: Any) -> None:
        """Pass the other stream through a block that stands for the dense one at ``place``."""
        for index in range(len(self.short)):
            states = self.short.take(index, self.device)
            self.short[index] = self.called(block, place, index, states)

    def called(self, block: Any, place: int, index: int, states: Tensor) -> Tensor:
        """What a block makes of ``states``, a batch by its index, called as the dense one at ``place`` is."""
        output = block(states, **on_device(self.contexts[index][place], self.device))
        return output[0] if isinstance(output, tuple) else output

    def pairs(self, held: int) -> Iterator[tuple[int, Tensor, Tensor, int]]:
        """Every batch: its index, the short stream, the dense one, and how many of its last windows belong to
        the last ``held`` of all.
        """
        left = self.windows
        for index in range(len(self.dense)):
            found, wanted = (each.take(index, self.device) for each in (self.short, self.dense))
            self.short[index], self.dense[index] = found, wanted
            left -= len(found)
            yield index, found, wanted, min(len(found), max(0, held - left))
