"""Tell what a piece of work takes in memory before it begins, and refuse what does not fit.

Sizes follow from shapes alone: nothing is measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.anatomy import why_not_sliceable
from analysis.device import HOST, memory_of
from analysis.errors import OutOfMemoryError, UnsupportedError
from analysis.read_shape import read_shape
from analysis.shape import SublayerShape
from analysis.values import Value

if TYPE_CHECKING:
    import torch

FP32, FP64 = 4, 8
"""Bytes."""
_BLOCK = re.compile(r"(?:[^.\d][^.]*\.)+\d+\.")
"""The beginning of a parameter's name: the list of blocks and the place in it."""
ROWS = 256
"""Tokens whose logits are turned to fp32 at a time: (rows, V) in fp32 is 50 MB at V = 50,000."""


class MemoryNeed(Value):
    """Bytes at the peak of a piece of work."""

    dense: int
    """The weights of the model that is open; they are there before."""
    sliced: int = 0
    """The weights that are made anew; what is left alone is shared with the open model."""
    bases: int = 0
    """The bases of the stream at all sites."""
    measured: int = 0
    """Bytes of what a method measures of all blocks before it decides; they lie on the host."""
    working: int
    """One sub-layer with its products, its eigenproblem and one batch passing through it."""
    activations: int = 0
    """The calibration stream, which goes to disk where it does not fit."""
    resting: int = 0
    """So many of these bytes rest in the host's memory where a card has no room for them."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.dense + self.sliced + self.bases + self.measured + self.working + self.activations

    @property
    def least(self) -> int:
        """With every activation on disk."""
        return self.total - self.activations

    def in_dtype(self, itemsize: int, now: int) -> MemoryNeed:
        """Tell the need with weights of ``itemsize`` bytes each, where they have ``now`` bytes."""
        dense, sliced = (size * itemsize // now for size in (self.dense, self.sliced))
        resting = self.resting - min(self.resting, self.sliced - sliced)
        return self.model_copy(update={"dense": dense, "sliced": sliced, "resting": resting})

    def __str__(self) -> str:
        parts = {
            "dense weights": self.dense,
            "new weights": self.sliced,
            "bases": self.bases,
            "measurements": self.measured,
            "working set": self.working,
            "activations": self.activations,
        }
        listed = " + ".join(f"{size / 1e9:.2f} {name}" for name, size in parts.items() if size)
        return f"about {self.total / 1e9:.2f} GB = {listed}"


def fits(model: Any, need: MemoryNeed) -> bool:
    """Tell whether work fits beside the weights of the open model, every activation on disk.

    What torch keeps for its next tensors counts as free. Beside a card the host holds what may rest there.
    Of a model that accelerate spreads, the working set has to fit on each of its cards.
    """
    if model.device.type == "meta":
        return True
    if is_spread(model):
        cards = {each for each in model.hf_device_map.values() if each not in (HOST, "disk")}
        return all(need.working <= memory_of(each)[0] for each in cards)
    return _beyond(need, model.device, need.dense) == 0


def _beyond(need: MemoryNeed, device: torch.device, held: int) -> int:
    """Bytes that there is no room for on a device that has ``held`` of them already."""
    over = max(0, need.least - memory_of(device)[0] - held)
    if device.type != "cuda":
        return over
    return over - min(over, need.resting, memory_of(HOST)[0])


def refuse_unless_it_fits(
    doing: str, model: Any, need: MemoryNeed, instead: Mapping[str, MemoryNeed] | None = None
) -> None:
    """Raise ``OutOfMemoryError`` where work takes more than is free beside the weights of the open model.

    Of the levers those are named that help: ``instead`` says what one may do, each with what it would take.
    """
    if fits(model, need):
        return
    device = model.device
    free, total = memory_of(device)
    size = model.dtype.itemsize
    levers = [lever for lever, each in (instead or {}).items() if not _beyond(each, device, need.dense)]
    if size > 2 and not _beyond(need.in_dtype(2, size), device, need.dense):
        levers.append("open the model in a 16-bit dtype (dtype bfloat16)")
    apart = need.model_copy(update={"resting": need.resting + need.dense})
    if device.type == "cuda" and not is_spread(model) and not _beyond(apart, device, need.dense):
        levers.append("let weights rest on the host (device cuda+cpu)")
    if device.type != "cpu" and need.in_dtype(FP32, size).least <= memory_of(HOST)[0]:
        levers.append("use the CPU (device cpu)")
    if need.least <= total:
        levers.append("close other programs that hold its memory")
    raise OutOfMemoryError(
        f"{doing} does not fit on {device}: it takes {need}, and beside the dense weights "
        f"{free / 1e9:.2f} of {total / 1e9:.2f} GB are free. To go on, "
        f"{', or '.join([*levers, 'choose a smaller model'])}."
    )


def is_spread(model: Any) -> bool:
    """Tell whether accelerate has put parts of the model on several devices."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def refuse_spread(model: Any, why: str) -> None:
    """Raise ``UnsupportedError`` for a model that accelerate spreads; ``why`` says what needs it whole."""
    if is_spread(model):
        raise UnsupportedError(
            f"{why}, and this one is spread over several: open it on one device that holds it, such as "
            "cuda:0 or cpu."
        )


