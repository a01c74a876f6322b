"""Score a model on the tasks of EleutherAI's lm-evaluation-harness, run in memory.

This is the one place that calls the harness, which is an optional dependency. No code is fetched, and none
that a model wrote is run. Knows nothing about how a model was made.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from numbers import Real
from pathlib import Path
from typing import Any

from analysis.device import HOST, is_out_of_memory, out_of_memory_told, total_memory
from analysis.errors import ModelError, TextError, is_ours, one_line
from analysis.needs import FP32
from analysis.sources.configuration import context_length
from analysis.sources.opening import OpenModel
from analysis.values import Progress, Value, no_progress

_UNSAFE = ("longproc", "scrolls")
"""Names of tasks that evaluate what the model wrote, or fetch code, without the harness marking them so."""
_RESAMPLES = 1000
"""For standard errors without a formula: good to some 2 %, where the harness's 100,000 take minutes."""


class TaskScore(Value):
    """One metric of one task, or of one group of tasks."""

    task: str
    metric: str
    """As the task calls it: ``acc``; with the answer filter where there is one: ``exact_match,strict``."""
    value: float
    """In the metric's own unit: ``acc`` is a share of 1, ``word_perplexity`` is per word."""
    standard_error: float | None
    """In the same unit; ``None`` where the harness knows none, and for a single example."""
    examples: int
    few_shot: int
    """Worked examples before each question."""


def evaluate_tasks(
    opened: OpenModel,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    include: Path | None = None,
    batch_size: int | None = None,
    progress: Progress = no_progress,
) -> tuple[TaskScore, ...]:
    """Run tasks, groups or tags of the harness, with their own prompts and no chat template.

    ``limit``: examples per task at most. ``num_fewshot``: worked examples, for the tasks that do not fix
    their number at 0. ``include``: a folder of further tasks in YAML; functions they name there are run.
    ``batch_size``: rows per forward pass, by default ``usual_rows``; a batch takes twice rows × longest row ×
    vocabulary × 4 bytes. ``progress`` is told the rows of all tasks together.
    The harness seeds the generators of Python, NumPy and torch, and draws its bars on standard error.
    Raises ``TextError`` when the harness is not installed, a task is unknown, refused or cannot be run,
    ``ModelError`` when a score is not finite, ``OutOfMemoryError``.
    """
    check_tasks(tasks, limit=limit, num_fewshot=num_fewshot, include=include, batch_size=batch_size)
    # Read when the harness is imported: no metrics in code from the Hub, no processes of its own.
    os.environ.update(HF_EVALUATE_OFFLINE="1", DISABLE_MULTIPROC="1")
    try:
        harness: Any = importlib.import_module("lm_eval")
        models: Any = importlib.import_module("lm_eval.models.huggingface")
    except ImportError as error:
        raise TextError(
            f"Tasks need EleutherAI's harness ({one_line(error)}): run \"pip install 'slicescope[tasks]'\"."
        ) from None
    model: Any = opened.model
    with _quiet(), out_of_memory_told("running the tasks"):
        manager = _manager(tasks, include)
        try:
            wrapped = models.HFLM(
                pretrained=model,
                tokenizer=copy.deepcopy(opened.tokenizer),  # it is given a padding token
                backend="causal",
                max_length=context_length(model.config),
                batch_size=batch_size or usual_rows(model),
                trust_remote_code=False,
            )
            _tell_rows(wrapped, progress)
            results: Any = harness.simple_evaluate(
                wrapped,
                tasks=list(tasks),
                num_fewshot=num_fewshot,
                limit=limit,
                bootstrap_iters=_RESAMPLES,
                log_samples=False,
                task_manager=manager,
                confirm_run_unsafe_code=False,
            )
        except Exception as error:  # from the network, any reader of data, and the code of any task
            if is_ours(error) or is_out_of_memory(error):
                raise
            raise TextError(
                f"The tasks {', '.join(tasks)} cannot be run ({one_line(error)}): check that their data can "
                "be fetched, and run them one at a time to see which it is."
            ) from error
    return tuple(_scores(results))


