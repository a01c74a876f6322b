"""Evaluate a model: perplexity by a stated protocol, its interval, its speed, and paired differences.

The protocol: consecutive windows without overlap; in each, every token but the first is predicted from
those before it; perplexity is exp of the mean negative log-likelihood over all predicted tokens. Where a
BOS token stands in front of a window (``analysis.sources.windows.BEGUN``), it is the first one; the first
token of text is then predicted too.Knows nothing about how a model was made.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import computed_field, model_validator

from analysis.anatomy import decoder
from analysis.batches import batch_size, tokens_at_a_time
from analysis.device import (
    HOST,
    PeakMemory,
    batch_tokens,
    is_out_of_memory,
    out_of_memory_told,
    synchronise,
    widen,
)
from analysis.errors import ModelError, NotFiniteError, TextError
from analysis.finite import naming_weights
from analysis.hooks import head_alone
from analysis.late import functional, inference_mode, torch, transformers
from analysis.needs import ROWS, passing_need, refuse_unless_it_fits
from analysis.precision import Precision, matmuls, multiplies_bf16
from analysis.sources.configuration import context_length
from analysis.sources.model import ModelSource, quiet_transformers
from analysis.sources.opening import OpenModel
from analysis.sources.tokens import tokenizer_errors
from analysis.statistics import LEVEL, holm, mean_interval, p_value
from analysis.stream import comes_block_by_block, pass_windows
from analysis.values import Progress, Value, no_progress, without

if TYPE_CHECKING:
    from torch import Tensor


_ROWS_ON_HOST = 16
"""Tokens whose losses a CPU works out at a time: with 50,000 logits each they stay in its cache, and take a
third of the time that those of 256 take."""


class Perplexity(Value):
    """Perplexity on a set of windows, with what it took to measure."""

    perplexity: float
    nll: tuple[float, ...]
    """Mean negative log-likelihood of each window, nats per token, (N,)."""
    window_length: int
    tokens_per_second: float
    """Tokens through the model and its head, the first batch (warm-up) left out when there are others."""
    seconds: float
    peak_memory: int
    """Bytes; see ``PeakMemory``."""
    precision: Precision = "exact"
    """Of the matrix products; see ``analysis.precision.matmuls``."""
    bos: bool = False
    """Whether every window begins with the model's BOS token."""
    batch: int | None = None
    """Windows that passed through the model at a time; ``None`` where an earlier version measured."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, data: Any) -> Any:
        return without(data, "interval")  # version 0.1 stored a bootstrap

    @computed_field
    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over windows: exp of that of the mean loss; ``None`` below eight windows."""
        found = mean_interval(np.asarray(self.nll))
        return found and (perplexity_of(found[0]), perplexity_of(found[1]))

    @property
    def protocol(self) -> str:
        """Tell how the number was measured, for the line beside it."""
        products = ", matrix products in bfloat16" if self.precision == "fast" else ""
        begun = ", each begun by BOS" if self.bos else ""
        return (
            f"token-level perplexity, {len(self.nll)} windows of {self.window_length:,} tokens{begun}, no "
            f"overlap, exp of the mean negative log-likelihood{products}{at_a_time(self.batch)}"
        )


class Difference(Value):
    """How much worse one model is than another on the same windows, paired window by window."""

    baseline: str
    contender: str
    nats: float
    """Mean difference in nats per token; negative means the contender is better."""
    nats_interval: tuple[float, float] | None
    """Student's 95 % interval of this difference alone; ``None`` below eight windows."""
    windows: int
    p_value: float | None
    """The two-sided p-value of Student's test for no difference, corrected for ``comparisons`` (Holm)."""
    comparisons: int = 1
    """How many differences the study tests, this one included."""
    noise: float | None = None
    """Range of the difference, nats per token, over repetitions with noise on the Gram matrices that the
    models were found from (``analysis.bases.jittered``), the models without noise among them; ``None`` where
    none was repeated."""

    @property
    def drowned(self) -> bool:
        """Whether the difference is smaller than what such noise does to it."""
        return self.noise is not None and abs(self.nats) < self.noise

    @property
    def percent(self) -> float:
        """The same as a change of perplexity in percent."""
        return _percent(self.nats)

    @property
    def percent_interval(self) -> tuple[float, float] | None:
        """The interval in percent of perplexity."""
        if self.nats_interval is None:
            return None
        return _percent(self.nats_interval[0]), _percent(self.nats_interval[1])

    @property
    def verdict(self) -> Literal["better", "worse", "no clear difference", "too few windows to tell"]:
        """Say in words what the p-value, at 5 %, and the noise allow to say about the contender."""
        if self.p_value is None:
            return "too few windows to tell"
        if self.p_value >= 1.0 - LEVEL or self.drowned:
            return "no clear difference"
        return "better" if self.nats < 0 else "worse"


