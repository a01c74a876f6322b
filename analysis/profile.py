"""The layer profile: what one forward pass over some windows says about every block.

Knows nothing about slicing. Changes no weight and keeps no state, only sums.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import block_path, blocks
from analysis.bases import BasesCollector
from analysis.batches import batch_size
from analysis.details import DetailsCollector
from analysis.device import on_host, out_of_memory_told, synchronise, widen
from analysis.errors import ModelError, NotFiniteError, PlanError, TextError
from analysis.evaluate import check_windows, refuse_unless_batches_fit
from analysis.finite import naming_weights
from analysis.hooks import watch_blocks
from analysis.late import inference_mode, pd, torch
from analysis.needs import FP32
from analysis.scores import SCORES, Passage, Score, cosine, find_score
from analysis.stream import pass_windows
from analysis.values import Progress, Value, no_progress

if TYPE_CHECKING:
    from torch import Tensor

UNCHANGED = 1e-6
"""Below this, one minus a mean cosine is rounding: of equal states in fp32 it is up to 1e-7. A change by a
thousandth of the state makes 5e-7."""


class BlockValues(Value):
    """Token measurements averaged within each window: rows are windows, columns are blocks."""

    rest: tuple[tuple[float, ...], ...]
    """(N, L): the mean over the window's tokens without its first one, or its last token's value."""
    first: tuple[tuple[float, ...], ...] | None
    """(N, L): the first token's value, kept apart because it behaves unlike the others."""


class LayerProfile(Value):
    """One row of measurements per block. Scores are views of it, with or without the first token."""

    model: str
    text: str
    block_path: str
    blocks: int
    windows: int
    window_length: int
    measurements: dict[str, BlockValues]
    seconds: float
    batch: int | None = None
    """Windows that passed through the model at a time; ``None`` where an earlier version measured."""

    def scores(self) -> tuple[str, ...]:
        """The names of the scores it holds."""
        return tuple(name for name, score in SCORES.items() if score.measurement in self.measurements)

    def held(self, score: str) -> str:
        """The score, or LR where the profile does not hold it: not every plan is made from one."""
        return score if score in self.scores() else "lr"

    def with_probed(self, name: str, values: np.ndarray) -> LayerProfile:
        """The same with one more measurement, (N or 1, L): windows, or one row for all."""
        added = BlockValues(rest=_rows(values), first=None)
        return self.model_copy(update={"measurements": {**self.measurements, name: added}})

    def measured(self, score: str, first_token: bool = False) -> np.ndarray:
        """The score's plain measurement, (N, L) (``PlanError`` where the profile does not hold it)."""
        entry = find_score(score)
        if entry.measurement not in self.measurements:
            again = "profile the model again, since earlier versions of slicescope did not measure it"
            probed = (
                f"measure it with 'slicescope profile --probe {score}', in Python with probes=['{score}']"
            )
            how = again if entry.measure else probed
            raise PlanError(
                f"This profile holds no {entry.title}: {how}, or choose one of {', '.join(self.scores())}."
            )
        measurement = self.measurements[entry.measurement]
        rest = np.asarray(measurement.rest)
        if not first_token or measurement.first is None:
            return rest
        return ((self.window_length - 1) * rest + np.asarray(measurement.first)) / self.window_length

    def values(self, score: str, first_token: bool = False) -> np.ndarray:
        """The score of every block, (L,)."""
        mean = self.measured(score, first_token).mean(axis=0)
        return find_score(score).derive(mean, mean)

    def change(self, score: str, first_token: bool = False) -> np.ndarray:
        """How much every block changes its input, (N, L): one minus the cosine for a score derived from one.

        Of another score it is the plain measurement. Neither is scaled by what other blocks do, as LR is, so
        that it can be held against that of another profile.
        """
        measured = self.measured(score, first_token)
        return 1.0 - measured if find_score(score).of_cosine else measured

    def spread(self, score: str, first_token: bool = False) -> np.ndarray:
        """The standard deviation of the score over windows, (L,); 0 for a single window."""
        measured = self.measured(score, first_token)
        if len(measured) < 2:
            return np.zeros(self.blocks)
        return find_score(score).derive(measured, measured.mean(axis=0)).std(axis=0, ddof=1)

    def redundancy(self, score: str, first_token: bool = False) -> tuple[float, ...]:
        """The score turned so that higher means more redundant, (L,): what an allocation takes."""
        sign = 1.0 if find_score(score).higher_is_redundant else -1.0
        return tuple((sign * self.values(score, first_token)).tolist())

    def warnings(self) -> tuple[str, ...]:
        """A sentence where blocks change nothing of the stream, which is a sign of damaged weights."""
        idle = np.flatnonzero((1.0 - self.measured("lr") < UNCHANGED).all(axis=0)).tolist()
        if not idle:
            return ()
        named = f"Block {idle[0]} changes" if len(idle) == 1 else f"Blocks {', '.join(map(str, idle))} change"
        return (
            f"{named} next to nothing of the stream, as if the weights there were zero: fetch or save the "
            "model again, unless that is meant.",
        )

    def to_frame(self, first_token: bool = False) -> pd.DataFrame:
        """One row per block: its module path, and each score with its spread over windows."""
        columns: dict[str, Any] = {
            "block": np.arange(self.blocks),
            "module": [f"{self.block_path}.{index}" for index in range(self.blocks)],
            "cosine": self.measured("lr", first_token).mean(axis=0),
        }
        for name in self.scores():
            columns[name] = self.values(name, first_token)
            columns[f"{name} sd"] = self.spread(name, first_token)
        return pd.DataFrame(columns)


