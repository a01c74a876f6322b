"""What the methods of removal can ask about a model, each answer measured once.

Knows nothing about who asks.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.anatomy import blocks, decoder
from analysis.device import Precision
from analysis.profile import LayerProfile
from analysis.probes import damage, leave_out
from analysis.spans import SpanMap, span_map
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
        self.progress, self.precision = progress, precision
        self._losses: dict[Layout, np.ndarray] = {}
        self._alike: dict[Layout, float] = {}

    @property
    def blocks(self) -> int:
        """L."""
        return len(blocks(self.model))

    @cached_property
    def spans(self) -> SpanMap:
        """Distances over every span of blocks."""
        return span_map(self.model, self.windows, self.progress)

    def losses_without(self, layout: Layout) -> np.ndarray:
        """Rise of the loss when one more block of the reduced model is left out, (blocks left,), in nats per token.

        The blocks in front of it are computed once for all.
        """
        if layout not in self._losses:
            reduced = reduce_blocks(self.model, layout)
            phase = f"Trying {len(layout.groups)} blocks"
            found = damage(
                reduced, self.windows, {"out": leave_out}, self.progress, phase, self.precision
            )["out"]
            self._losses[layout] = found.mean(axis=0)
        return self._losses[layout]

    @torch.inference_mode()
    def similarity(self, layout: Layout) -> float:
        """Mean over windows of the cosine between the dense and the reduced model's outputs of the decoder.

        All tokens of a window as one vector; after the final norm.
        """
        if layout not in self._alike:
            found = self._outputs(reduce_blocks(self.model, layout, check=False))
            self._alike[layout] = float(
                torch.nn.functional.cosine_similarity(found, self._dense_outputs, dim=1).mean()
            )
            self.progress("Merging", 0, 1)
        return self._alike[layout]

    @cached_property
    def _dense_outputs(self) -> Tensor:
        return self._outputs(self.model)

    @torch.inference_mode()
    def _outputs(self, model: Any) -> Tensor:
        """What the decoder gives for each of a few short texts, (n, tokens * D)."""
        # As many and as long as the published code of Sliding Layer Merging takes: ten samples of 128 tokens.
        texts = self.windows[:, :128][:10].to(model.device)
        return decoder(model)(texts, use_cache=False).last_hidden_state.float().flatten(1)