class Sample(Value):
    """A greedy continuation: an illustration, not evidence."""

    text: str
    tokens: int
    tokens_per_second: float


def at_a_time(batch: int | None) -> str:
    """The end of a sentence on how windows were measured: how many at a time, where that is known."""
    return "" if batch is None else f", {batch} {'window' if batch == 1 else 'windows'} at a time"


def refuse_unless_batches_fit(doing: str, model: Any, windows: Tensor, kept: int = 0) -> None:
    """Raise ``OutOfMemoryError`` where a batch of the windows (N, T) does not fit beside the model, with the
    states of the stream at ``kept`` depths.
    """
    tokens = tokens_at_a_time(windows, model.device)
    shorter = passing_need(model, min(tokens, batch_tokens(model.device)), kept)
    refuse_unless_it_fits(doing, model, passing_need(model, tokens, kept), {"use shorter windows": shorter})


def check_windows(model: Any, windows: Tensor) -> None:
    """Raise ``TextError`` for windows longer than the model's context, ``ModelError`` for unknown tokens."""
    _check_vocabulary(model, windows)
    context = context_length(model.config)
    if context is not None and windows.shape[1] > context:
        raise TextError(
            f"Windows of {windows.shape[1]:,} tokens were asked for, but this model's context ends at "
            f"{context:,}: choose shorter windows."
        )


def _check_vocabulary(model: Any, tokens: Tensor) -> None:
    """Raise ``ModelError`` for tokens the model does not know, which on CUDA would end the whole process."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokens.numel() and int(tokens.max()) >= rows:
        raise ModelError(
            f"The tokenizer makes token {int(tokens.max()):,}, but the model knows {rows:,} tokens: "
            "open the model with its own tokenizer."
        )


@naming_weights
@inference_mode
def perplexity(
    model: Any,
    windows: Tensor,
    progress: Progress = no_progress,
    phase: str = "Evaluating",
    precision: Precision = "exact",
) -> Perplexity:
    """Evaluate ``model`` on ``windows`` (N, T) of token ids by the protocol above.

    Raises ``TextError`` for windows that do not fit, ``ModelError`` when the loss is not finite,
    ``OutOfMemoryError``, before the first batch where that can be told.
    """
    check_windows(model, windows)
    if windows.shape[1] < 2:
        raise TextError("Perplexity needs windows of at least 2 tokens.")
    refuse_unless_batches_fit("Evaluating", model, windows)
    device = model.device
    nll: list[float] = []
    ticks: list[tuple[float, int]] = []
    """The time when a batch was through, and the windows so far."""

    def judge(rows: slice, output: Any) -> None:
        nll.extend(_losses(model, windows[rows].to(device), output))
        synchronise(device)
        ticks.append((time.perf_counter(), rows.stop))

    precise = matmuls(precision, device, model.dtype)
    with PeakMemory(device) as peak, out_of_memory_told("evaluating"), precise:
        run = runner_of(model)
        ticks.append((time.perf_counter(), 0))
        pass_windows(model, windows, judge, progress=progress, phase=phase, run=run)
    (begun, _), (ended, count) = ticks[0], ticks[-1]
    warm, known = (begun, 0) if len(ticks) < 3 or comes_block_by_block(model) else ticks[1]
    mean = float(np.mean(nll))
    if not math.isfinite(mean):
        raise NotFiniteError("The loss is not finite: open the model in bfloat16 or float32.")
    return Perplexity(
        perplexity=perplexity_of(mean),
        nll=tuple(nll),
        window_length=windows.shape[1],
        tokens_per_second=(count - known) * windows.shape[1] / (ended - warm),
        seconds=ended - begun,
        peak_memory=peak.bytes,
        precision=precision,
        bos=bool((windows[:, 0] == _bos(model)).all()),
        batch=batch_size(windows, model.device),
    )


def _bos(model: Any) -> int:
    """The model's BOS token; -1, which no token is, where it has none."""
    bos = getattr(model.config.get_text_config(decoder=True), "bos_token_id", None)
    return bos if isinstance(bos, int) else -1


