"""Measure a profile in detail: every token, every pair of blocks, heads and MLP apart.

Collected during the profile's own forward pass. Knows nothing about scores or slicing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from analysis.anatomy import anatomy_of, blocks, core_of, why_not_sliceable
from analysis.batches import batch_size, tokens_at_a_time
from analysis.cloud import Cloud, CloudCollector
from analysis.device import HOST, on_host, widen
from analysis.errors import StorageError
from analysis.late import nn, torch
from analysis.needs import FP32
from analysis.scores import Passage, dot
from analysis.stream import comes_block_by_block

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_KEPT = 16_384
"""Tokens whose changes are kept one by one: whole windows from the first on, one at least."""
TOKENS_PAIRED = 512
"""Tokens of a batch whose states are held at all depths at once, for the similarity of depths."""


class Likeness(NamedTuple):
    """One way to tell how alike the stream is at two depths."""

    name: str
    """The field of ``Details`` that holds it."""
    title: str
    description: str
    """One sentence: what is measured, the range, and who goes by it."""
    source: str
    higher_is_alike: bool


LIKENESSES: dict[str, Likeness] = {
    likeness.name: likeness
    for likeness in (
        Likeness(
            "similarity",
            "Cosine",
            "Mean cosine of a token's states at two depths, at most 1; higher means more alike. "
            "LLM-Streamline removes the span over which it is largest.",
            "Chen et al., LLM-Streamline, ICLR 2025",
            higher_is_alike=True,
        ),
        Likeness(
            "angular",
            "Angle at the last token",
            "Angle between the states of a window's last token at two depths over pi, from 0 to 1; lower "
            "means more alike. Unreasonable Ineffectiveness removes the span over which it is least.",
            "Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, ICLR 2025",
            higher_is_alike=False,
        ),
        Likeness(
            "cka",
            "CKA",
            "Linear centred kernel alignment of the tokens' states at two depths, from 0 to 1; higher means "
            "more alike. Sliding Layer Merging shows by it that blocks which work alike form patches; so do "
            "blocks where one token's state outweighs all others. Over the few hundred tokens taken here it "
            "is larger than over many.",
            "Ding et al., Sliding Layer Merging, AAAI 2026",
            higher_is_alike=True,
        ),
    )
}


class Details(NamedTuple):
    """Details of a profile that its sums do not tell."""

    tokens: np.ndarray
    """(N, T) int32: the ids of the first windows."""
    change: np.ndarray
    """(N, T, L) float16: one minus the cosine of a token's state entering and leaving each block."""
    growth: np.ndarray
    """(L,) float32: mean ratio of the norms leaving and entering, first tokens left out."""
    similarity: np.ndarray
    """(L + 1, L + 1) float32: mean cosine of a token's states at two depths; row 0 enters block 0. Over a
    sample of ``TOKENS_PAIRED`` tokens of every batch, first tokens left out: close to the mean over all
    tokens that LLM-Streamline (2403.19135) takes, and it does not hang on what first tokens do."""
    split: np.ndarray | None
    """(L, 2) float32: the change of the stream that heads and MLP make, each as the mean over tokens of its
    projection on the block's whole change over the norm entering; they add up to the whole. ``None`` where
    the family's heads and MLP cannot be told apart."""
    pieces: dict[int, str]
    """The text of every token id that occurs."""
    angular: np.ndarray | None = None
    """(L + 1, L + 1) float32: angle over pi between the states of a window's last token at two depths, mean
    over windows (Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, 2403.17887, equation
    6). ``None`` in files of before it was measured, as the next."""
    cka: np.ndarray | None = None
    """(L + 1, L + 1) float32: linear CKA of the states at two depths over the tokens of a sample as for
    ``similarity``, mean over batches weighted by their tokens (Ding et al., Sliding Layer Merging,
    2502.19159). A token whose state is far larger than the others' outweighs them, and over so few tokens it
    is larger than over many."""
    lens: np.ndarray | None = None
    """(N, L) float32: loss in nats per token when the stream goes from each block straight to the head (see
    ``analysis.lens``), over all windows; ``None`` where it was not asked for."""
    cloud: Cloud | None = None
    """Some hundred token states along their principal directions; ``None`` in files of before."""

    def maps(self) -> dict[str, np.ndarray]:
        """Give how alike the stream is at every two depths, in each way of ``LIKENESSES`` that it holds."""
        held = {name: getattr(self, name) for name in LIKENESSES}
        return {name: values for name, values in held.items() if values is not None}

    def path(self, window: int, place: int) -> np.ndarray:
        """Give how strongly every block changed one token, (L,) float32: one minus the cosine, 0 or more."""
        return np.maximum(self.change[window, place].astype(np.float32), 0.0)

    def mean_change(self) -> np.ndarray:
        """Give the mean of that over the kept tokens of every window but its first, (L,) float32."""
        length = self.change.shape[1]
        return self.change[:, min(1, length - 1) :].astype(np.float32).mean(axis=(0, 1))

    def strongest(self, window: int, block: int) -> int:
        """Find the place of the word that a block changes most; of any token where there are no words."""
        change = self.change[window, :, block].astype(np.float32)
        words = [self.piece(int(token)).strip().isalpha() for token in self.tokens[window]]
        words[0] = False  # which behaves unlike the others
        return int(np.where(words, change, -1.0).argmax()) if any(words) else int(change.argmax())

    def piece(self, token: int) -> str:
        """The text of a token id, or its number where nobody knows the text."""
        return self.pieces.get(token, f"#{token}")

    def fit(self, blocks: int) -> bool:
        """Tell whether all of it has the shape that a profile of so many blocks has, and is finite."""
        if self.tokens.ndim != 2 or not self.tokens.size:
            return False
        pairs = (blocks + 1, blocks + 1)
        shapes: dict[str, tuple[int | None, ...]] = {
            "change": (*self.tokens.shape, blocks),
            "growth": (blocks,),
            "split": (blocks, 2),
            "lens": (None, blocks),
            **dict.fromkeys(LIKENESSES, pairs),
        }
        for name, shape in shapes.items():
            found: np.ndarray | None = getattr(self, name)
            if found is None:
                continue
            alike = (each in (None, size) for each, size in zip(shape, found.shape, strict=False))
            if len(shape) != found.ndim or not found.size or not all(alike) or not np.isfinite(found).all():
                return False
        return self.cloud is None or self.cloud.fit(blocks)

    def lens_perplexities(self) -> np.ndarray:
        """Perplexity when the head follows straight after each block, (L,); the last is the model's own."""
        assert self.lens is not None
        # A broken model may be so bad that exp overflows; the largest number still says so.
        return np.exp(np.minimum(self.lens.astype(np.float64).mean(axis=0), 700.0))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        arrays = {
            name: np.ascontiguousarray(value)
            for name, value in self._asdict().items()
            if isinstance(value, np.ndarray)
        }
        arrays |= {} if self.cloud is None else self.cloud.arrays()
        save_file(arrays, path, metadata={"pieces": json.dumps(self.pieces)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote (``StorageError`` when it is missing or damaged)."""
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
                pieces = {
                    int(token): str(text) for token, text in json.loads(file.metadata()["pieces"]).items()
                }
            cloud = Cloud.taken_from(arrays)
            return cls(**{"split": None, **arrays}, pieces=pieces, cloud=cloud)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            raise StorageError(f"The details '{path}' cannot be read: profile the model again.") from None


class DetailsCollector:
    """Gathers the details while a profile passes its batches through the dense model."""

    def __init__(self, model: Any, windows: Tensor, cloud: bool = False) -> None:
        """``windows`` (N, T) are those that will pass; ``cloud``: whether some token states are kept."""
        self.blocks = len(blocks(model))
        self._cloud = CloudCollector(model, windows) if cloud else None
        kept = max(1, TOKENS_KEPT // windows.shape[1])
        self.tokens = windows[:kept].to(torch.int32).numpy()
        self.change = np.zeros((*self.tokens.shape, self.blocks), dtype=np.float16)
        self.growth = np.zeros(self.blocks)
        self.split = np.zeros((self.blocks, 2))
        depths = (self.blocks + 1, self.blocks + 1)
        self.similarity, self.angular, self.cka = (torch.zeros(depths, dtype=torch.float64) for _ in range(3))
        self._seen = np.zeros(self.blocks, dtype=np.int64)
        self._paired = 0
        self._ended = 0
        self._depths: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._waiting: dict[int, list[tuple[int, Tensor, Tensor]]] = {}
        """Holds what the blocks did, by the first row of every batch that passes: block, changes (B, T), and
        sums (3,)."""
        self._apart = comes_block_by_block(model)
        """Whether many batches pass a block before the next comes."""
        self._model = model
        self._heads = _heads_watch(model)
        self._seen_of_heads: dict[int, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See what the heads of every block add, inside the ``with``."""
        handles = [] if self._heads is None else self._heads.begin(self._seen_of_heads)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def look(self, rows: slice, block: int, passage: Passage) -> None:
        """Take in the states (B, T, D) that enter and leave a block, for the windows ``rows``."""
        if block == 0:
            self._waiting[rows.start] = []
        waiting = self._waiting[rows.start]
        waiting.append((block, 1.0 - passage.cosine, self._sum(block, passage)))
        self._pair(rows, block, passage)
        if self._cloud:
            self._cloud.look(rows, block, passage.entering)
        if block == self.blocks - 1:
            self._take_in(rows)

    def _take_in(self, rows: slice) -> None:
        """Fetch what was summed up of a batch, all blocks at once."""
        order, changes, sums = zip(*self._waiting.pop(rows.start), strict=True)
        here = slice(rows.start, min(rows.stop, len(self.tokens)))
        if here.start < here.stop:
            change = on_host([each[: here.stop - here.start] for each in changes])  # (L, B, T)
            self.change[here, :, list(order)] = change.permute(1, 2, 0).numpy()
        total = widen(on_host(sums)).numpy()  # (L, 3)
        self.growth[list(order)] += total[:, 0]
        self._seen[list(order)] += int(changes[0][:, 1:].numel())
        self.split[list(order)] += np.stack([total[:, 1], total[:, 2] - total[:, 1]], axis=1)

    def _sum(self, block: int, passage: Passage) -> Tensor:
        """Sums over all tokens but the first, (3,): the growth, the change by heads, and the whole change."""
        entering, leaving = passage.entering, passage.leaving
        tiny = torch.finfo(entering.dtype).tiny
        norm = passage.norms[0][:, 1:].clamp_min(tiny)
        growth = (passage.norms[1][:, 1:] / norm).sum()
        seen = self._seen_of_heads.pop(block, None)
        if self._heads is None or seen is None:
            return torch.stack([growth, torch.zeros_like(growth), torch.zeros_like(growth)])
        # Some decoders flatten windows and tokens on the way.
        heads = seen.to(leaving.device).reshape(entering.shape)
        heads = heads - entering if self._heads.between else self._heads.scale * heads.to(entering.dtype)
        whole = leaving - entering
        size = torch.linalg.vector_norm(whole, dim=-1)[:, 1:]
        by_heads = dot(heads, whole)[:, 1:] / (size * norm).clamp_min(tiny)
        return torch.stack([growth, by_heads.sum(), (size / norm).sum()])

    def _pair(self, rows: slice, block: int, passage: Passage) -> None:
        """Hold the states of some tokens, and of the last ones, at every depth until the batch is through."""
        if block == 0:
            self._depths[rows.start] = []
        depths = self._depths[rows.start]
        own = passage.left.dtype
        depths.append(self._sample(passage.entering, own))
        if block < self.blocks - 1 or len(depths) < self.blocks:
            return
        depths = [*self._depths.pop(rows.start), self._sample(passage.leaving, own)]
        some, last = (self._deep(each) for each in zip(*depths, strict=True))  # (n, L + 1, D)
        self.similarity += widen(_cosines(some).sum(dim=0), HOST)
        self.angular += widen((torch.arccos(_cosines(last)) / math.pi).sum(dim=0), HOST)
        self.cka += len(some) * widen(_cka(some), HOST)
        self._paired += len(some)
        self._ended += len(last)

    def _sample(self, states: Tensor, own: torch.dtype) -> tuple[Tensor, Tensor]:
        tokens = states.shape[1] - 1
        # Without their first tokens the windows are not contiguous: flattened, all of them would be copied.
        some = torch.arange(0, len(states) * tokens, -(-len(states) * tokens // TOKENS_PAIRED))
        some, last = states[some // tokens, 1 + some % tokens], states[:, -1]
        # Copied, since a view would hold the states of the whole batch, and in the dtype that they came in.
        device = torch.device(HOST) if self._apart else self._model.device
        return some.to(device, own, copy=True), last.to(device, own, copy=True)

    def _deep(self, states: Sequence[Tensor]) -> Tensor:
        """Put the states (n, D) of all depths side by side, (n, L + 1, D), fp32, on the model's device."""
        return torch.stack(tuple(states), dim=1).to(self._model.device).float()

    def kept_of_batch(self, windows: Tensor) -> int:
        """Count the bytes that are kept of a batch of the windows (N, T) until it is through."""
        tokens = tokens_at_a_time(windows, self._model.device)
        samples = min(TOKENS_PAIRED, tokens) + batch_size(windows, self._model.device)
        width = self._model.get_input_embeddings().weight.shape[1]
        return (samples * width * self._model.dtype.itemsize + tokens * FP32) * (self.blocks + 1)

    def details(self, tokenizer: Any = None) -> Details:
        """All of it, with the text of the tokens where a tokenizer is given."""
        seen = np.maximum(self._seen, 1)
        return Details(
            tokens=self.tokens,
            change=self.change,
            growth=(self.growth / seen).astype(np.float32),
            similarity=(self.similarity / max(self._paired, 1)).float().numpy(),
            split=None if self._heads is None else (self.split / seen[:, None]).astype(np.float32),
            pieces={int(token): tokenizer.decode([int(token)]) for token in np.unique(self.tokens)}
            if tokenizer is not None
            else {},
            # The arccos is steep at 1: rounding alone would be a ten thousandth of a half turn.
            angular=(self.angular / max(self._ended, 1)).fill_diagonal_(0.0).float().numpy(),
            cka=(self.cka / max(self._paired, 1)).float().numpy(),
            cloud=self._cloud.cloud() if self._cloud else None,
        )


def _cosines(states: Tensor) -> Tensor:
    """The cosine of every two of a token's states, (n, depths, D) to (n, depths, depths), in [-1, 1]."""
    products = states @ states.mT
    norms = products.diagonal(dim1=1, dim2=2).sqrt()
    whole = norms.unsqueeze(2) * norms.unsqueeze(1)
    return (products / whole.clamp_min(torch.finfo(states.dtype).tiny)).clamp(-1.0, 1.0)


def _cka(states: Tensor) -> Tensor:
    """The linear CKA of every two depths over the tokens, (n, depths, D) to (depths, depths)."""
    rows = (states - states.mean(dim=0)).transpose(0, 1)
    grams = nn.functional.normalize((rows @ rows.mT).flatten(1), dim=1)
    # The cosine of the Gram matrices. Their norms are found as the products are: so rounding cancels out.
    return _cosines(grams.unsqueeze(0)).squeeze(0)


class _HeadsWatch(NamedTuple):
    """How to see what the heads of a family add to the stream."""

    modules: list[nn.Module]
    """One per block."""
    between: bool
    """Whether the stream is seen as it enters the module, between heads and MLP, rather than the output
    of the heads themselves."""
    scale: float = 1.0
    """What the output is multiplied by before it is added."""

    def begin(self, seen: dict[int, Tensor]) -> list[Any]:
        """Begin to note, by block, what passes; the handles end it."""

        def before(block: int) -> Any:
            return lambda _, args: seen.__setitem__(block, args[0])

        def after(block: int) -> Any:
            return lambda _, args, output: seen.__setitem__(
                block, output[0] if isinstance(output, tuple) else output
            )

        if self.between:
            return [each.register_forward_pre_hook(before(i)) for i, each in enumerate(self.modules)]
        return [each.register_forward_hook(after(i)) for i, each in enumerate(self.modules)]


def _heads_watch(model: Any) -> _HeadsWatch | None:
    if why_not_sliceable(model.config):
        return None
    anatomy = anatomy_of(model.config)
    kinds = [[branch.kind for branch in branches] for branches in anatomy.sublayers]
    if kinds == [["attention"], ["mlp"]]:
        norm = anatomy.sublayers[1][0].norm
        return _HeadsWatch([getattr(block, norm) for block in blocks(model)], between=True)
    if kinds == [["attention", "mlp"]]:
        heads = anatomy.sublayers[0][0]
        cores = [core_of(block, heads) for block in blocks(model)]
        return _HeadsWatch(cores, between=False, scale=anatomy.branch_scale)
    return None
