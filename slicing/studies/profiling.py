"""Profiling: one look at the dense model, with bases, probes and the costs of units where asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from analysis.anatomy import why_not_sliceable
from analysis.bases import Bases, BasesCollector, find_bases, refuse_unless_bases_fit, sums_fit
from analysis.details import DetailsCollector
from analysis.errors import PlanError, UnsupportedError, unknown_name
from analysis.evaluate import safe_precision
from analysis.profile import LayerProfile, profile_blocks
from analysis.read_shape import read_shape
from analysis.sources.opening import OpenModel
from analysis.sources.windows import token_windows
from analysis.storage import require_space
from analysis.values import Progress
from slicing.inner.costs import UnitCosts
from slicing.inner.worth import unit_costs
from slicing.probes import NEED_SLICING, PROBES, Probing
from slicing.store import layout_at
from slicing.studies.judge import through_lens, used
from slicing.studies.requests import Calibrated, ProfileRequest
from slicing.studies.results import ProfileResult
from slicing.studies.store import BASES_FILE, DETAILS_FILE
from slicing.view import ModelView

if TYPE_CHECKING:
    from torch import Tensor


def profile(request: ProfileRequest, opened: OpenModel, progress: Progress, folder: Path) -> ProfileResult:
    """Make the result of a profile; details and bases go into ``folder``."""
    reason = why_not_sliceable(opened.model.config)
    progress("Reading text", 0, 1)
    drawn = request.drawn or request.windows
    windows = token_windows(request.text, opened.tokenizer, request.window_length, drawn, request.seed)
    windows = windows[: request.windows]
    progress("Reading text", 1, 1)
    for name in request.probes:
        if name not in PROBES:
            raise PlanError(unknown_name("probe", name, PROBES))
        if reason and name in NEED_SLICING:
            raise UnsupportedError(f"The probe '{name}' slices blocks. {reason}")
    if reason and request.units:
        raise UnsupportedError(f"What units cost is told of models whose parts are known. {reason}")
    needed = request.bases or any(name in NEED_SLICING for name in request.probes)
    found, bases = _profiled(request, opened, windows, progress, folder, needed and not reason)
    if bases is not None and request.bases:
        require_space(folder, bases.bytes)
        bases.save(folder / BASES_FILE)
    if request.probes:
        precision = safe_precision(request.model, windows, opened.model)
        # Where a probe asks for bases, they were found.
        probing = Probing(opened.model, windows, partial(cast, Bases, bases), progress, precision)
        for name in request.probes:
            found = found.with_probed(name, PROBES[name](probing))
    return ProfileResult(
        profile=found,
        shape=None if reason else read_shape(opened.model),
        not_sliceable=reason,
        text=used(request.text, windows, opened.model),
        layout=layout_at(request.model),
        bases=bases is not None and request.bases,
        units=_unit_costs(request, opened, windows, progress) if request.units else None,
    )


def _unit_costs(request: ProfileRequest, opened: OpenModel, windows: Tensor, progress: Progress) -> UnitCosts:
    """What the parts inside the blocks cost, on ``windows`` (N, T): predicted, and where asked measured."""
    find = partial(safe_precision, request.model, windows, opened.model)
    view = ModelView(opened.model, windows, progress=progress, find_precision=find)
    return unit_costs(view, view.block_count if request.units_measured else 0, paired=True)


def _profiled(
    request: ProfileRequest,
    opened: OpenModel,
    windows: Tensor,
    progress: Progress,
    folder: Path,
    needed: bool,
) -> tuple[LayerProfile, Bases | None]:
    """Profile the model, and find the bases where ``needed``: in the same pass, where that fits."""
    together = needed and sums_fit(opened.model, windows)
    collector = BasesCollector(opened.model) if together else None
    if needed:
        refuse_unless_bases_fit(opened.model, windows)
    profile = look(request, opened, windows, progress, folder, request.lens, collector)
    if not needed:
        return profile, None
    if collector is None:
        return profile, find_bases(opened.model, windows, progress)
    progress("Finding bases", 0, len(collector.sums))
    return profile, collector.bases(progress)


def look(
    request: ProfileRequest | Calibrated,
    opened: OpenModel,
    windows: Tensor,
    progress: Progress,
    folder: Path | None,
    lens: bool,
    bases: BasesCollector | None = None,
) -> LayerProfile:
    """Profile the model on ``windows`` (N, T), with the details into ``folder`` where one is given."""
    details = DetailsCollector(opened.model, windows, cloud=True) if folder else None
    profile = profile_blocks(
        opened.model,
        windows,
        model_label=request.model.label,
        text_label=request.profile_text.label,
        progress=progress,
        bases=bases,
        details=details,
    )
    if folder and details:
        found = details.details(opened.tokenizer)
        if lens:
            found = through_lens(found, request.model, opened.model, windows, progress)
        found.save(folder / DETAILS_FILE)
    return profile
