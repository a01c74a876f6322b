"""Judging a model: the windows that all models of a study are evaluated on, and what is measured of each."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.batches import batch_size
from analysis.details import Details
from analysis.evaluate import Perplexity, check_windows, continue_text, perplexity, safe_precision
from analysis.int8 import INT8_WHOLE, evaluate_int8
from analysis.late import torch
from analysis.lens import logit_lens
from analysis.needs import refuse_spread
from analysis.precision import Precision
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.sources.windows import Passage, passages, token_windows
from analysis.speed import compare_speed
from analysis.tasks import evaluate_tasks
from analysis.values import Progress
from analysis.versions import version_of
from slicing.steps.base import Made
from slicing.studies.requests import SEARCHED, Calibrated, CompressRequest, Trial
from slicing.studies.results import Environment, Measurement, TextUsed
from slicing.view import ModelView

if TYPE_CHECKING:
    from torch import Tensor


class Judge:
    """The windows of a request's evaluation texts, and the dense model that others are timed beside."""

    def __init__(self, trial: Trial, opened: OpenModel, view: ModelView) -> None:
        self.trial, self.opened, self.view = trial, opened, view
        tokenizer, count = opened.tokenizer, trial.evaluation_windows
        self.windows = self._fitting(judged_windows(trial, tokenizer))
        self.other = self.searched = None
        if trial.int8:
            refuse_spread(view.model, INT8_WHOLE)
        if trial.other is not None:
            self.other = self._fitting(token_windows(trial.other, tokenizer, trial.window_length, count))
        if trial.search == "beside":
            self.searched = self._fitting(search_windows(trial, tokenizer, min(count, SEARCHED)))

    def _fitting(self, windows: Tensor) -> Tensor:
        check_windows(self.view.model, windows)
        return windows

    @cached_property
    def precision(self) -> Precision:
        """By the dense model alone, so that the answer is the same for all models that are to be compared."""
        return safe_precision(self.trial.model, self.windows, self.view.model)

    @property
    def calibration(self) -> TextUsed:
        """The windows that calibration saw."""
        precision = self.trial.calibration_precision
        return used(self.trial.calibration, self.view.windows, self.view.model, precision=precision)

    @property
    def evaluated(self) -> TextUsed:
        """The windows that evaluation saw."""
        where: tuple[Passage, ...] = ()
        if self.trial.search != "alone":  # which are drawn, and not the first ones
            where = passages(self.trial.evaluation, self.opened.tokenizer, self.windows)
        return used(self.trial.evaluation, self.windows, self.view.model, where)

    def measure(self, trial: Trial, made: Made | None, deciding: float | None) -> Measurement:
        """Evaluate what a recipe made, or the dense model, and whatever else the trial asks for."""
        model: Any = made.model if made else self.view.model
        sliced = made.sliced if made else None
        size = count_parameters(model) if made else self.view.shape.parameters
        return Measurement(
            name=trial.recipe.short,
            title=trial.recipe.short_title,
            schedule=sliced.schedule if sliced else None,
            layout=made.layout if made else None,
            inner=made.inner if made else None,
            mean_slice=sliced.schedule.mean_slice if sliced else 0.0,
            parameters=size,
            bytes=size * self.view.model.dtype.itemsize,
            flops_per_token=self._flops(made),
            slicing_seconds=made.seconds if made else None,
            slicing_peak_memory=made.peak_memory if made else None,
            discarded=sliced.discarded if sliced else None,
            repair=made.repair if made else None,
            healed=made.healed if made else (),
            sink=made.sink if made else None,
            deciding_seconds=deciding,
            **self._evaluated(trial, model, made is not None),
        )

    def _evaluated(self, trial: Trial, model: Any, smaller: bool) -> dict[str, Any]:
        progress, precision = self.view.progress, self.precision
        found: dict[str, Any] = {}
        opened = OpenModel(model, self.opened.tokenizer)
        if trial.new_tokens:
            found["sample"] = continue_text(opened, trial.prompt, trial.new_tokens)
        found["evaluation"] = perplexity(model, self.windows, progress, "Evaluating", precision)
        if self.other is not None:
            found["other"] = perplexity(model, self.other, progress, "Evaluating elsewhere", precision)
        if trial.int8:
            found["int8"] = evaluate_int8(model, self.windows, progress, precision=precision)
        if self.searched is not None:
            phase = "Evaluating on search windows"
            found["search"] = perplexity(model, self.searched, progress, phase, precision)
        if trial.tasks:
            limit, include = trial.task_limit, trial.task_folder
            found["tasks"] = evaluate_tasks(
                opened, trial.tasks, limit=limit, include=include, progress=progress
            )
        if smaller and trial.speed_rounds:
            dense, rounds = self.view.model, trial.speed_rounds
            found["speed"] = compare_speed("dense", dense, model, self.windows, rounds, progress, "Timing")
        return found

    def _flops(self, made: Made | None) -> int:
        shape = self.view.shape
        if made and made.sliced:
            shape = made.sliced.schedule.shape_after(made.sliced.shape)
        elif made and made.layout:
            shape = made.layout.shape_after(shape, getattr(made.model.config, "bridges", None) or ())
        if made and made.inner:
            shape = made.inner.shape_after(shape)
        return shape.flops_per_token


