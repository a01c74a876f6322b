"""Whether the attention sink outlives a cut: the massive state of the first token, on which attention rests.

Calibration windows begin with few different tokens, so that a fit can hold for these and fail for others.
With one token a window a pass is cheap, and what comes later cannot change the state of the first token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.anatomy import decoder
from analysis.hooks import watch_blocks
from analysis.late import no_grad, torch
from analysis.sublayers import rms
from analysis.values import Value
from slicing.depth.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

FIRST = 64
"""So many different first tokens are tried."""
MASSIVE = 10.0
"""A sink is so many times as large as the median token."""
LOST = 0.5
"""It is lost where it is less than so many times as large as in the dense model."""


class LostSink(Value):
    """Say where the first token's state is least, as a share of the dense model's."""

    block: int
    """Of the dense model; the state is that behind it."""
    ratio: float
    """The median over first tokens of the size of the state, over that in the dense model."""
    tokens: int
    """So many first tokens were tried."""

    @property
    def told(self) -> str:
        """One sentence of warning."""
        tried = "the first token" if self.tokens == 1 else f"the median of {self.tokens} first tokens"
        return (
            f"The attention sink is damaged: behind block {self.block} the state of {tried} has "
            f"{self.ratio:.0%} of its size in the dense model, so that texts which begin otherwise than the "
            "calibration text may be predicted worse."
        )


@no_grad
def lost_sink(dense: Any, cut: Any, layout: Layout, windows: Tensor) -> LostSink | None:
    """Compare the first token's state behind all blocks of ``cut``, made of ``dense`` by ``layout``.

    ``windows`` (N, T): their first tokens are tried, and others of the vocabulary unless all are the same, as
    they are where texts begin with a token of their own. Looks only behind blocks where the dense model's
    sink is massive beside the tokens of the first window. ``None`` where it is nowhere lost.
    """
    tokens = first_tokens(windows, dense.get_input_embeddings().num_embeddings)
    usual = _sizes(dense, windows[:1])[:, 0].median(dim=1).values  # (L,)
    there = _sizes(dense, tokens)[list(layout.tops), :, 0]  # (blocks left, tokens)
    found = _sizes(cut, tokens)[:, :, 0]
    ratios = (found / there).median(dim=1).values
    massive = there.median(dim=1).values > MASSIVE * usual[list(layout.tops)]
    ratios[~massive] = 1.0
    place = int(ratios.argmin())
    if not ratios[place] < LOST:
        return None
    return LostSink(block=layout.tops[place], ratio=float(ratios[place]), tokens=len(tokens))


def first_tokens(windows: Tensor, vocabulary: int) -> Tensor:
    """Up to ``FIRST`` different first tokens (n, 1): those of ``windows`` (N, T), and some at even distances
    among the ids below ``vocabulary`` unless all windows begin alike.
    """
    own = windows[:, 0].unique()
    if len(own) == 1:
        return own[:, None]
    some = torch.linspace(0, vocabulary - 1, FIRST).long().unique()
    return torch.cat([own, some[~torch.isin(some, own)]])[:FIRST, None]


def _sizes(model: Any, tokens: Tensor) -> Tensor:
    """The RMS of the stream behind every block, (L, B, T), on the host, for token ids (B, T)."""
    found: dict[int, Tensor] = {}

    def look(index: int, _: Tensor, leaving: Tensor) -> None:
        found[index] = rms(leaving)[..., 0].cpu()

    with watch_blocks(model, look):
        decoder(model)(tokens.to(model.device), use_cache=False)
    return torch.stack([found[index] for index in sorted(found)])
