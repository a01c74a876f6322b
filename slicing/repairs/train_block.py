"""The block in front of every cut, trained to stand for those that are gone, for every family.

It looks at the stream as it leaves the cut in the dense model, and at nothing inside a block.
"""

from __future__ import annotations

from typing import Any

from analysis.anatomy import blocks, why_not_sliceable
from analysis.late import no_grad
from analysis.needs import FP32, MemoryNeed
from analysis.read_shape import read_shape
from analysis.stream import BlockStream
from slicing.assembly import spread_like
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.healing.block import train_block
from slicing.memory import block_graph
from slicing.repair import SublayerRepair
from slicing.repairs.base import CutRepair, Cuts, Repaired, repair


@repair
class TrainedBlock(CutRepair):
    """The block at each seam, trained to make up for those that are gone.

    So one block stands for itself and the span after it, as in LLM-Streamline (2403.19135), whose light block
    starts with the first removed block's weights. The loss is the squared distance to the dense stream
    there, tokens weighted by the inverse RMS of their target; the windows held out stop it.
    """

    name = "train-block"
    title = "the block before each cut trained"
    trains = True

    def need(self, unrepaired: MemoryNeed, model: Any, layout: Layout, tokens: int, batch: int) -> MemoryNeed:
        """Add one block in fp32 with its gradients, the optimiser's two moments and the best so far, and the
        graph of a batch; or a new best, and no gradient.
        """
        size, width = model.dtype.itemsize, model.config.get_text_config(decoder=True).hidden_size
        if not layout.seams:
            return unrepaired
        largest = max(sum(each.numel() for each in block.parameters()) for block in blocks(model))
        graph = 2 * unrepaired.working
        if not why_not_sliceable(model.config):
            graph = batch * max(block_graph(each, width) for each in read_shape(model).blocks) * FP32
        training = max(5 * largest * FP32 + graph, 6 * largest * FP32 + unrepaired.working)
        return unrepaired.model_copy(
            update={
                "sliced": unrepaired.sliced + len(layout.seams) * largest * size,
                "working": training,
                "activations": 2 * tokens * width * size,
            }
        )

    @no_grad
    def close(self, cuts: Cuts) -> Repaired:
        """A plain model with other weights in the trained blocks."""
        closed = reduce_blocks(cuts.dense, cuts.layout, check=False, spread=False)
        plain, listed = blocks(cuts.reduced), blocks(closed)

        def close(cuts: Cuts, dense: BlockStream, short: BlockStream, place: int) -> SublayerRepair | None:
            top = cuts.layout.tops[place]
            if place not in cuts.layout.seams:
                short.through(plain[place], top)
                return None
            home = next(listed[place].parameters()).device
            block = listed[place].to(short.device)
            listed[place], told = train_block(dense, short, top, block, cuts.held)
            short.through(listed[place], top)
            listed[place].to(home)
            return told

        told = cuts.walk(close)
        spread_like(cuts.dense, closed)
        return closed, told
