"""A model view: what may be asked of a dense model, each answer measured once, with how long that took.

Methods that decide, scores that are probed and rules that need curves ask here. Knows nothing about requests,
texts or where results are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.anatomy import blocks, decoder, why_not_sliceable
from analysis.bases import Bases, find_bases
from analysis.details import DetailsCollector
from analysis.errors import PlanError, UnsupportedError, unknown_name
from analysis.evaluate import perplexity
from analysis.hooks import going_on_from, returns_tuple, watch_blocks
from analysis.late import inference_mode, torch
from analysis.precision import Precision, matmuls
from analysis.probes import damage, leave_out
from analysis.profile import LayerProfile, profile_blocks
from analysis.read_shape import read_shape
from analysis.shape import ModelShape
from analysis.values import Progress, no_progress
from slicing.depth.layout import Layout
from slicing.depth.memory import TEXT_TOKENS, TEXTS
from slicing.depth.operator import reduce_blocks
from slicing.healing.examples import Examples
from slicing.plans import Plan
from slicing.probes import CURVES, FRACTIONS, PROBES, USUAL, Probing

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = ("shape", "width step")
"""Answers that no pass is made for: what they take is not told."""
Search = Callable[[Plan], tuple[tuple[float, ...], float]]
"""Looks for the shares (L,) of a plan that is to be searched for, and tells the seconds that this took."""


def _no_search(plan: Plan) -> tuple[tuple[float, ...], float]:
    raise PlanError("Nothing has been searched yet: compare this allocation, which searches first.")


def _no_healing() -> Examples:
    raise PlanError("There is no text to heal on: leave the steps that heal out.")


def _no_more(count: int) -> Tensor:
    raise PlanError("There are no windows to judge a search on: leave the searched share out.")


class ModelView:
    """A dense model, its calibration windows, and what was measured of it so far."""

    def __init__(
        self,
        model: Any,
        windows: Tensor,
        profile: LayerProfile | None = None,
        *,
        profile_windows: int | None = None,
        progress: Progress = no_progress,
        measure_profile: Callable[[Progress], LayerProfile] | None = None,
        find_precision: Callable[[], Precision] = lambda: "exact",
        search: Search = _no_search,
        draw_more: Callable[[int], Tensor] = _no_more,
        healing_windows: Callable[[], Tensor | Examples] = _no_healing,
        seed: int = 0,
        key: str = "",
    ) -> None:
        """``windows`` (N, T) of token ids, for calibration.

        The first ``profile_windows`` of them, by default all, are what the ``profile`` is measured on and
        what probes look at. ``find_precision`` tells that of the losses. ``search`` is asked where a plan has
        no shares yet; ``draw_more`` gives windows (n, T) to judge a search on, none of which are these,
        and ``healing_windows`` all windows (N, T) that healing may see, in a random order, or examples of
        which only labels count. ``seed`` is that of the draws. ``key`` names model and windows where what is
        interrupted may be stored to go on with.
        """
        self.model, self.windows = model, windows
        self.profile_windows = windows[:profile_windows]
        self.listener = progress
        self.search, self.draw_more, self.healing_windows = search, draw_more, healing_windows
        self.seed, self.key = seed, key
        self.shares = False
        """Whether other methods and sizes will ask for the same, so that what is large is kept too."""
        self._profile, self._measure_profile = profile, measure_profile or self._profiled
        self._find_precision = find_precision
        self._known: dict[Any, _Answer] = {}
        self._asked: set[Any] = set()
        self._within: list[float] = []

    def of(self, model: Any) -> ModelView:
        """A view of another model, made of this one, with the same windows; nothing of it is known yet."""
        return ModelView(
            model,
            self.windows,
            profile_windows=len(self.profile_windows),
            progress=self.progress,
            find_precision=lambda: self.precision,
            draw_more=self.draw_more,
            healing_windows=self.healing_windows,
            seed=self.seed,
            key=self.key,
        )

    def progress(self, phase: str, done: int, total: int) -> None:
        """Tell whoever listens now, which changes from job to job."""
        self.listener(phase, done, total)

    @property
    def block_count(self) -> int:
        """L."""
        return len(blocks(self.model))

    @property
    def shape(self) -> ModelShape:
        """The shape of the model (``UnsupportedError`` where it cannot be sliced)."""
        if reason := why_not_sliceable(self.model.config):
            raise UnsupportedError(reason)
        return self.once("shape", lambda: read_shape(self.model))

    @cached_property
    def precision(self) -> Precision:
        """That of matrix products where losses are measured."""
        return self._find_precision()

    @property
    def profile(self) -> LayerProfile:
        """The layer profile, with the scores that were probed so far."""
        if self._profile is None:
            self._profile = self._measure_profile(self.progress)
        return self._profile

    def _profiled(self, progress: Progress) -> LayerProfile:
        return profile_blocks(
            self.model, self.profile_windows, model_label="", text_label="", progress=progress
        )

    # The stream

    @property
    def bases(self) -> Bases:
        """The bases of the dense stream on all calibration windows."""
        return self.once("bases", lambda: self.bases_of(self.model))

    def bases_of(self, model: Any) -> Bases:
        """The bases of the stream of what was made of the model, on the same windows; not kept."""
        return find_bases(model, self.windows, self.progress)

    def spans(self, windows: int) -> dict[str, np.ndarray]:
        """How alike the stream is at the two ends of every span: the maps of ``analysis.details``.

        On the first so many ``windows``. The diagonal k of a map is all spans of k blocks, by their first.
        """

        def measure() -> dict[str, np.ndarray]:
            details = DetailsCollector(self.model, self.windows[:windows])
            profile_blocks(
                self.model,
                self.windows[:windows],
                model_label=self.profile.model,
                text_label=self.profile.text,
                progress=lambda _, done, total: self.progress("Comparing spans", done, total),
                details=details,
            )
            return details.details().maps()

        return self.once(("spans", windows), measure)

    # Smaller models that are tried

    def losses_without(
        self, layout: Layout, windows: int, among: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """Rise of the loss when one more block of the reduced model is left out, (blocks left,).

        In nats per token, on the first so many ``windows``. The blocks in front of it are computed once for
        all. ``among`` names the places of the blocks that are tried, by default all; the others have 0.
        """

        def measure() -> np.ndarray:
            reduced = reduce_blocks(self.model, layout)
            tried = range(len(layout.groups)) if among is None else among
            phase, some = f"Trying {len(tried)} blocks", self.windows[:windows]
            left_out = {"out": leave_out}
            found = damage(reduced, some, left_out, self.progress, phase, self.precision, {"out": tried})
            return found["out"].mean(axis=0)

        return self.once(("losses", layout, windows, among), measure)

    def mean_loss(self, model: Any, windows: Tensor) -> float:
        """The mean loss of what was made of the model on ``windows`` (n, T), nats per token; not kept."""
        return float(np.mean(perplexity(model, windows, precision=self.precision).nll))

    def similarity(self, layout: Layout, windows: int) -> float:
        """Mean over windows of the cosine between the dense and the reduced model's outputs of the decoder.

        All tokens of a window as one vector; after the final norm. The blocks that both have in front are
        computed once for all.
        """

        def measure() -> float:
            dense, states, tuples = self.once(("outputs", windows), lambda: self._dense(windows))
            reduced = reduce_blocks(self.model, layout, check=False)
            alike = layout.alike
            with going_on_from(reduced, alike, states[alike], tuples):  # so far they are the same model
                found = self._outputs(reduced, windows)
            return float(torch.nn.functional.cosine_similarity(found, dense, dim=1).mean())

        return self.once(("similarity", layout, windows), measure)

    def _dense(self, windows: int) -> tuple[Tensor, list[Tensor], bool]:
        """The dense model's outputs, what enters every block and leaves the last, and how blocks answer."""
        states: list[Tensor] = []
        last = self.block_count - 1
        _ = self.precision  # it may be found by running the model, which is not to be watched

        def look(block: int, entering: Tensor, leaving: Tensor) -> None:
            states.extend((entering, leaving) if block == last else (entering,))

        with watch_blocks(self.model, look):
            outputs = self._outputs(self.model, windows)
        return outputs, states, returns_tuple(self.model, self.windows[:1, :8].to(self.model.device))

    @inference_mode
    def _outputs(self, model: Any, windows: int) -> Tensor:
        """Run the decoder on each of a few short texts, (n, tokens * D)."""
        texts = self.windows[:windows]
        texts = texts[:, : texts.shape[1] // TEXT_TOKENS * TEXT_TOKENS or None]
        texts = texts.reshape(-1, min(TEXT_TOKENS, texts.shape[1]))[:TEXTS].to(model.device)
        with matmuls(self.precision, model.device, model.dtype):
            return decoder(model)(texts, use_cache=False).last_hidden_state.float().flatten(1)

    # Scores and curves

    def redundancy(self, plan: Plan) -> tuple[float, ...]:
        """The redundancy of every block by a plan's score, (L,); zeros where its rule uses no scores."""
        if not plan.rule().uses_scores or plan.rule().made:
            return (0.0,) * self.block_count
        self.probe(plan.score)
        return self.profile.redundancy(plan.score, plan.first_token)

    def probe(self, score: str) -> None:
        """Measure a score that takes passes of its own, unless it is there."""
        if score in PROBES:
            values = self.once(("probe", score), lambda: PROBES[score](self._probing()))
            if score not in self.profile.scores():
                self._profile = self.profile.with_probed(score, values)

    def check_curves(self, plan: Plan) -> None:
        """Raise ``PlanError`` where a plan fills by curves of a score that has none."""
        if plan.allocation == "water-filling" and "at" not in plan.settings and plan.score not in CURVES:
            raise PlanError(unknown_name("score with curves", plan.score, CURVES))

    def curves(self, score: str) -> np.ndarray:
        """Damage at each of ``slicing.probes.FRACTIONS`` of each block's width, (K, L)."""
        found = self.once(("curves", score), lambda: CURVES[score](self._probing()))
        if score not in self.profile.scores():  # one point of the curves is the score
            self._profile = self.profile.with_probed(score, found[[FRACTIONS.index(USUAL)]])
        return found

    def resolved(self, plan: Plan) -> Plan:
        """The plan with what has to be measured or searched for on this model in its settings."""
        settings: dict[str, float | tuple[float, ...]] = {}
        if plan.allocation == "water-filling" and "at" not in plan.settings:
            damages = np.maximum(self.curves(plan.score), 0.0)
            settings = {"at": FRACTIONS, "damage": tuple(damages.T.ravel().tolist())}
        elif plan.allocation == "searched" and "shares" not in plan.settings:
            settings = {"shares": self._shares(plan)}
        return plan.model_copy(update={"settings": {**plan.settings, **settings}}) if settings else plan

    def _shares(self, plan: Plan) -> tuple[float, ...]:
        key = "searched", plan.key
        if key not in self._known:  # it may have been searched long ago, and took its time then
            self._known[key] = _Answer(*self.search(plan))
        self._asked.add(key)
        return self._known[key].value

    def _probing(self) -> Probing:
        """Gather the input of probes, which look at the windows of the profile."""
        return Probing(self.model, self.profile_windows, lambda: self.bases, self.progress, self.precision)

    # What was measured already

    def once(self, key: Any, measure: Callable[[], Any]) -> Any:
        """Give the answer that has this key, measured now or known already."""
        if key not in self._known:
            self._within.append(0.0)
            before, self._asked = self._asked, set()
            start = time.perf_counter()
            try:
                value = measure()
            finally:
                spent = time.perf_counter() - start
                inner = self._within.pop()  # of answers that this one asked for, which count for themselves
                asked, self._asked = self._asked, before
                if self._within:
                    self._within[-1] += spent
            self._known[key] = _Answer(value, spent - inner, frozenset(asked))
        # What it was found from counts too, also where it was found for somebody else.
        self._asked |= {key, *self._known[key].asked}
        return self._known[key].value

    @contextmanager
    def timing(self) -> Iterator[Callable[[], float]]:
        """Yield what tells how many seconds the answers asked for since took to measure, whenever it was."""
        self._asked = set()
        yield lambda: sum(self._known[key].seconds for key in self._asked if key not in SHAPES)


class _Answer(NamedTuple):
    """Holds what was measured, its seconds without those of what it asked for, and the keys of those."""

    value: Any
    seconds: float
    asked: frozenset[Any] = frozenset()