class _Sums:
    """Per-window values of one measurement, filled in block by block as the batches pass."""

    def __init__(self, score: Score, windows: int, block_count: int) -> None:
        assert score.measure
        self.measure, self.tokens, self.normed = score.measure, score.tokens, score.after_norm
        self.rest = np.zeros((windows, block_count))
        self.first = np.zeros((windows, block_count))

        self.waiting: dict[int, list[Tensor]] = {}
        """Holds, by the first row of every batch that passes, the measurements (B, T) or (B,) of the blocks
        so far."""

    def look(self, passage: Passage, rows: slice) -> None:
        """Measure one block more; the numbers stay where they are until the batch is through."""
        if self.tokens == "last":
            found = self.measure(passage.entering[:, -1], passage.leaving[:, -1])
        elif self.measure is cosine:
            found = passage.cosine
        else:
            found = self.measure(passage.entering, passage.leaving)
        self.waiting.setdefault(rows.start, []).append(found)

    def put(self, rows: slice, blocks: list[int]) -> None:
        """Take in what was measured of a batch. The host waits for a device once, not at every block."""
        found = on_host(self.waiting.pop(rows.start))  # (L, B, T) or (L, B)
        if self.tokens == "last":
            self.rest[rows, blocks] = found.T.numpy()
            return
        # Means of fp32 values in fp64 cost nothing beside the forward pass.
        self.rest[rows, blocks] = widen(found[:, :, 1:]).mean(dim=2).T.numpy()
        self.first[rows, blocks] = found[:, :, 0].T.numpy()

    def after_norm(self, last: _Sums) -> _Sums:
        """Fill in the blocks before the last, which no final norm follows, and give the whole."""
        last.rest[:, :-1], last.first[:, :-1] = self.rest[:, :-1], self.first[:, :-1]
        if not (np.isfinite(last.rest) & np.isfinite(last.first)).all():
            raise NotFiniteError(
                "What leaves the final norm is not finite: open the model in bfloat16 or float32, or fetch "
                "it again."
            )
        return last

    def done(self) -> BlockValues:
        broken = ~(np.isfinite(self.rest) & np.isfinite(self.first)).all(axis=0)
        if broken.any():
            raise NotFiniteError(
                f"The stream is not finite from block {int(broken.argmax())} on: open the model in bfloat16 "
                "or float32."
            )
        first = self.first if self.tokens == "all" else None
        return BlockValues(rest=_rows(self.rest), first=None if first is None else _rows(first))


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())