def passing_numbers(sublayer: SublayerShape, width: int) -> int:
    """Numbers of one token that are there at once while it passes through a sub-layer, in a stream of
    ``width``.

    Attention that takes its products without the whole table of scores is assumed.
    """
    rows, columns = sublayer.busy_reader_rows, sublayer.busy_writer_columns
    if sublayer.kind == "attention":
        # Queries, keys and values, and three tensors more while one of the first two is turned by its
        # positions; where that is the keys, the turned queries are there already.
        keys = max(0, rows - columns) // 2
        inside = rows + columns + max(2 * columns, 3 * keys)
    elif sublayer.kind == "mlp":
        # What the activation makes of one half, the other half, their product; a quarter for what is small.
        # Without a gate the activation may be written in several operations.
        inside = rows + columns + columns // 4 if rows > columns else 4 * columns
    else:
        inside = rows + 4 * columns
    # The stream in front of the block, in front of the sub-layer and after its norm, and what is added.
    return inside + 4 * width


def passing_need(model: Any, tokens: int, kept: int = 0, itemsize: int | None = None) -> MemoryNeed:
    """Tell the need of a batch of ``tokens`` that passes through a model; the head takes some rows at a time.

    States of the stream are kept at ``kept`` depths beside. Where the shape is not known, five tensors as
    wide as the largest linear map's two sides together are there at once. ``itemsize``: bytes of a number, by
    default as the model is now.
    """
    table = model.get_input_embeddings().weight
    size, width = itemsize or model.dtype.itemsize, table.shape[1]
    numbers = _numbers_passing(model)
    blocks = tokens * (numbers + kept * width) * size
    # The blocks' own numbers are gone by then.
    head = tokens * min(numbers, (4 + kept) * width) * size + 3 * ROWS * table.shape[0] * FP32
    return MemoryNeed(
        dense=sum(each.numel() * size for each in model.parameters()), working=max(blocks, head)
    )


def _numbers_passing(model: Any) -> int:
    """Numbers of one token that are there at once while it passes through the largest part of a model."""
    # A model that was changed in place has modules of ours, which have no such shape.
    own = all(type(each).__module__.startswith(("torch.", "transformers.")) for each in model.modules())
    if own and not why_not_sliceable(model.config):
        shape = read_shape(model)
        if not any(each.inner_products for each in shape.sublayers):  # else there are maps between
            return max(passing_numbers(each, shape.hidden_size) for each in shape.sublayers)
    both = model.get_input_embeddings(), model.get_output_embeddings()
    ends = {id(each.weight) for each in both if each is not None}
    maps = [each for each in model.parameters() if each.ndim > 1 and id(each) not in ends]
    return 5 * max((sum(each.shape[-2:]) for each in maps), default=0)


def engine_room(model: Any, itemsize: int, tokens: int) -> int:
    """Bytes that a card needs beside the weights on it, whatever is done with a model of these shapes.

    That is a batch of ``tokens`` that passes, one block that visits or is made anew, in its own dtype and in
    fp32, the tables of embedding and head that a model which is made of it has beside, and of the stream's
    width D a second moment with its eigenproblem and turns: 9 matrices (D, D) in fp64
    (``slicing.memory.slicing_need``). Shapes alone are read, so that a model without weights will do.
    """
    table = model.get_input_embeddings().weight
    passing = passing_need(model, tokens, itemsize=itemsize).working
    sizes: dict[str, int] = {}
    for name, each in model.named_parameters():
        block = _BLOCK.match(name)
        if block:
            sizes[block[0]] = sizes.get(block[0], 0) + each.numel()
    block = max(sizes.values(), default=0) * (itemsize + FP32)
    return passing + block + 2 * table.numel() * itemsize + 9 * table.shape[1] ** 2 * FP64


def bases_need(model: Any, sites: int, width: int, tokens: int) -> MemoryNeed:
    """Tell the need of finding bases of a stream of this ``width`` at so many sites, ``tokens`` at a time.

    An fp64 sum (D, D) for each site, and for one of them its eigenvectors and LAPACK's workspace, once no
    batch passes any more.
    """
    passing = passing_need(model, tokens)
    square = width * width
    return passing.model_copy(
        update={"bases": sites * square * FP64, "working": max(passing.working, 4 * square * FP64)}
    )
