"""Say where the parts of a model lie that is larger than one card: on several, on the host, on disk.

The ends of a model (embedding, final norm, head) lie on the first card and its blocks follow in their order,
so that the stream passes every card once. All follows from shapes and from what is free; nothing is moved.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.anatomy import block_path
from analysis.device import HOST, Place, batch_tokens, memory_of, pick_place, total_memory
from analysis.errors import ModelError, OutOfMemoryError
from analysis.late import accelerate, torch
from analysis.needs import FP32, engine_room
from analysis.storage import cache_folder, clear_abandoned, owned, storage_errors

DISK = "disk"
"""What accelerate calls a folder of weights."""
_OF_HOST = 0.75
"""The share of the host's free memory that weights may take: a smaller model that is made rests there too."""
_STREAM = 262_144
"""So many tokens of the stream have room on a card beside weights, or a third of the card. Weights cross to
the card once in a pass, and states that find no room there cross twice for every sub-layer."""

Layout = dict[str, str]
"""The device of every part of a model, by the part's name: what accelerate calls a ``device_map``."""


class Parts(NamedTuple):
    """The parts of a model that are placed, each with the bytes of its weights."""

    ends: dict[str, int]
    """Everything that is in no block."""
    blocks: dict[str, int]

    @property
    def bytes(self) -> int:
        """All of them."""
        return sum(self.ends.values()) + sum(self.blocks.values())


def parts_of(model: Any, itemsize: int) -> Parts:
    """Name the parts of a model whose numbers take ``itemsize`` bytes; a tied table counts once.

    Raises ``ModelError`` for a family whose blocks are no list.
    """
    path, counted = block_path(model), set()

    def size(owner: Any) -> int:
        own = {id(each): each.numel() for each in owner.parameters() if id(each) not in counted}
        counted.update(own)
        return sum(own.values()) * itemsize

    ends: dict[str, int] = {}
    holder, prefix = model, ""
    for step in path.split("."):
        ends |= {prefix + name: size(child) for name, child in holder.named_children() if name != step}
        bare = holder.named_parameters(recurse=False)
        ends |= {prefix + name: each.numel() * itemsize for name, each in bare}
        holder, prefix = getattr(holder, step), f"{prefix}{step}."
    return Parts(ends, {f"{path}.{place}": size(block) for place, block in enumerate(holder)})


