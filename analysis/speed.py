"""How fast a model is beside another: both timed in turn, in the same minutes, after a warm-up.

Knows nothing about how a model was made.
"""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.device import out_of_memory_told, synchronise
from analysis.evaluate import check_windows
from analysis.late import inference_mode
from analysis.sources.configuration import context_length
from analysis.statistics import median_coverage
from analysis.values import Progress, Value, no_progress

if TYPE_CHECKING:
    from torch import Tensor

PROMPT_TOKENS, NEW_TOKENS = 256, 8
"""The longest prompt that is timed, and the tokens that are generated after it."""


CLEAR = 1.2
"""A ratio is told where the most of its rounds is not larger than so many times the least."""
COVERED = 0.9
"""A ratio is told where its range holds the true median at least so often, which takes five rounds."""


class Ratio(Value):
    """How many times as fast as the other: the median over rounds, and the least and most of them."""

    median: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Tell whether the rounds agree within a fifth; else the machine was too busy for a result."""
        return self.high <= CLEAR * self.low


class Speed(Value):
    """A model beside its baseline, one sequence at a time, in the dtype they are open in."""

    baseline: str
    prompt: Ratio
    """Reading a prompt in one forward pass."""
    generation: Ratio
    """Generating tokens one by one with the key-value cache, after the prompt was read."""
    prompt_tokens: int
    new_tokens: int
    rounds: int

    @property
    def coverage(self) -> float:
        """Tell how often the range of so many rounds holds the true median."""
        return median_coverage(self.rounds)

    @property
    def protocol(self) -> str:
        """Tell how it was measured, for the line beside it."""
        return (
            f"batch 1, a prompt of {self.prompt_tokens} tokens, {self.new_tokens} tokens generated; median "
            f"of {self.rounds} rounds in which both models take turns, after one to warm up"
        )


@inference_mode
def compare_speed(
    baseline: str,
    base: Any,
    model: Any,
    windows: Tensor,
    rounds: int,
    progress: Progress = no_progress,
    phase: str = "Timing",
) -> Speed:
    """Time ``model`` against ``base`` on the first window of ``windows`` (N, T) of token ids."""
    check_windows(base, windows)
    room = (context_length(base.config) or PROMPT_TOKENS + NEW_TOKENS) - NEW_TOKENS
    tokens = windows[:1, : max(1, min(PROMPT_TOKENS, room))]
    seconds = np.zeros((rounds, 2, 2))  # round, model, prompt or generation
    with out_of_memory_told("timing"):
        for turn in range(-1, rounds):
            progress(phase, turn + 1, rounds + 1)
            for column, each in enumerate((base, model)):
                taken = _seconds(each, tokens)
                if turn >= 0:
                    seconds[turn, column] = taken
    progress(phase, rounds + 1, rounds + 1)
    prompt, generation = (_ratio(seconds[:, 0, way] / seconds[:, 1, way]) for way in (0, 1))
    return Speed(
        baseline=baseline,
        prompt=prompt,
        generation=generation,
        prompt_tokens=tokens.shape[1],
        new_tokens=NEW_TOKENS,
        rounds=rounds,
    )


def _seconds(model: Any, tokens: Tensor) -> tuple[float, float]:
    """Seconds for the prompt, and for the tokens after it."""
    tokens = tokens.to(model.device)
    # The head is wanted for the last token alone, where the family can be told so.
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    synchronise(model.device)
    start = time.perf_counter()
    output = model(tokens, use_cache=True, **last)
    synchronise(model.device)
    read = time.perf_counter()
    for _ in range(NEW_TOKENS):
        following = output.logits[:, -1:].argmax(dim=-1)
        output = model(following, past_key_values=output.past_key_values, use_cache=True, **last)
    synchronise(model.device)
    return read - start, time.perf_counter() - read


def _ratio(values: np.ndarray) -> Ratio:
    return Ratio(median=float(np.median(values)), low=float(values.min()), high=float(values.max()))
