"""How fast a model is beside another: both timed in turn, in the same minutes, after a warm-up.

On an accelerator many sequences at a time are timed too. One alone leaves it idle: each operation is over
before the host has launched the next, so that a smaller model generates no faster.

Knows nothing about how a model was made.
"""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.device import HOST, out_of_memory_told, synchronise
from analysis.evaluate import check_windows
from analysis.late import inference_mode, transformers
from analysis.sources.configuration import context_length
from analysis.statistics import median_coverage
from analysis.values import Progress, Value, no_progress

if TYPE_CHECKING:
    from torch import Tensor

PROMPT_TOKENS, NEW_TOKENS = 256, 8
"""The longest prompt that is timed, and the tokens that are generated after it."""
AT_ONCE = 32
"""Sequences that are timed at a time on an accelerator, beside one. A CPU is busy with one."""
HOST_BOUND = 0.9
"""Where the host spends so much of the time on launching operations, it bounds how fast they follow."""

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


class Taken(NamedTuple):
    """Hold what one model took in one round."""

    prompt: float
    """Seconds."""
    generation: float
    """Seconds."""
    launching: float = 0.0
    """The share of the seconds of generation after which the host had launched everything."""


class AtOnce(Value):
    """A model beside its baseline, many sequences at a time."""

    batch: int
    prompt: Ratio
    generation: Ratio


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
    at_once: AtOnce | None = None
    """Gives the same ratios with many sequences at a time; ``None`` on a CPU."""
    static_cache: bool = False
    """Whether keys and values were written to a cache of fixed size."""
    launch_bound: bool = False
    """Whether the host bounds the generation of one sequence, whose time then says nothing of a model."""

    @property
    def coverage(self) -> float:
        """Tell how often the range of so many rounds holds the true median."""
        return median_coverage(self.rounds)

    @property
    def protocol(self) -> str:
        """Tell how it was measured, for the line beside it."""
        cache = " with a cache of fixed size" if self.static_cache else ""
        bound = (
            "; at batch 1 the host, which launches one operation after the other, bounds generation, so that "
            "its time does not change with the model's size"
        )
        return (
            f"batch 1, a prompt of {self.prompt_tokens} tokens, {self.new_tokens} tokens generated{cache}; "
            f"median of {self.rounds} rounds in which both models take turns, after one to warm up"
            f"{bound if self.launch_bound else ''}"
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
    at_once: int | None = None,
) -> Speed:
    """Time ``model`` against ``base``, which it was made of, on the first of ``windows`` (N, T) of token ids,
    and on ``at_once`` copies of it: by default ``AT_ONCE`` on an accelerator, and none on a CPU.
    """
    check_windows(base, windows)
    on_cpu = base.device.type == HOST
    batch = (1 if on_cpu else AT_ONCE) if at_once is None else at_once
    # transformers says by this that nothing in a model depends on the size of its cache.
    static = not on_cpu and bool(getattr(base, "_can_compile_fullgraph", False))
    room = (context_length(base.config) or PROMPT_TOKENS + NEW_TOKENS) - NEW_TOKENS
    tokens = windows[:1, : max(1, min(PROMPT_TOKENS, room))]
    sizes = sorted({1, batch})
    seconds = np.zeros((rounds, len(sizes), 2, 3))  # round, batch, model, fields of ``Taken``
    with out_of_memory_told("timing"):
        for turn in range(-1, rounds):
            progress(phase, turn + 1, rounds + 1)
            for row, size in enumerate(sizes):
                for column, each in enumerate((base, model)):
                    taken = _seconds(each, tokens.expand(size, -1), static)
                    if turn >= 0:
                        seconds[turn, row, column] = taken
    progress(phase, rounds + 1, rounds + 1)
    ways = {"prompt": 0, "generation": 1}
    ratios = [
        {way: _ratio(seconds[:, row, 0, at] / seconds[:, row, 1, at]) for way, at in ways.items()}
        for row in range(len(sizes))
    ]
    return Speed(
        baseline=baseline,
        **ratios[0],
        prompt_tokens=tokens.shape[1],
        new_tokens=NEW_TOKENS,
        rounds=rounds,
        at_once=AtOnce(batch=batch, **ratios[1]) if batch > 1 else None,
        static_cache=static,
        launch_bound=not on_cpu and bool(np.median(seconds[:, 0, 1, 2]) >= HOST_BOUND),
    )


def _seconds(model: Any, tokens: Tensor, static: bool = False) -> Taken:
    """Time the prompts (B, T), and the tokens after them; ``static``: in a cache of fixed size."""
    tokens = tokens.to(model.device)
    cache = None
    if static:
        config = model.config.get_text_config(decoder=True)
        cache = transformers.StaticCache(config=config, max_cache_len=tokens.shape[1] + NEW_TOKENS)
    # The head is wanted for the last token alone, where the family can be told so.
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    synchronise(model.device)
    start = time.perf_counter()
    output = model(tokens, past_key_values=cache, use_cache=True, **last)
    synchronise(model.device)
    read = time.perf_counter()
    for _ in range(NEW_TOKENS):
        following = output.logits[:, -1:].argmax(dim=-1)
        output = model(following, past_key_values=output.past_key_values, use_cache=True, **last)
    launched = time.perf_counter()
    synchronise(model.device)
    done = time.perf_counter()
    return Taken(read - start, done - read, (launched - read) / (done - read))


def _ratio(values: np.ndarray) -> Ratio:
    return Ratio(median=float(np.median(values)), low=float(values.min()), high=float(values.max()))
