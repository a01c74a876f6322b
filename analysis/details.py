"""What a profile looks like from near: every token, every pair of blocks, heads and MLP apart.

Collected during the profile's own forward pass. Knows nothing about scores or slicing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from analysis.anatomy import anatomy_of, blocks, core_of, why_not_sliceable
from analysis.errors import StorageError
from analysis.scores import cosine

TOKENS_KEPT = 16_384
"""Tokens whose changes are kept one by one: whole windows from the first on, one at least."""
TOKENS_PAIRED = 512
"""Tokens of a batch whose states are held at all depths at once, for the similarity of depths."""


class Details(NamedTuple):
    """What the sums of a profile no longer tell."""

    tokens: np.ndarray
    """(N, T) int32: the ids of the first windows."""
    change: np.ndarray
    """(N, T, L) float16: one minus the cosine of a token's state entering and leaving each block."""
    growth: np.ndarray
    """(L,) float32: mean ratio of the norms leaving and entering, first tokens left out."""
    similarity: np.ndarray
    """(L + 1, L + 1) float32: mean cosine of a token's states at two depths; row 0 enters block 0."""
    split: np.ndarray | None
    """(L, 2) float32: the change of the stream that heads and MLP make, each as the mean over tokens of its
    projection on the block's whole change over the norm entering; they add up to the whole. ``None`` where
    the family's heads and MLP cannot be told apart."""
    pieces: dict[int, str]
    """The text of every token id that occurs."""

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        arrays = {
            name: np.ascontiguousarray(value)
            for name, value in self._asdict().items()
            if isinstance(value, np.ndarray)
        }
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
            return cls(**{"split": None, **arrays}, pieces=pieces)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            raise StorageError(f"The details '{path}' cannot be read: profile the model again.") from None


class DetailsCollector:
    """Gathers the details while a profile passes its batches through the dense model."""

    def __init__(self, model: Any, windows: Tensor) -> None:
        self.blocks = len(blocks(model))
        kept = max(1, TOKENS_KEPT // windows.shape[1])
        self.tokens = windows[:kept].to(torch.int32).numpy()
        self.change = np.zeros((*self.tokens.shape, self.blocks), dtype=np.float16)
        self.growth = np.zeros(self.blocks)
        self.split = np.zeros((self.blocks, 2))
        self.similarity = torch.zeros((self.blocks + 1, self.blocks + 1), dtype=torch.float64)
        self._seen = np.zeros(self.blocks, dtype=np.int64)
        self._paired = 0
        self._depths: list[Tensor] = []
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

    def look(self, rows: slice, block: int, entering: Tensor, leaving: Tensor) -> None:
        """Take in the states (B, T, D) that enter and leave a block, for the windows ``rows``."""
        change = 1.0 - cosine(entering, leaving)
        here = slice(rows.start, min(rows.stop, len(self.tokens)))
        if here.start < here.stop:
            self.change[here, :, block] = change[: here.stop - here.start].cpu().numpy()
        self._sum(block, entering.float(), leaving.float())
        self._pair(block, entering, leaving)

    def _sum(self, block: int, entering: Tensor, leaving: Tensor) -> None:
        tiny, shape = torch.finfo(torch.float32).tiny, entering.shape
        entering, leaving = entering[:, 1:], leaving[:, 1:]
        norm = torch.linalg.vector_norm(entering, dim=-1).clamp_min(tiny)
        self.growth[block] += float((torch.linalg.vector_norm(leaving, dim=-1) / norm).sum())
        self._seen[block] += norm.numel()
        seen = self._seen_of_heads.pop(block, None)
        if self._heads is not None and seen is not None:
            whole = leaving - entering
            # Some decoders flatten windows and tokens on the way.
            heads = self._heads.scale * seen.to(leaving.device, torch.float32).reshape(shape)[:, 1:]
            heads = heads - entering if self._heads.between else heads
            scale = (torch.linalg.vector_norm(whole, dim=-1) * norm).clamp_min(tiny)
            by_heads = float((torch.linalg.vecdot(heads, whole) / scale).sum())
            total = float((torch.linalg.vector_norm(whole, dim=-1) / norm).sum())
            self.split[block] += by_heads, total - by_heads

    def _pair(self, block: int, entering: Tensor, leaving: Tensor) -> None:
        """Hold unit vectors of some tokens at every depth until the batch is through."""
        if block == 0:
            self._depths = []
        self._depths.append(self._sample(entering))
        if block < self.blocks - 1 or len(self._depths) < self.blocks:
            return
        self._depths.append(self._sample(leaving))
        depths = torch.stack(self._depths, dim=1)  # (tokens, L + 1, D)
        self.similarity += (depths @ depths.mT).sum(dim=0).double().cpu()
        self._paired += len(depths)
        self._depths = []

    def _sample(self, states: Tensor) -> Tensor:
        flat = states[:, 1:].flatten(0, 1)
        some = flat[:: -(-len(flat) // TOKENS_PAIRED)].to(self._model.device, torch.float32)
        return nn.functional.normalize(some, dim=-1)

    def details(self, tokenizer: Any) -> Details:
        """All of it, with the text of the tokens."""
        seen = np.maximum(self._seen, 1)
        return Details(
            tokens=self.tokens,
            change=self.change,
            growth=(self.growth / seen).astype(np.float32),
            similarity=(self.similarity / max(self._paired, 1)).float().numpy(),
            split=None if self._heads is None else (self.split / seen[:, None]).astype(np.float32),
            pieces={int(token): tokenizer.decode([int(token)]) for token in np.unique(self.tokens)},
        )


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
