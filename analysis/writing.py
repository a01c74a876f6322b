"""Models that write: a prompt continued token by token with the probability of each, and where two part.

What one prompt shows is an illustration, not evidence. Knows nothing about how a model was made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, model_validator

from analysis.device import HOST, out_of_memory_told
from analysis.errors import ModelError, NotFiniteError, TextError
from analysis.evaluate import begin, without_settings
from analysis.late import torch, transformers
from analysis.numbers import Seed
from analysis.sources.model import quiet_transformers
from analysis.sources.opening import OpenModel
from analysis.sources.tokens import tokenizer_errors
from analysis.values import Value

if TYPE_CHECKING:
    from torch import Tensor

LIKELIEST = 5
"""So many of the likeliest tokens are told at every place."""
ROWS = 64
"""Places whose probabilities are worked out at a time when a text is read."""
TAIL = 32
"""Tokens before a place that are looked at to tell what its token adds to the text."""
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for a part of a character."""
Who = Literal["dense", "smaller", "read"]
"""Who says a place: the dense model, the smaller one, or the smaller one about the dense model's text."""


class Prompt(Value):
    """Say what is to be continued, and how the next token is chosen."""

    prompt: str
    new_tokens: int = Field(default=60, ge=1)
    """At most: an end token, or the end of the context, ends the text."""
    temperature: float = Field(default=0.0, ge=0.0, le=10.0)
    """0 takes the likeliest token; above that tokens are drawn, by logits divided by this."""
    seed: Seed = 0
    """Of the draw."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.prompt.strip():
            raise TextError("The prompt is empty: give at least one word.")
        return self


class Option(Value):
    """A token that could stand at a place."""

    token: int
    piece: str
    probability: float
    """By the model's own distribution, which is that of temperature 1."""


class Place(Value):
    """A place of a text: the token that stands there, and what the model says to it."""

    token: int
    piece: str
    """What the token adds to the text; empty within a character of several tokens."""
    probability: float
    """Of the token, by the model's own distribution, which is that of temperature 1."""
    likeliest: tuple[Option, ...]
    """The likeliest tokens, the first the one that the model would have taken."""
    ends: bool = False
    """Whether the token ends the text."""

    @property
    def taken(self) -> bool:
        """Tell whether the token is the likeliest one."""
        return self.likeliest[0].token == self.token


class Said(NamedTuple):
    """One place, as it comes."""

    who: Who
    place: Place


def write(opened: OpenModel, prompt: Prompt) -> Generator[Place]:
    """Continue a prompt, one token at a time, with the key-value cache.

    Above temperature 0 the token is the largest of logit / temperature + Gumbel noise, which draws from the
    model's distribution. The noise of a place follows from the seed and the place alone, so that two models
    with one seed part only where they differ (Maddison et al., A* Sampling, NeurIPS 2014, section 2).
    Raises ``TextError`` for a prompt that cannot be continued, ``NotFiniteError`` for a broken model.
    """
    with quiet_transformers(), closing(_places(opened, prompt)) as places:
        yield from places


def write_beside(dense: OpenModel, smaller: OpenModel | None, prompt: Prompt) -> Generator[Said]:
    """Have the dense and the smaller model continue a prompt in turn, token by token.

    At the end the smaller one reads what the dense one wrote (``read``). Without a smaller one the dense one
    writes alone. Raises what ``write`` does, and ``ModelError`` where the two cut text into other tokens.
    """
    if smaller:
        require_same_tokens(dense, smaller, prompt.prompt)
    ids: list[int] = []
    with quiet_transformers(), ExitStack() as open_texts:
        texts: dict[Who, Iterator[Place]] = {}
        texts["dense"] = open_texts.enter_context(closing(_places(dense, prompt)))
        if smaller:
            texts["smaller"] = open_texts.enter_context(closing(_places(smaller, prompt)))
        while texts:
            for who, text in list(texts.items()):
                place = next(text, None)
                if place is None:
                    del texts[who]
                    continue
                if who == "dense":
                    ids.append(place.token)
                yield Said(who, place)
    if smaller:
        for place in read(smaller, prompt.prompt, ids):
            yield Said("read", place)


def read(opened: OpenModel, prompt: str, ids: Sequence[int]) -> list[Place]:
    """Tell what a model says at each place of a text that follows a prompt: teacher forcing, in one pass.

    ``ids`` are the tokens behind the prompt's; the answer has as many places. What does not fit the model's
    context is left out. Raises what ``write`` does.
    """
    model: Any = opened.model
    encoded, room = begin(opened, prompt, max(len(ids), 1))
    ids = list(ids)[:room]
    if not ids:
        return []
    start = encoded.input_ids.shape[1]
    own = torch.tensor([ids], dtype=encoded.input_ids.dtype)
    tokens = torch.cat([encoded.input_ids, own], dim=1).to(model.device)
    pieces, ends = _Pieces(opened.tokenizer, encoded.input_ids[0].tolist()), _ends(opened)
    found: list[Place] = []
    with torch.inference_mode(), out_of_memory_told("reading"), quiet_transformers():
        logits = model(tokens, use_cache=False).logits[0, start - 1 : -1]
        for rows in logits.split(ROWS):
            for row in rows:
                found.append(_place(row, ids[len(found)], pieces, ends))
    return found


