"""Searching for the shares of a plan: a request of its own, whose run is stored and used again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.evaluate import perplexity
from analysis.sources.opening import OpenModel
from analysis.values import Progress
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule
from slicing.search import SearchLog, search
from slicing.slicer import recut, refuse_unless_invariant
from slicing.studies.judge import digest, search_windows, used
from slicing.studies.requests import Calibrated, SearchRequest
from slicing.studies.results import Run, SearchResult
from slicing.studies.store import find_stored
from slicing.view import ModelView


def search_request(asked: Calibrated, plan: Plan) -> SearchRequest:
    """The request that looks for a plan's shares, for whoever asks: its seed is the plan's own."""
    shared = {name: getattr(asked, name) for name in Calibrated.model_fields}
    return SearchRequest(**{**shared, "seed": getattr(plan.rule(), "draw", 0)}, plan=plan)


def find_shares(request: SearchRequest, opened: OpenModel, make: Callable[[SearchRequest], Run]) -> Run:
    """Give the stored run of a search, if it saw the windows of today, or else the one that is made now."""
    run = find_stored(request)
    if run is not None and run.result.kind == "search":
        today = digest(search_windows(request, opened.tokenizer, request.windows))
        if today == run.result.windows.digest:
            return run
    return make(request)


def search_shares(request: SearchRequest, view: ModelView, progress: Progress) -> SearchResult:
    """Look for the shares by previews (``slicing.search``)."""
    bases = view.bases
    refuse_unless_invariant(view.model)
    windows = view.draw_more(request.windows)
    shape, plan = view.shape, request.plan
    size = plan.constant(shape).shape_after(shape).parameters

    def schedule(shares: tuple[float, ...]) -> SlicingSchedule:
        settings = {**plan.settings, "shares": shares}
        even = (0.0,) * shape.block_count
        return plan.model_copy(update={"settings": settings}).at_parameters(size, even, shape)

    def loss(shares: tuple[float, ...]) -> float:
        sliced = recut(view.model, schedule(shares), bases)
        return float(np.mean(perplexity(sliced.model, windows, precision=view.precision).nll))

    rounds = getattr(plan.rule(), "rounds", 1)
    with SearchLog(request.key) as log:
        found = search(loss, shape.block_count, plan.target, rounds, log, progress)
    return SearchResult(
        profile=view.profile,
        shape=shape,
        shares=found.shares,
        losses=found.losses,
        evaluations=found.evaluations,
        schedule=schedule(found.shares),
        windows=used(request.search_text or request.calibration, windows, view.model),
    )