SAFE_NATS = 0.005
"""A window's loss may move by this much, half a percent of perplexity, before fast products are refused."""


@inference_mode
def safe_precision(source: ModelSource, windows: Tensor, *models: Any) -> Precision:
    """``fast`` where that is faster and moves the first window's loss by less than ``SAFE_NATS``.

    One answer for all ``models``, which are to be compared, and ``exact`` where a dtype was asked for.
    Measured rather than assumed: models differ in how large their activations grow.
    """
    if source.dtype != "auto":
        return "exact"
    for model in models:
        check_windows(model, windows)
        if model.dtype is not torch.float32 or not multiplies_bf16(model.device):
            return "exact"
        first = windows[:1].to(model.device)
        (exact,) = window_nll(model, first)
        with matmuls("fast", model.device, model.dtype):
            (fast,) = window_nll(model, first)
        if not abs(fast - exact) < SAFE_NATS:
            return "exact"
    return "fast"


def difference(baseline: str, base: Perplexity, contender: str, other: Perplexity) -> Difference:
    """Pair two evaluations of the same windows."""
    if (base.window_length, len(base.nll)) != (other.window_length, len(other.nll)):
        raise ValueError("Only evaluations of the same windows can be paired.")
    return paired(baseline, contender, np.asarray(other.nll) - np.asarray(base.nll))


def paired(baseline: str, contender: str, differences: np.ndarray) -> Difference:
    """Summarise the differences of every window's loss, contender less baseline, (N,)."""
    return Difference(
        baseline=baseline,
        contender=contender,
        nats=float(differences.mean()),
        nats_interval=mean_interval(differences),
        windows=differences.size,
        p_value=p_value(differences),
    )


def corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Correct the p-values of all differences of one study, each of which stood alone (Holm)."""
    tested = [each.p_value for each in differences if each.p_value is not None]
    values = iter(holm(tested))
    return tuple(
        each
        if each.p_value is None
        else each.model_copy(update={"p_value": next(values), "comparisons": len(tested)})
        for each in differences
    )


def begin(opened: OpenModel, prompt: str, new_tokens: int) -> tuple[Any, int]:
    """Give a prompt as the tokenizer's output, ids (1, T), and how many tokens may follow it.

    That is ``new_tokens``, or what is left of the model's context. Raises ``TextError`` for an empty prompt,
    for one that fills the context, and for fewer than one new token.
    """
    tokenizer: Any = opened.tokenizer
    with tokenizer_errors():
        encoded = tokenizer(prompt, return_tensors="pt")
    length = encoded.input_ids.shape[1]
    if not length:
        raise TextError("The prompt is empty: give at least one word.")
    if new_tokens < 1:
        raise TextError(f"{new_tokens} new tokens were asked for: ask for 1 or more.")
    _check_vocabulary(opened.model, encoded.input_ids)
    context = context_length(opened.model.config)
    if context is None:
        return encoded, new_tokens
    if length >= context:
        raise TextError(
            f"The prompt has {length:,} tokens, but this model's context ends at {context:,}: choose a "
            "shorter prompt."
        )
    return encoded, min(new_tokens, context - length)


@inference_mode
def continue_text(opened: OpenModel, prompt: str, new_tokens: int) -> Sample:
    """Continue ``prompt`` greedily, with the key-value cache, by at most ``new_tokens`` tokens."""
    model: Any = opened.model
    tokenizer: Any = opened.tokenizer
    encoded, new_tokens = begin(opened, prompt, new_tokens)
    encoded = encoded.to(model.device)
    start = time.perf_counter()
    with out_of_memory_told("generating"), quiet_transformers(), without_settings(model) as ends:
        output = model.generate(
            input_ids=encoded.input_ids,
            attention_mask=encoded.attention_mask,
            generation_config=transformers.GenerationConfig(
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=ends or tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id
                if tokenizer.pad_token_id is not None
                else tokenizer.eos_token_id,
            ),
        )
    synchronise(model.device)
    new = output[0, encoded.input_ids.shape[1] :]
    return Sample(
        text=tokenizer.decode(new, skip_special_tokens=True),
        tokens=len(new),
        tokens_per_second=len(new) / (time.perf_counter() - start),
    )


@contextmanager
def without_settings(model: Any) -> Iterator[list[int]]:
    """Have a model generate plainly, whatever its own settings say; yield the tokens that end its texts.

    Those of a stranger may ask for sampling or stop strings, or hold what ``generate`` cannot read.
    """
    parts = [each for each in model.modules() if hasattr(each, "generation_config")]
    kept = [each.generation_config for each in parts]
    said = getattr(kept[0], "eos_token_id", None) if kept else None
    named = said if isinstance(said, list | tuple) else [said]
    try:
        for each in parts:
            each.generation_config = transformers.GenerationConfig()
        yield [
            token
            for token in named
            if isinstance(token, int) and 0 <= token < model.config.get_text_config(decoder=True).vocab_size
        ]
    finally:
        for each, settings in zip(parts, kept, strict=True):
            each.generation_config = settings


def window_nll(model: Any, tokens: Tensor) -> list[float]:
    """Mean negative log-likelihood of each window in (B, T)."""
    return _losses(model, tokens, runner_of(model)(tokens, use_cache=False))


def _losses(model: Any, tokens: Tensor, output: Any) -> list[float]:
    """The mean loss of each window in (B, T), by what the decoder or the whole model made of them."""
    # The last token of a window has no successor: its row is computed with any target and dropped, since
    # leaving it out beforehand would copy all the others.
    targets = tokens.roll(-1, dims=1).flatten()
    losses = [
        _cross_entropy(rows, target.to(rows.device))
        for rows, target in zip(_logits(model, output), targets.split(ROWS), strict=True)
    ]
    return widen(torch.cat(losses).view(tokens.shape)[:, :-1], HOST).mean(dim=1).tolist()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of each token, (rows,), by logits (rows, V)."""
    some = _ROWS_ON_HOST if logits.device.type == HOST else len(logits)
    parts = zip(logits.split(some), targets.split(some), strict=True)
    return torch.cat([functional.cross_entropy(each.float(), one, reduction="none") for each, one in parts])


def _logits(model: Any, output: Any) -> Iterator[Tensor]:
    """The logits of all tokens in order, ``ROWS`` rows (rows, V) at a time."""
    if "logits" in output:
        yield from output.logits.flatten(0, 1).split(ROWS)
        return
    with head_alone(model, output) as head:
        for part in output.last_hidden_state.flatten(0, 1).split(ROWS):
            yield head(part.unsqueeze(0)).squeeze(0)


def runner_of(model: Any) -> Any:
    """Tell what is run for logits: the decoder, where the head can take its states some at a time; else the
    whole model.
    """
    return decoder(model) if _has_a_head_of_its_own(model) else model


_SEPARABLE: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _has_a_head_of_its_own(model: Any) -> bool:
    """Whether the logits are those of the head on the decoder's states; found out on two tokens, once."""
    if model not in _SEPARABLE:
        probe = torch.zeros((1, 2), dtype=torch.long, device=model.device)
        seen: list[Any] = []
        watch = decoder(model).register_forward_hook(lambda module, given, output: seen.append(output))
        try:
            expected = model(probe, use_cache=False).logits
        finally:
            watch.remove()
        try:
            (output,) = seen
            with head_alone(model, output) as head:
                found = head(output.last_hidden_state)
            _SEPARABLE[model] = found.shape == expected.shape and bool(torch.allclose(found, expected))
        except (AttributeError, TypeError, ValueError, RuntimeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            _SEPARABLE[model] = False  # some models make their logits in another way
    return _SEPARABLE[model]


def perplexity_of(nats: float) -> float:
    """Give exp of a loss, or of a difference between losses, in nats per token."""
    # A broken model may be so bad that exp overflows; the largest float still says so.
    return math.exp(min(nats, 700.0))


def _percent(nats: float) -> float:
    return 100.0 * math.expm1(min(nats, 700.0))