def where_to_put(label: str, device: str, model: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Give the options of ``from_pretrained`` that say where the weights go, by the name of a device.

    ``model`` has the shapes alone. Raises what ``pick_place`` and ``lay_out`` raise.
    """
    place = pick_place(device)
    first = torch.device(place.devices[0])
    if first.type == HOST:
        return {"device_map": None}
    layout = lay_out(label, model, place, dtype.itemsize)
    if layout is None:
        return {"device_map": first}
    if DISK not in layout.values():
        return {"device_map": layout}
    home = cache_folder()
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        clear_abandoned(home)
        return {"device_map": layout, "offload_folder": tempfile.mkdtemp(prefix=owned("weights"), dir=home)}


def clear_with(model: Any, options: Mapping[str, Any]) -> None:
    """Have the folder of weights, where ``where_to_put`` made one, removed together with the model."""
    if folder := options.get("offload_folder"):
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)


def dispatch(model: Any, layout: Layout) -> None:
    """Let a model run that lies on several devices: what rests on the host visits the first card."""
    logger = logging.getLogger("accelerate")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it tells that weights rest elsewhere, which was asked for
    try:
        accelerate.dispatch_model(model, dict(layout), force_hooks=True)
    finally:
        logger.setLevel(level)


def lay_out(label: str, model: Any, place: Place, itemsize: int) -> Layout | None:
    """Say where the parts of a model, which may be without weights, go; ``None`` for all on the first device.

    ``auto`` takes one card where the model fits beside what the engine works with, else all cards, else all
    cards and the host. Where the host is named beside one card, all blocks rest on it if the model takes more
    than a quarter of the card, which is free for the work then. Raises ``OutOfMemoryError`` where the devices
    that were named do not hold it.
    """
    first = torch.device(place.devices[0])
    if first.type != "cuda" or (place.chosen and not place.several):
        return None
    try:
        parts = parts_of(model, itemsize)
    except ModelError:
        if place.chosen:
            raise
        return None
    cards = place.devices if place.chosen else [f"cuda:{at}" for at in range(torch.cuda.device_count())]
    cards = [f"{each}:0" if each == "cuda" else each for each in cards]
    room = {card: _room(model, card, itemsize) for card in cards}
    rests = place.chosen and place.host and len(cards) == 1
    whole = min(room[cards[0]], _memory(cards[0]) // 4) if rests else room[cards[0]]
    if (not place.chosen or place.host) and parts.bytes <= whole:
        return None
    placed = None if rests else _over(parts, room)
    if placed is None and (place.host or not place.chosen):
        ends = sum(parts.ends.values())
        stream = _STREAM * model.get_input_embeddings().weight.shape[1] * FP32
        left = {
            card: min(size, ends if rests else max(ends, size - min(stream, _memory(card) // 3)))
            for card, size in room.items()
        }
        placed = _over(parts, left, int(_OF_HOST * memory_of(HOST)[0]))
    if placed is None:
        told = ", ".join(f"{size / 1e9:.2f} GB on {card}" for card, size in room.items())
        lever = "" if place.host else f"open it with the host beside the cards (device {place.name}+cpu), or "
        raise OutOfMemoryError(
            f"The model '{label}' does not fit on '{place.name}': its weights take "
            f"{parts.bytes / 1e9:.2f} GB, "
            f"and beside what work on it takes there is room for {told}: {lever}choose a smaller model."
        )
    return placed


def _memory(card: str) -> int:
    return total_memory(torch.device(card))


def _room(model: Any, card: str, itemsize: int) -> int:
    """Bytes of weights that a card has room for, beside what the engine works with."""
    device = torch.device(card)
    return max(0, memory_of(device)[0] - engine_room(model, itemsize, batch_tokens(device)))


def _over(parts: Parts, room: Mapping[str, int], host: int | None = None) -> Layout | None:
    """Share the parts out over cards; ``None`` where they do not fit. Given the bytes of a ``host``, what is
    left rests there, and beyond that on disk.
    """
    first, *_ = room
    ends = sum(parts.ends.values())
    if ends > room[first]:
        return None
    sizes = list(parts.blocks.values())
    where = None if host is not None else _evenly(sizes, ends, room)
    where = where or _in_turn(sizes, ends, room)
    if len(where) < len(sizes):
        if host is None:
            return None
        for size in sizes[len(where) :]:
            where.append(HOST if size <= host else DISK)
            host -= size if where[-1] == HOST else 0
    return dict.fromkeys(parts.ends, first) | dict(zip(parts.blocks, where, strict=True))


def _evenly(sizes: Sequence[int], ends: int, room: Mapping[str, int]) -> list[str] | None:
    """Fill every card by the same share of its room, as each works too; ``None`` where one has too little."""
    share = (ends + sum(sizes)) / max(1, sum(room.values()))
    cards, bounds, bound = list(room), [], 0.0
    for each in room.values():
        bound += share * each
        bounds.append(bound)
    where: list[str] = []
    used = dict.fromkeys(cards, 0) | {cards[0]: ends}
    begun = ends
    for size in sizes:
        middle = begun + size / 2
        card = next((card for card, bound in zip(cards, bounds, strict=True) if middle <= bound), cards[-1])
        used[card] += size
        where.append(card)
        begun += size
    return where if all(used[card] <= room[card] for card in cards) else None


def _in_turn(sizes: Sequence[int], ends: int, room: Mapping[str, int]) -> list[str]:
    """Fill one card after the other; what finds no room is left out."""
    where: list[str] = []
    left = dict(room)
    cards = list(room)
    left[cards[0]] -= ends
    for size in sizes:
        while cards and left[cards[0]] < size:
            cards.pop(0)
        if not cards:
            break
        left[cards[0]] -= size
        where.append(cards[0])
    return where
