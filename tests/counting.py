"""Count what jobs take of cards with a model of any size: FLOPs by dtype, bytes, copies, waits and memory.

Nothing is computed (``meta_cards.py``). Blocks of one shape cost the same, and batches too, so that a few of
them say what all take; ``test_counting.py`` shows that this is exact.

``python tests/counting.py`` prints a table for every model, or for those that are named. With
``--resting`` it prints that of a model on a card that is smaller, which takes a quarter of an hour.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

import psutil
import torch
import transformers
from meta_cards import CARDS, WINDOW, Counting, Numbers, counted, fp64_share, seconds

from analysis import evaluate
from analysis.anatomy import decoder
from analysis.bases import find_bases
from analysis.batches import batches_of
from analysis.details import DetailsCollector
from analysis.device import place_of
from analysis.evaluate import perplexity
from analysis.profile import profile_blocks
from analysis.spread import dispatch, lay_out, parts_of
from slicing.budget import Budget
from slicing.guard import refuse_unless_invariant
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model
from slicing.steps.base import Made
from slicing.studies.recipe import Recipe
from slicing.view import ModelView


@dataclass(frozen=True)
class Model:
    """The shape of a model."""

    width: int
    inner: int
    blocks: int
    vocabulary: int
    heads: int
    key_value_heads: int = 8

    def on(self, blocks: int) -> Any:
        """Make it with so many blocks in bfloat16, on the device of the context."""
        config = transformers.LlamaConfig(
            hidden_size=self.width,
            intermediate_size=self.inner,
            vocab_size=self.vocabulary,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            num_hidden_layers=blocks,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
        )
        model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        return model.eval().requires_grad_(False)

    def made(self, counting: Counting, blocks: int, cards: int = 1) -> Any:
        """Make it with so many blocks, without numbers, shared out over the cards."""
        with torch.device("meta"):
            model = self.on(blocks)
        if cards == 1:
            return counting.put(model, "cuda:0")
        parts = parts_of(model, 2)
        layout = dict.fromkeys(parts.ends, "cuda:0")
        layout |= {name: f"cuda:{place * cards // blocks}" for place, name in enumerate(parts.blocks)}
        for name, card in layout.items():
            counting.put(model.get_submodule(name), card)
        dispatch(model, layout)
        return model

    def resting(self, counting: Counting) -> Any:
        """Make it whole, with as many blocks on the card as the engine puts there, and the others on the
        host.
        """
        with torch.device("meta"):
            model = self.on(self.blocks)
        layout = lay_out("it", model, place_of("cuda+cpu"), 2)
        if layout is None:
            return counting.put(model, "cuda:0")
        for name, where in layout.items():
            counting.put(model.get_submodule(name), where)
        dispatch(model, layout)
        return model


MODELS = {
    "Llama-3-8B": Model(4096, 14336, 32, 128256, 32),
    "Mistral-7B": Model(4096, 14336, 32, 32000, 32),
    "Llama-3-70B": Model(8192, 28672, 80, 128256, 64),
}
WINDOWS = 128


def schedule_for(model: Any, span: int = 0) -> SlicingSchedule:
    width, count = model.config.hidden_size, model.config.num_hidden_layers
    return SlicingSchedule(
        hidden_size=width, widths=(width * 3 // 4,) * count + (width,), embedding="untied", span=span
    )


@torch.inference_mode()
def _forward(model: Any, windows: torch.Tensor) -> None:
    for batch in batches_of(windows, model.device):
        decoder(model)(batch.to(model.device), use_cache=False)


def _profile(model: Any, windows: torch.Tensor) -> None:
    profile_blocks(
        model, windows, model_label="", text_label="", details=DetailsCollector(model, windows, cloud=True)
    )


def _previews(model: Any, windows: torch.Tensor) -> None:
    recut(model, schedule_for(model), find_bases(model, windows))


def _step(line: str, model: Any, windows: torch.Tensor) -> None:
    step = Recipe.parse(line).steps[-1]
    text = torch.ones(8 + len(windows), windows.shape[1], dtype=torch.long)
    view = ModelView(model, windows, healing_windows=lambda: text)
    step.apply(view, step.decide(view, Budget.parse("parameters=0.25"), Made(model)), Made(model))


JOBS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "forward": _forward,
    "profile": _profile,
    "evaluation": perplexity,
    "bases": find_bases,
    "bases and a preview": _previews,
    "slicing": lambda model, windows: slice_model(model, schedule_for(model), windows),
    "slicing, three blocks a basis": lambda model, windows: slice_model(
        model, schedule_for(model, 3), windows
    ),
    "slicing with repair": lambda model, windows: slice_model(
        model, schedule_for(model), windows, repair=True
    ),
    "a step of healing": lambda model, windows: _step("sleb | finetune(tokens=1)", model, windows),
    "mixed pruning": lambda model, windows: _step("mixed", model, windows),
}


def count(
    shape: Model,
    job: str,
    blocks: int,
    windows: int,
    cards: int = 1,
    memory: float = 80e9,
    kind: str = "RTX 4090",
) -> Numbers:
    """Count a job with so many blocks and calibration windows, as it runs on cards of a kind."""
    with counted(cards, memory) as counting:
        counting.capability = CARDS[kind].capability
        model = shape.made(counting, blocks, cards)
        refuse_unless_invariant(model)
        counting.begin()
        JOBS[job](model, torch.ones(windows, WINDOW, dtype=torch.long))
        return counting.done()


def count_whole(
    shape: Model,
    job: str,
    cards: int = 1,
    windows: int = WINDOWS,
    span: int = 1,
    counted_windows: tuple[int, int] = (16, 24),
    kind: str = "RTX 4090",
) -> Numbers:
    """Count a job with a whole model: what a few blocks and windows take says what all take.

    Every block costs the same, and so does every batch, so that all numbers are linear in both. ``span``:
    blocks that are added at a time. The peak needs ``counted_windows`` of two batches and more.
    """
    few, more = (2 * cards * span, 3 * cards * span)
    one, two = counted_windows
    found = {(b, n): count(shape, job, b, n, cards, 10**13, kind) for b in (few, more) for n in (one, two)}
    far, long = (shape.blocks - few) / (more - few), (windows - one) / (two - one)
    weights = {
        (few, one): (1 - far) * (1 - long),
        (few, two): (1 - far) * long,
        (more, one): far * (1 - long),
        (more, two): far * long,
    }
    names = set().union(*found.values())
    return defaultdict(
        float, {name: sum(found[at][name] * weight for at, weight in weights.items()) for name in names}
    )


def count_resting(shape: Model, job: str, memory: float, windows: int, host: float = 48e9) -> Numbers:
    """Count a job with a whole model on one card of so much memory, and on a host with so much that is free.

    Nothing is left out, so that what does not fit shows.
    """
    free = SimpleNamespace(available=int(host), total=int(host))
    with counted(1, memory) as counting, patch.object(psutil, "virtual_memory", lambda: free):
        model = shape.resting(counting)
        refuse_unless_invariant(model)
        evaluate._SEPARABLE[model] = True  # logits without numbers cannot be compared
        counting.begin()
        JOBS[job](model, torch.ones(windows, WINDOW, dtype=torch.long))
        return counting.done()


def table(name: str, jobs: Collection[str]) -> Iterator[str]:
    """Write the rows of one model: seconds of jobs over those of a forward pass, and what was counted."""
    shape = MODELS[name]
    forward = count_whole(shape, "forward")
    yield f"{name}, {WINDOWS} windows of {WINDOW:,} tokens, bfloat16, one card"
    yield "| job | " + " | ".join(CARDS) + " | fp64 | bytes | waits | host copies | peak |"
    yield "|---|" + "---|" * (len(CARDS) + 5)
    for job in jobs:
        span = 3 if "three" in job else 1
        by_card = dict.fromkeys(CARDS, forward)
        if job != "forward":
            # Cards for data centres multiply alike, and others alike.
            consumer, centre = (
                count_whole(shape, job, span=span, kind=each) for each in ("RTX 4090", "H100")
            )
            by_card = {card: consumer if card == "RTX 4090" else centre for card in CARDS}
        found = by_card["H100"]
        times = [seconds(own, card) for card, own in by_card.items()]
        ratios = [
            f"{own:.0f} s" if job == "forward" else f"{own / seconds(forward, card):.2f}x"
            for own, card in zip(times, CARDS, strict=True)
        ]
        across = found["copies cpu cuda"] + found["copies cuda cpu"]
        cells = [
            *ratios,
            f"{fp64_share(found):.1%}",
            f"{found['bytes'] / 1e12:.1f} TB",
            f"{found['waits']:,.0f}",
            f"{across / 1e9:.2f} GB",
            f"{found['peak cuda:0'] / 1e9:.1f} GB",
        ]
        yield f"| {job} | " + " | ".join(cells) + " |"


def spread_table(name: str) -> Iterator[str]:
    """Write what slicing takes of several cards."""
    yield f"{name}, slicing on several cards: peak of each, and what passes from one to the next"
    for cards in (1, 2, 4):
        found = count_whole(MODELS[name], "slicing", cards)
        peaks = ", ".join(f"{found[f'peak cuda:{card}'] / 1e9:.1f} GB" for card in range(cards))
        yield f"| {cards} | {peaks} | {found['copies cuda cuda'] / 1e9:.1f} GB |"


def resting_table(name: str, memory: float, windows: int = WINDOWS) -> Iterator[str]:
    """Write what jobs take of a card that is smaller than the model.

    Their time is that of the card, and of all that passes to and fro, over a forward pass with all weights on
    the card.
    """
    shape, card = MODELS[name], "RTX 4090"
    forward = seconds(count_whole(shape, "forward", windows=windows), card)
    yield f"{name}, {windows} windows of {WINDOW:,} tokens, {memory / 1e9:.0f} GB of an {card}, and the host"
    yield "| job | time | host copies | peak of the card | of the host |"
    yield "|---|---|---|---|---|"
    for job in ("profile", "evaluation", "slicing"):
        found = count_resting(shape, job, memory, windows)
        across = found["copies cpu cuda"] + found["copies cuda cpu"]
        peaks = " | ".join(f"{found[f'peak {each}'] / 1e9:.1f} GB" for each in ("cuda:0", "cpu"))
        yield f"| {job} | {seconds(found, card) / forward:.2f}x | {across / 1e9:.0f} GB | {peaks} |"


def main() -> None:
    """Print the tables of the models that are named, by default of all; of jobs on a small card, if asked."""
    if "--resting" in sys.argv:
        for memory in (12e9, 24e9):
            for line in itertools.chain(resting_table("Llama-3-8B", memory), [""]):
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
        return
    names = [each for each in sys.argv[1:] if each in MODELS] or list(MODELS)
    jobs = [job for job in JOBS if job != "mixed pruning" or "--all" in sys.argv]
    for name in names:
        for line in (*table(name, jobs), "", *spread_table(name), ""):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