class _Looker:
    """Look at every block as the batches pass, and remember which blocks ran and whether any changed."""

    def __init__(self, model: Any, windows: int, details: DetailsCollector | None) -> None:
        self.model_type, self.blocks = model.config.model_type, len(blocks(model))
        sums = {name: _Sums(s, windows, self.blocks) for name, s in _distinct(SCORES.values()).items()}
        self.sums = {name: each for name, each in sums.items() if not each.normed}
        self.normed = {name: each for name, each in sums.items() if each.normed}
        """Those whose last state is taken after the final norm; they look at the last block alone."""
        self.passage: Passage | None = None
        """Holds what the block that was looked at last made of the states."""
        self.order: dict[int, list[int]] = {}
        """The blocks that ran so far, by the first row of every batch that passes."""
        self.entering_last: Tensor | None = None
        self.details = details
        self.rows = slice(0, 0)
        """The windows of the batch that passes now."""
        self.ran: set[int] = set()
        self.changed = False

    def begin(self, rows: slice) -> None:
        """Look at the batch of these rows from now on."""
        self.rows = rows

    def look(self, block: int, entering: Tensor, leaving: Tensor) -> None:
        """Measure what a block makes of the stream (B, T, D)."""
        if entering.ndim != 3:
            raise ModelError(
                f"The stream of this {self.model_type} model has the shape {tuple(entering.shape)} "
                "rather than one vector per token and window, which slicescope does not measure: choose a "
                "model with a single stream."
            )
        self.ran.add(block)
        if entering.shape != leaving.shape:
            raise ModelError("This model is sliced: its blocks change the width; profile the dense model.")
        self.changed = self.changed or not torch.equal(entering, leaving)
        self.passage = passage = Passage.of(entering, leaving, self.passage)
        for each in self.sums.values():
            each.look(passage, self.rows)
        if self.details is not None:
            self.details.look(self.rows, block, passage)
        self.order.setdefault(self.rows.start, []).append(block)
        if block == self.blocks - 1:
            self.entering_last = entering

    def look_after_norm(self, output: Tensor) -> None:
        """Measure the last block once more, by what the decoder gives, (B, T, D) after the final norm, and
        take in what was measured of the batch.
        """
        entering, self.entering_last, self.passage = self.entering_last, None, None
        order = self.order.pop(self.rows.start, [])
        for each in self.sums.values() if order else ():
            each.put(self.rows, order)
        if entering is None:  # the last block did not run, which ``done`` tells
            return
        if output.shape != entering.shape:  # a decoder that narrows its output has nothing to compare
            self.normed = {}
        for each in self.normed.values():
            each.look(Passage.of(entering, output.to(entering.device)), self.rows)
            each.put(self.rows, [self.blocks - 1])

    def done(self) -> dict[str, BlockValues]:
        """Return the measurements (``ModelError`` where a block did not run, or none changed the stream)."""
        if idle := sorted(set(range(self.blocks)) - self.ran):
            raise ModelError(
                f"Block {idle[0]} of this {self.model_type} model does not run on text alone, so it "
                "cannot be measured: choose a text-only model."
            )
        measurements = {name: each.done() for name, each in self.sums.items()}
        if not self.changed:
            raise ModelError(
                "No block of this model changes the stream, so that there is nothing to measure; its weights "
                "may all be zero: fetch or save the model again."
            )
        for name, last in self.normed.items():
            measurements[name] = self.sums[last.measure.__name__].after_norm(last).done()
        return measurements


@naming_weights
@inference_mode
def profile_blocks(
    model: Any,
    windows: Tensor,
    *,
    model_label: str,
    text_label: str,
    progress: Progress = no_progress,
    bases: BasesCollector | None = None,
    details: DetailsCollector | None = None,
) -> LayerProfile:
    """Measure every block in one forward pass without the head over ``windows`` (N, T) of token ids.

    ``bases`` sums up the stream at every site, ``details`` looks at every token, in the same pass. Raises
    ``ModelError`` when a state is not finite or no block changes the stream, ``TextError`` for windows longer
    than the context.
    """
    check_windows(model, windows)
    if windows.shape[1] < 2:
        raise TextError("A profile needs windows of at least 2 tokens.")
    if bases is not None:
        bases.refuse_unless_they_fit(windows)
    refuse_unless_batches_fit("Profiling", model, windows, states_compared(model))
    count, length = windows.shape
    looker = _Looker(model, count, details)
    start = time.perf_counter()
    summing = nullcontext() if bases is None else bases.watching()
    looking = nullcontext() if details is None else details.watching()
    with watch_blocks(model, looker.look), summing, looking, out_of_memory_told("profiling"):
        pass_windows(
            model,
            windows,
            lambda rows, output: looker.look_after_norm(output.last_hidden_state),
            looker.begin,
            progress,
            "Profiling",
            0 if details is None else details.kept_of_batch(windows),
        )
    measurements = looker.done()
    synchronise(model.device)
    return LayerProfile(
        model=model_label,
        text=text_label,
        block_path=block_path(model),
        blocks=looker.blocks,
        windows=count,
        window_length=length,
        measurements=measurements,
        seconds=time.perf_counter() - start,
        batch=batch_size(windows, model.device),
    )


def states_compared(model: Any) -> int:
    """How many states more than in a pass there are while a model is profiled: the ends of two blocks in
    fp32, counted in the model's own dtype.
    """
    return 3 * FP32 // model.dtype.itemsize


def _distinct(scores: Iterable[Score]) -> dict[str, Score]:
    """One score per measurement of tokens: LR and block influence share theirs."""
    return {score.measurement: score for score in scores if score.measure}
