"""What healing trains on: tokens, and which of them count.

Of plain text all count. Of a text with a label only the label's do: it is a classification task, as in Yuan
et al., Why Lift so Heavy?, 2024, where a model without its last blocks is trained on one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis.late import functional, torch

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The target of a prediction that does not count, as ``cross_entropy`` knows it."""


@dataclass(frozen=True)
class Examples:
    """Windows of tokens (N, T), and which of the tokens (N, T, bool) count.

    The prediction of a token that counts is trained and judged. Behind the last token of a window that counts
    stands padding. It changes nothing in front of it, since attention is causal.
    """

    tokens: Tensor
    counts: Tensor
    labels: tuple[tuple[int, ...], ...] = ()
    """The tokens of every label of the task; empty for plain text."""

    @classmethod
    def of(cls, windows: Tensor | Examples) -> Examples:
        """Take windows (N, T) of plain text, of which every token counts; examples stay as they are."""
        if isinstance(windows, Examples):
            return windows
        return cls(windows, torch.ones_like(windows, dtype=torch.bool))

    @classmethod
    def labelled(
        cls,
        texts: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        own: Sequence[int],
    ) -> Examples:
        """Put behind every text (N of them) the label that it has: ``own`` (N,) are places in ``labels``.

        A text has one token or more: it predicts the label's first.
        """
        width = max(map(len, texts)) + max(map(len, labels))
        tokens = torch.zeros(len(texts), width, dtype=torch.long)
        for row, (text, place) in enumerate(zip(texts, own, strict=True)):
            said = [*text, *labels[place]]
            # The padding is a token that the model knows; some models do not know the tokenizer's own.
            tokens[row] = torch.tensor(said + said[-1:] * (width - len(said)))
        starts = torch.tensor([[len(text)] for text in texts])
        ends = starts + torch.tensor([[len(labels[place])] for place in own])
        at = torch.arange(width)
        return cls(tokens, (starts <= at) & (at < ends), tuple(map(tuple, labels))).trimmed()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Examples:
        """Give some of the windows."""
        return replace(self, tokens=self.tokens[rows], counts=self.counts[rows])

    def to(self, device: torch.device) -> Examples:
        """Give them on a device."""
        return replace(self, tokens=self.tokens.to(device), counts=self.counts.to(device))

    def split(self, size: int) -> Iterator[Examples]:
        """Give them ``size`` windows at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def trimmed(self) -> Examples:
        """Leave out the columns of padding that all windows have."""
        if self.plain:
            return self
        width = int(self.real.sum(dim=1).max())
        return replace(self, tokens=self.tokens[:, :width], counts=self.counts[:, :width])

    @property
    def plain(self) -> bool:
        """Whether every token counts, as in plain text."""
        return bool(self.counts.all())

    @property
    def real(self) -> Tensor:
        """Which tokens (N, T) are no padding."""
        return self.counts.flip(1).cumsum(dim=1).flip(1) > 0  # one that counts is there or behind

    @property
    def size(self) -> int:
        """How many tokens there are, without padding."""
        return int(self.real.sum())

    @property
    def digest(self) -> str:
        """Twelve hex digits that name what the examples say."""
        parts = (self.tokens.long(), self.counts)
        content = b"".join(part.cpu().contiguous().numpy().tobytes() for part in parts)
        return hashlib.sha256(content + repr(self.labels).encode()).hexdigest()[:12]

    @property
    def predicted(self) -> int:
        """How many predictions of a next token count."""
        return int(self.counts[:, 1:].sum())

    # What is trained for

    def next_token_loss(self, logits: Tensor) -> Tensor:
        """The mean negative log-likelihood, in nats, of the tokens that count, but the first of a window.

        ``logits`` (N, T, V) are the model's on the tokens.
        """
        targets = self.tokens[:, 1:].masked_fill(~self.counts[:, 1:], IGNORED)
        return functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED
        )

    def predictions(self, logits: Tensor) -> Tensor:
        """Give the logits of the next tokens that count, (n, V), of all (N, T, V); of plain text give all."""
        if self.plain:
            return logits
        return logits[:, :-1][self.counts[:, 1:]]

    # The labels

    @property
    def own(self) -> list[int]:
        """The place among the labels of the one that every text has, (N,)."""
        places = {label: place for place, label in enumerate(self.labels)}
        rows = zip(self.tokens, self.counts, strict=True)
        return [places[tuple(tokens[counts].tolist())] for tokens, counts in rows]

    def with_label(self, place: int) -> Examples:
        """Give every text the label at this place instead of its own."""
        starts = self.counts.int().argmax(dim=1).tolist()
        texts = [row[:start].tolist() for row, start in zip(self.tokens, starts, strict=True)]
        return Examples.labelled(texts, self.labels, [place] * len(texts))