LONG_ROW, MOST_ROWS = 1024, 32
"""Tokens of a question with worked examples before it, and rows in a batch at most: by then a GPU is busy."""


def usual_rows(model: Any) -> int:
    """Tell how many rows of a task pass at a time: one on a CPU, which is busy with it, else by its memory.

    The logits of so many long rows take an eighth of it. What is free at the moment does not matter, so that
    scores do not depend on what ran before.
    """
    if model.device.type == HOST:
        return 1
    logits = 2 * LONG_ROW * model.get_input_embeddings().weight.shape[0] * FP32
    return int(min(MOST_ROWS, max(1, total_memory(model.device) // 8 // logits)))


def check_tasks(
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    include: Path | None = None,
    batch_size: int | None = None,
) -> None:
    """Raise ``TextError`` for what can be told without the harness: see ``evaluate_tasks``."""
    if not tasks:
        raise TextError("No task was named: give at least one, such as 'hellaswag'.")
    for name in tasks:
        if name.startswith(_UNSAFE):
            raise TextError(
                f"The task '{name}' runs code that a model wrote or the Hub holds, which is never done here: "
                "choose another task."
            )
    for what, number, least in (
        ("examples per task", limit, 1),
        ("few-shot examples", num_fewshot, 0),
        ("rows per batch", batch_size, 1),
    ):
        if number is not None and number < least:
            raise TextError(f"{number} {what} were asked for: ask for {least} or more.")
    if include is not None and not include.is_dir():
        raise TextError(f"The folder of tasks '{include}' does not exist: give one that holds YAML files.")


def _manager(tasks: Sequence[str], include: Path | None) -> Any:
    """The harness's index of tasks; its own 14,000, which take seconds to read, only where needed."""
    index: Any = importlib.import_module("lm_eval.tasks")
    if include is not None:
        own = index.TaskManager(include_path=include, include_defaults=False)
        if set(tasks) <= set(own.all_subtasks):
            return own
    manager = index.TaskManager(include_path=include)
    for name in tasks:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "'lm_eval ls tasks' lists all."
            raise TextError(f"Unknown task '{name}' among {len(manager.all_tasks):,}: {hint}")
    return manager


def _tell_rows(wrapped: Any, progress: Progress) -> None:
    """Let a model of the harness tell how many of the rows that it was asked for have passed.

    Rows that begin alike may pass as one, so the last rows may be done before their number is reached.
    """
    asked = passed = 0

    def asking(method: Callable[..., Any]) -> Callable[..., Any]:
        def ask(requests: Sequence[Any], *args: Any, **options: Any) -> Any:
            nonlocal asked, passed
            asked += len(requests)
            progress("Tasks", passed, asked)
            found = method(requests, *args, **options)
            passed = asked
            progress("Tasks", passed, asked)
            return found

        return ask

    def passing(method: Callable[..., Any]) -> Callable[..., Any]:
        def go(rows: Any, *args: Any, **options: Any) -> Any:
            nonlocal passed
            found = method(rows, *args, **options)
            passed = min(passed + len(rows), asked)
            progress("Tasks", passed, asked)
            return found

        return go

    for name in ("_loglikelihood_tokens", "generate_until"):
        setattr(wrapped, name, asking(getattr(wrapped, name)))
    for name in ("_model_call", "_model_generate"):
        setattr(wrapped, name, passing(getattr(wrapped, name)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's log below errors off the terminal, and what it prints off standard output."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        log.setLevel(level)


def _scores(results: Any) -> Iterator[TaskScore]:
    """Read the harness's table: ``{task: {"acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 20}}``."""
    for task, row in results["results"].items():
        for key, value in row.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            if not math.isfinite(value):
                raise ModelError(
                    f"The {metric} of task '{task}' is not finite: open the model in bfloat16 or float32."
                )
            error = row.get(f"{metric}_stderr,{chosen}")
            yield TaskScore(
                task=task,
                metric=metric if chosen == "none" else key,
                value=float(value),
                standard_error=float(error) if isinstance(error, Real) and math.isfinite(error) else None,
                examples=row["sample_len"],
                few_shot=results["n-shot"].get(task, 0),
            )
