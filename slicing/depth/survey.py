"""What the methods of removal can ask about a model, each answer measured once.

Knows nothing about who asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.anatomy import blocks, decoder
from analysis.details import DetailsCollector
from analysis.device import Precision, matmuls
from analysis.hooks import going_on_from, returns_tuple, watch_blocks
from analysis.probes import damage, leave_out
from analysis.profile import LayerProfile, profile_blocks
from analysis.values import Progress, no_progress
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks


class Survey:
    """A dense model, windows of text, and a profile on them."""

    def __init__(
        self,
        model: Any,
        windows: Tensor,
        profile: LayerProfile,
        progress: Progress = no_progress,
        precision: Precision = "exact",
    ) -> None:
        """``windows`` (N, T) of token ids: what losses and similarities are measured on."""
        self.model, self.windows, self.profile = model, windows, profile
        self.progress = progress
        self.precision: Precision = precision
        self._known: dict[Any, tuple[Any, float]] = {}
        self._asked: set[Any] = set()

    @property
    def blocks(self) -> int:
        """L."""
        return len(blocks(self.model))

    @property
    def spans(self) -> dict[str, np.ndarray]:
        """How alike the stream is at the two ends of every span: the maps of ``analysis.details``.

        The diagonal k of a map is all spans of k blocks, by their first one.
        """

        def measure() -> dict[str, np.ndarray]:
            details = DetailsCollector(self.model, self.windows)
            profile_blocks(
                self.model,
                self.windows,
                model_label=self.profile.model,
                text_label=self.profile.text,
                progress=lambda _, done, total: self.progress("Comparing spans", done, total),
                details=details,
            )
            return details.details().maps()

        return self._once("spans", measure)

    def losses_without(self, layout: Layout) -> np.ndarray:
        """Rise of the loss when one more block of the reduced model is left out, (blocks left,).

        In nats per token. The blocks in front of it are computed once for all.
        """

        def measure() -> np.ndarray:
            reduced = reduce_blocks(self.model, layout)
            phase = f"Trying {len(layout.groups)} blocks"
            found = damage(reduced, self.windows, {"out": leave_out}, self.progress, phase, self.precision)
            return found["out"].mean(axis=0)

        return self._once(("losses", layout), measure)

    def similarity(self, layout: Layout) -> float:
        """Mean over windows of the cosine between the dense and the reduced model's outputs of the decoder.

        All tokens of a window as one vector; after the final norm. The blocks that both have in front are
        computed once for all.
        """

        def measure() -> float:
            dense, states, tuples = self._once("outputs", self._dense)
            reduced = reduce_blocks(self.model, layout, check=False)
            alike = layout.alike
            with going_on_from(reduced, alike, states[alike], tuples):  # so far they are the same model
                found = self._outputs(reduced)
            self.progress("Merging", 0, 1)
            return float(torch.nn.functional.cosine_similarity(found, dense, dim=1).mean())

        return self._once(("similarity", layout), measure)

    def _dense(self) -> tuple[Tensor, list[Tensor], bool]:
        """The dense model's outputs, what enters every block and leaves the last, and how blocks answer."""
        states: list[Tensor] = []
        last = self.blocks - 1

        def look(block: int, entering: Tensor, leaving: Tensor) -> None:
            states.extend((entering, leaving) if block == last else (entering,))

        with watch_blocks(self.model, look):
            outputs = self._outputs(self.model)
        return outputs, states, returns_tuple(self.model, self.windows[:1, :8].to(self.model.device))

    @torch.inference_mode()
    def _outputs(self, model: Any) -> Tensor:
        """What the decoder gives for each of a few short texts, (n, tokens * D)."""
        # As many and as long as the published code of Sliding Layer Merging takes: ten samples of 128 tokens.
        texts = self.windows[:, : self.windows.shape[1] // 128 * 128 or None]
        texts = texts.reshape(-1, min(128, texts.shape[1]))[:10].to(model.device)
        with matmuls(self.precision, model.device, model.dtype):
            return decoder(model)(texts, use_cache=False).last_hidden_state.float().flatten(1)

    def _once(self, key: Any, measure: Callable[[], Any]) -> Any:
        if key not in self._known:
            start = time.perf_counter()
            value = measure()
            self._known[key] = value, time.perf_counter() - start
        self._asked.add(key)
        return self._known[key][0]

    @contextmanager
    def timing(self) -> Iterator[Callable[[], float]]:
        """Yield what tells how many seconds the answers asked for since took to measure, whenever it was."""
        self._asked = set()
        yield lambda: sum(self._known[key][1] for key in self._asked)