def first_parting(one: Sequence[Place], other: Sequence[Place]) -> int | None:
    """Give the first place where two texts have different tokens; ``None`` as far as both go alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (mine, theirs) in pairs if mine.token != theirs.token), None)


def require_same_tokens(dense: OpenModel, smaller: OpenModel, prompt: str) -> None:
    """Raise ``ModelError`` for two models that do not cut text into the same tokens."""
    with tokenizer_errors():
        cut = [list(each.tokenizer(prompt)["input_ids"]) for each in (dense, smaller)]
    words = [each.model.config.get_text_config(decoder=True).vocab_size for each in (dense, smaller)]
    if cut[0] != cut[1] or words[0] != words[1]:
        raise ModelError(
            f"The two models cut text into other tokens (vocabularies of {words[0]:,} and {words[1]:,}), so "
            "their texts cannot be compared token by token: choose a model that was made from the other."
        )


# How a model writes


def _places(opened: OpenModel, prompt: Prompt) -> Generator[Place]:
    """The places of a text, each as soon as it is there."""
    model: Any = opened.model
    encoded, new_tokens = begin(opened, prompt.prompt, prompt.new_tokens)
    pieces = _Pieces(opened.tokenizer, encoded.input_ids[0].tolist())
    encoded = encoded.to(model.device)

    def work(hand_over: Callable[[Place], None]) -> None:
        with torch.inference_mode(), without_settings(model) as named:
            ends = named or _ends(opened)

            def choose(_: Tensor, scores: Tensor) -> Tensor:
                place = len(pieces.new)
                token = _chosen(scores[0], prompt, place)
                hand_over(_place(scores[0], token, pieces, ends))
                forced = torch.full_like(scores, float("-inf"))
                forced[:, token] = 0.0
                return forced

            model.generate(
                input_ids=encoded.input_ids,
                attention_mask=encoded.attention_mask,
                logits_processor=transformers.LogitsProcessorList([_Chooser(choose)]),
                generation_config=transformers.GenerationConfig(
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    eos_token_id=ends or None,
                    pad_token_id=ends[0] if ends else None,
                ),
            )

    with out_of_memory_told("generating"):
        yield from _HandedOver(work)


class _Chooser:
    """A processor of logits that leaves one token to choose."""

    def __init__(self, choose: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._choose = choose

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Give the scores (1, V) with all but the chosen token at minus infinity."""
        return self._choose(input_ids, scores)


def _chosen(logits: Tensor, prompt: Prompt, place: int) -> int:
    """The token (V,) that comes next."""
    if prompt.temperature == 0.0:
        return int(logits.argmax())
    # On the host, where the same seed draws the same whatever the device.
    generator = torch.Generator().manual_seed((prompt.seed * 1_000_003 + place) % 2**63)
    least = torch.finfo(torch.float32).tiny  # whose logarithm is still a number
    exponential = -torch.log(torch.rand(logits.shape, generator=generator).clamp_min(least))
    noise = -torch.log(exponential.clamp_min(least))
    return int((logits.float().to(HOST) / prompt.temperature + noise).argmax())


def _place(logits: Tensor, token: int, pieces: _Pieces, ends: Sequence[int]) -> Place:
    """Describe a place by its logits (V,) and the token that stands there."""
    shares = logits.float().softmax(dim=-1)
    if not bool(torch.isfinite(shares).all()):
        raise NotFiniteError(
            "The model's probabilities are no numbers: look at its weights with 'slicescope evaluate', or "
            "open it in another dtype."
        )
    best = shares.topk(min(LIKELIEST, shares.numel()))
    likeliest = tuple(
        Option(token=each, piece=pieces.alone(each), probability=share)
        for each, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return Place(
        token=token,
        piece=pieces.add(token),
        probability=float(shares[token]),
        likeliest=likeliest,
        ends=token in ends,
    )


def _ends(opened: OpenModel) -> list[int]:
    """The tokens that end a text, by the model's settings, or else by its tokenizer."""
    with without_settings(opened.model) as named:
        if named:
            return list(named)
    tokenizer: Any = opened.tokenizer
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


class _Pieces:
    """What each token adds to a text. A token alone may be part of a character, or lose its space."""

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt[-TAIL:]
        self.new: list[int] = []

    def _text(self, *more: int) -> str:
        tail = [*self._prompt, *self.new[-TAIL:]][-TAIL:]
        text = self._tokenizer.decode([*tail, *more], clean_up_tokenization_spaces=False)
        return text.rstrip(INCOMPLETE)

    def alone(self, token: int) -> str:
        """What a token would add."""
        before, after = self._text(), self._text(token)
        return after[len(before) :] if after.startswith(before) else self._tokenizer.decode([token])

    def add(self, token: int) -> str:
        """What a token adds, which is added."""
        piece = self.alone(token)
        self.new.append(token)
        return piece


# A call that hands over, as an iterator


T = TypeVar("T")


class _Left(BaseException):
    """Nobody takes what the work hands over any more."""


class _HandedOver(Generic[T]):
    """What ``work`` hands over, one at a time, from a thread that stands still in between.

    ``generate`` calls back and gives nothing until it is done; two of them cannot take turns otherwise. Only
    one side runs at any time. Whoever stops iterating closes it, and the work ends at its next place.
    """

    def __init__(self, work: Callable[[Callable[[T], None]], None]) -> None:
        self._work = work

    def __iter__(self) -> Iterator[T]:
        """Run the work as far as each of its results."""
        asked, answered = threading.Semaphore(0), threading.Semaphore(0)
        box: list[T] = []
        failed: list[BaseException] = []
        left = False

        def hand_over(found: T) -> None:
            box.append(found)
            answered.release()
            asked.acquire()
            if left:
                raise _Left

        def run() -> None:
            asked.acquire()
            try:
                if not left:
                    self._work(hand_over)
            except _Left:
                pass
            except BaseException as error:
                failed.append(error)
            answered.release()

        thread = threading.Thread(target=run, name="slicescope-writer", daemon=True)
        thread.start()
        try:
            while True:
                asked.release()
                answered.acquire()
                if not box:
                    break
                yield box.pop()
            if failed:
                raise failed[0]
        finally:
            left = True
            asked.release()
            thread.join()
