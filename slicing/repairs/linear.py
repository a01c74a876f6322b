"""A matrix (D, D) behind every cut, in closed form, for every family.

It looks at the stream as it leaves the cut in the dense model, and at nothing inside a block.
"""

from __future__ import annotations

from typing import Any

from analysis.anatomy import block_path, blocks
from analysis.errors import UnsupportedError
from analysis.late import nn, no_grad, torch
from analysis.needs import FP32, MemoryNeed
from analysis.stream import BlockStream
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.late import modeling_bridged
from slicing.memory import fit_bytes
from slicing.repair import RidgeFit, SublayerRepair
from slicing.repairs.base import CutRepair, Cuts, Repaired, repair


@repair
class LinearReplacement(CutRepair):
    """A matrix behind every block at a seam, through which the stream passes.

    Each is the ridge regression from the stream that the reduced model has there to the dense stream behind
    the cut, or behind the blocks that became one, over all windows but those held out, tokens weighted by the
    inverse RMS of their target. (Ghosted Layers, 2605.15491, fits the same without weights, by a ridge of
    1e-6.)
    """

    name = "linear"
    title = "linear replacement of the blocks"
    fits = frozenset({"matrix"})
    plain = False

    def need(self, unrepaired: MemoryNeed, model: Any, layout: Layout, tokens: int, batch: int) -> MemoryNeed:
        """Add a matrix for each cut, and one fit of 2 D features and targets at a time."""
        size, width = model.dtype.itemsize, model.config.get_text_config(decoder=True).hidden_size
        if not layout.seams:
            return unrepaired
        solving, adding = fit_bytes(width, width)
        rows = 12 * batch * width * FP32  # the two streams, side by side, weighted and squared
        return unrepaired.model_copy(
            update={
                "sliced": unrepaired.sliced + len(layout.seams) * width**2 * size,
                "working": max(unrepaired.working, solving, adding + rows),
                "activations": 2 * tokens * width * size,
            }
        )

    @no_grad
    def close(self, cuts: Cuts) -> Repaired:
        """A model of our own class, which holds the reduced one's weights and the matrices."""
        model, after = cuts.dense, cuts.layout.seams
        reduced = reduce_blocks(model, cuts.layout, check=False)  # its blocks are put behind others
        config = modeling_bridged.BridgedConfig(
            text_config=reduced.config, blocks=block_path(reduced), bridges=list(after), dtype=model.dtype
        )
        config._attn_implementation = model.config._attn_implementation
        plain = list(blocks(reduced))
        with torch.device("meta"):  # the bridges' numbers come below
            bridged: Any = modeling_bridged.BridgedForCausalLM(config, inner=reduced)

        def close(cuts: Cuts, dense: BlockStream, short: BlockStream, place: int) -> SublayerRepair | None:
            short.through(plain[place], cuts.layout.tops[place])
            if place not in after:
                return None
            there: Any = blocks(bridged)[place]
            fit = RidgeFit(len(there.bridge))
            for index in range(len(short)):
                found, wanted = short.at(index), dense.at(index)
                if found.shape[-1] != fit.width:
                    raise UnsupportedError(
                        f"A matrix bridges a stream as wide as the model, {fit.width:,}, but between the "
                        f"blocks of '{model.config.model_type}' it is {found.shape[-1]:,} wide: leave out "
                        "the repair."
                    )
                precise = torch.promote_types(found.dtype, torch.float32)
                fit.add(found.to(precise), wanted.to(precise), short.held(index, cuts.held))
            matrix, told = fit.solve(torch.eye(fit.width))
            there.bridge = nn.Parameter(matrix.to(short.at(0).device, model.dtype), requires_grad=False)
            short.change(lambda _, states: there.bridged(states))
            return told

        told = cuts.walk(close)
        if model.generation_config is not None:
            bridged.generation_config = reduced.generation_config
        return bridged.eval(), told