def search_windows(request: Calibrated, tokenizer: Any, count: int) -> Tensor:
    """Draw the windows (count, T) that a search is judged on.

    They are of a text of its own, or else of the calibration text, behind the calibration windows.
    """
    text, skip = request.search_text or request.calibration, request.calibration_windows
    return token_windows(
        text, tokenizer, request.window_length, count, request.seed, 0 if request.search_text else skip
    )


def judged_windows(trial: Trial, tokenizer: Any) -> Tensor:
    """Draw the windows (N, T) that the models of a trial are judged on first."""
    if trial.search == "alone":
        return search_windows(trial, tokenizer, min(trial.evaluation_windows, SEARCHED))
    return token_windows(trial.evaluation, tokenizer, trial.window_length, trial.evaluation_windows)


def count_parameters(model: Any) -> int:
    """Count the parameters of a model; what is shared counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def used(
    source: TextSource,
    windows: Tensor,
    model: Any,
    where: tuple[Passage, ...] = (),
    precision: Precision = "exact",
) -> TextUsed:
    """The windows (N, T) of a text as a run records them; ``precision`` is that of calibration."""
    return TextUsed(
        label=source.label,
        windows=windows.shape[0],
        window_length=windows.shape[1],
        digest=digest(windows),
        passages=where,
        batch=batch_size(windows, model.device),
        precision=precision,
    )


def evaluated(
    request: CompressRequest, opened: OpenModel, made: Made, progress: Progress
) -> tuple[Perplexity | None, Perplexity | None]:
    """Perplexity of the dense and the smaller model, where an evaluation text is named."""
    if request.evaluation is None:
        return None, None
    drawn = (request.window_length, request.evaluation_windows)
    windows = token_windows(request.evaluation, opened.tokenizer, *drawn)
    check_windows(opened.model, windows)
    precision = safe_precision(request.model, windows, opened.model, made.model)
    dense = perplexity(opened.model, windows, progress, "Evaluating dense", precision)
    return dense, perplexity(made.model, windows, progress, "Evaluating", precision)


def card_numbers(
    text: TextSource | None, dense: Perplexity | None, smaller: Perplexity | None
) -> tuple[str, ...]:
    """Write the line of a model card on the perplexity."""
    if text is None or dense is None or smaller is None:
        return ()
    return (
        f"Perplexity {smaller.perplexity:.2f}, dense {dense.perplexity:.2f}, on {text.label}: "
        f"{smaller.protocol}.",
    )


def digest(windows: Tensor) -> str:
    """Name windows by their tokens."""
    return hashlib.sha256(windows.numpy().tobytes()).hexdigest()[:16]


def through_lens(
    details: Details, source: ModelSource, model: Any, windows: Tensor, progress: Progress
) -> Details:
    """The details of a profile with the logit lens on all windows."""
    precision = safe_precision(source, windows, model)
    lens = logit_lens(model, windows, progress, precision)
    return details._replace(lens=lens.astype(np.float32))


def environment(model: Any) -> Environment:
    """Record the device, the dtype and the versions that a model runs with."""
    device: torch.device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    packages = ("slicescope", "torch", "transformers", "datasets", "numpy")
    return Environment(
        device=str(device),
        device_name=name or platform.machine(),
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        platform=f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores",
        versions={package: version_of(package) for package in packages},
    )
