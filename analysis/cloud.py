"""Keep a cloud of real token states: a few hundred tokens of a few blocks along their principal directions.

It is what a picture of slicing needs: where tokens lie along the two strongest directions and along a thin
one, and how much energy every direction has. Collected during the profile's own forward pass. Knows nothing
about slicing or pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.anatomy import anatomy_of, blocks, why_not_sliceable
from analysis.bases import Covariance, TokenSample
from analysis.device import HOST, widen
from analysis.late import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS = 32
"""At most so many blocks have their stream kept, evenly spaced, the first and the last among them."""
FEW = 5
"""So many of them are enough to tell of the whole depth."""
TOKENS = 400
"""At most so many tokens are kept; half as many at least, where the text has them."""
WORK = 2048
"""Principal directions take time with the cube of the width: at this width one block is kept, and at half of
it eight. Measured in one thread: 0.1 s a block at a width of 576, 8 s at 2048."""
WIDEST = 5120
"""No cloud is kept of a wider stream: its directions would take minutes on a CPU."""
DRAWN = 3
"""Leading directions along which every token's place is kept, beside one thin direction."""


class Cloud(NamedTuple):
    """A sample of token states (n) before some blocks (K), and the energy of every direction (D).

    The stream is taken as slicing sees it, without the first token of each window. Energies are of all
    tokens, uncentred, as SliceGPT (2401.15024, section 3) takes them for its principal directions.
    """

    blocks: np.ndarray
    """(K,) int32: the blocks before which the stream was looked at."""
    tokens: np.ndarray
    """(n,) int32: the ids of the sampled tokens, the same at each block."""
    places: np.ndarray
    """(K, n, DRAWN + 1) float16: where the tokens lie along the leading principal directions, and last along
    the thin one, less the mean of the sample; 1 is the root mean square of a token's norm."""
    thin: int
    """Rank of the thin direction, from 0: the middle one of the thinnest quarter."""
    principal: np.ndarray
    """(K, D) float32: share of the energy along every principal direction, decreasing, with a sum of 1."""
    own: np.ndarray
    """(K, D) float32: the same along the stream's own axes, sorted to decrease."""

    def beyond(self, place: int, width: int) -> float:
        """Give the share of energy outside the leading ``width`` directions, of the block at ``place``."""
        return math.fsum(self.principal[place, width:].tolist())

    def middle(self) -> int:
        """Give the place of the block that pictures begin with."""
        return len(self.blocks) // 2

    def nearest(self, block: int) -> int:
        """Give the place of the kept block that lies nearest to ``block``."""
        return int(np.abs(self.blocks - block).argmin())

    def only(self, places: Sequence[int]) -> Cloud:
        """Give the same of the blocks at ``places`` alone."""
        of_blocks = ("blocks", "places", "principal", "own")
        return self._replace(**{name: getattr(self, name)[list(places)] for name in of_blocks})

    def few(self) -> Cloud:
        """Give the same of ``FEW`` blocks at most, evenly spaced."""
        count = len(self.blocks)
        return self if count <= FEW else self.only(evenly(count, FEW))

    def fit(self, block_count: int) -> bool:
        """Tell whether all of it belongs together, and to a model of so many blocks, and is finite."""
        if self.principal.ndim != 2:
            return False
        count, tokens, width = self.blocks.size, self.tokens.size, self.principal.shape[1]
        shapes = (self.blocks.shape, self.tokens.shape, self.places.shape, self.principal.shape)
        return (
            count > 0
            and tokens > 0
            and shapes == ((count,), (tokens,), (count, tokens, DRAWN + 1), (count, width))
            and self.own.shape == self.principal.shape
            and 0 <= self.thin < width
            and bool(((self.blocks >= 0) & (self.blocks < block_count)).all())
            and all(bool(np.isfinite(each).all()) for each in (self.places, self.principal, self.own))
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Give it as arrays by name, to be written into a file beside others."""
        return {f"cloud.{name}": np.asarray(value) for name, value in self._asdict().items()}

    @classmethod
    def taken_from(cls, arrays: dict[str, np.ndarray]) -> Cloud | None:
        """Take it out of ``arrays``; ``None`` where there is none (``KeyError`` where a part is missing)."""
        if not any(name.startswith("cloud.") for name in arrays):
            return None
        parts: dict[str, Any] = {name: arrays.pop(f"cloud.{name}") for name in cls._fields}
        return cls(**{**parts, "thin": int(parts["thin"])})


class CloudCollector:
    """Gathers a cloud while a profile passes its batches through the dense model."""

    def __init__(self, model: Any, windows: Tensor) -> None:
        """``windows`` (N, T) are those that will pass."""
        count, width = len(blocks(model)), model.get_input_embeddings().weight.shape[1]
        self.windows = windows
        self.ids = TokenSample(TOKENS)
        self.centred = why_not_sliceable(model.config) is None and anatomy_of(model.config).centred
        self.chosen = evenly(count, kept_blocks(width))
        self.samples = {block: TokenSample(TOKENS) for block in self.chosen}
        self.sums: dict[int, Covariance] = {}

    def look(self, rows: slice, block: int, entering: Tensor) -> None:
        """Take in the states (B, T, D) that enter a block, for the windows ``rows``."""
        if block not in self.samples:
            return
        states = entering[:, 1:].to(torch.promote_types(entering.dtype, torch.float32))
        # The mean is what a layer norm takes off, so that no direction of the stream holds it.
        states = states - states.mean(dim=-1, keepdim=True) if self.centred else states
        if block == self.chosen[0]:
            self.ids.add(self.windows[rows, 1:].unsqueeze(-1))
        if block not in self.sums:
            self.sums[block] = Covariance(states.shape[-1], states.device)
        self.sums[block].add(states)
        self.samples[block].add(states)

    def cloud(self) -> Cloud | None:
        """Find the directions; ``None`` of a stream that is too wide, too narrow, or without energy.

        Raises ``ModelError`` when a state was not finite.
        """
        if not self.sums or min(each.energy() for each in self.sums.values()) <= 0.0:
            return None
        width = next(iter(self.sums.values())).upper.shape[0]
        if width <= DRAWN:
            return None
        thin = max(DRAWN, 7 * width // 8)
        places, principal, own = [], [], []
        for block in self.chosen:
            vectors, energies = self.sums[block].principal_basis()
            diagonal = widen(self.sums.pop(block).upper.diagonal(), HOST)
            drawn = torch.cat([vectors[:, :DRAWN], vectors[:, thin : thin + 1]], dim=1)
            sample = widen(self.samples[block].tokens(), drawn.device)
            along = (sample - sample.mean(dim=0)) @ drawn
            farthest = along.gather(0, along.abs().argmax(dim=0, keepdim=True))
            along *= farthest.sign()  # no sign is left to chance
            places.append((along / sample.square().sum(dim=1).mean().sqrt()).cpu().numpy())
            principal.append((energies / energies.sum()).cpu().numpy())
            own.append((diagonal.sort(descending=True).values / diagonal.sum()).numpy())
        return Cloud(
            blocks=np.asarray(self.chosen, dtype=np.int32),
            tokens=self.ids.tokens()[:, 0].to(torch.int32).cpu().numpy(),
            places=np.stack(places).astype(np.float16),
            thin=thin,
            principal=np.stack(principal).astype(np.float32),
            own=np.stack(own).astype(np.float32),
        )


def kept_blocks(width: int) -> int:
    """Tell of how many blocks a stream of this width is kept, so that it takes seconds."""
    return 0 if width > WIDEST else max(1, min(BLOCKS, int((WORK / width) ** 3)))


def evenly(count: int, kept: int) -> list[int]:
    """Choose ``kept`` of ``count`` blocks, evenly spaced; one alone is the middle one."""
    if kept == 1:
        return [count // 2]
    return sorted({int(place) for place in np.linspace(0, count - 1, kept).round()}) if kept else []
