"""From a dense model and bases of its stream to the parts of a sliced one, and from parts to a model.

The dense model is only read. Everything works on the meta device too, which is how a stored model gets
its skeleton. Knows nothing about calibration: bases come from outside.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from analysis.anatomy import (
    Sublayer,
    anatomy_of,
    blocks,
    decoder,
    embedding_scale,
    norm_epsilon,
    norm_gain,
)
from slicing.block import SlicedBlock, SlicedEmbedding, SlicedSublayer, UnitRMSNorm
from slicing.rotation import fold_gain, rotate_reader, rotate_writer
from slicing.schedule import EmbeddingForm


def dense_sublayers(model: PreTrainedModel) -> Iterator[tuple[int, nn.Module, Sublayer]]:
    """Every sub-layer in the order of application: (block index, dense block, names)."""
    names = anatomy_of(model.config).sublayers
    for index, block in enumerate(blocks(model)):
        for sublayer in names:
            yield index, block, sublayer


def reading_sublayer(
    model: PreTrainedModel, block: nn.Module, names: Sublayer, basis: Tensor
) -> SlicedSublayer:
    """A copy of a dense sub-layer that reads the stream in ``basis`` (D, W) and still writes all of D.

    The norm's gain goes into the readers; the shortcut leads back to the full basis, (W, D).
    """
    norm = getattr(block, names.norm)
    gain = norm_gain(norm, anatomy_of(model.config))
    dense: Any = getattr(block, names.core)
    # The configuration stays the one object all modules share.
    core = copy.deepcopy(dense, {id(model.config): model.config})
    for reader in names.readers:
        rotate_reader(core.get_submodule(reader), basis, gain)
    unit = UnitRMSNorm(gain.numel(), norm_epsilon(norm))
    return SlicedSublayer(names.kind, unit, core, basis.T)


def write_into(sublayer: SlicedSublayer, names: Sublayer, basis: Tensor) -> None:
    """Make a sub-layer that writes all of D write in ``basis`` (D, W); changes it in place."""
    writer: nn.Linear = sublayer.core.get_submodule(names.writer)  # type: ignore[assignment]
    rotate_writer(writer, basis)
    shortcut = sublayer.shortcut @ basis.to(sublayer.shortcut)
    sublayer.shortcut = nn.Parameter(shortcut.to(writer.weight.dtype), requires_grad=False)


def sliced_embedding(model: PreTrainedModel, basis: Tensor, form: EmbeddingForm) -> SlicedEmbedding:
    """The embedding in ``basis`` (D, W): the dense table with a rotation, or a table of its own."""
    dense: Any = getattr(decoder(model), anatomy_of(model.config).embedding)
    table, scale = dense.weight, embedding_scale(dense)
    if form == "shared":
        return SlicedEmbedding(table, basis.to(table.dtype), scale)
    precise = torch.promote_types(table.dtype, torch.float32)
    own = table.detach().to(precise) * scale @ basis.to(precise)
    return SlicedEmbedding(nn.Parameter(own.to(table.dtype), requires_grad=False))


def assemble(
    model: PreTrainedModel,
    embedding: SlicedEmbedding,
    sublayers: Sequence[SlicedSublayer],
    form: EmbeddingForm,
) -> PreTrainedModel:
    """A model of the dense one's class with sliced parts; the rest is shared with the dense model.

    Shared form: final norm and head stay those of the dense model. Untied form: the final norm's gain
    goes into a head of its own.
    """
    anatomy = anatomy_of(model.config)
    config = copy.deepcopy(model.config)
    # Nothing may tie the head to the table anew: in the shared form it is that table already.
    config.tie_word_embeddings = False
    config.sliced = True  # told by `why_not_sliceable`, here and when the model is opened again
    sliced: Any = _shallow_copy(model)
    inner: Any = _shallow_copy(decoder(model))
    setattr(sliced, model.base_model_prefix, inner)
    sliced.config = inner.config = config
    sliced.generation_config = copy.deepcopy(model.generation_config)

    per_block = len(anatomy.sublayers)
    setattr(inner, anatomy.embedding, embedding)
    grouped = [list(sublayers[i : i + per_block]) for i in range(0, len(sublayers), per_block)]
    setattr(inner, anatomy.blocks, nn.ModuleList(SlicedBlock(group) for group in grouped))
    if form == "untied":
        norm = getattr(inner, anatomy.final_norm)
        gain = norm_gain(norm, anatomy)
        head: Any = _shallow_copy(getattr(model, anatomy.head))
        fold_gain(head, gain)
        setattr(inner, anatomy.final_norm, UnitRMSNorm(gain.numel(), norm_epsilon(norm)))
        setattr(sliced, anatomy.head, head)
    return sliced


def _shallow_copy(module: nn.Module) -> nn.Module:
    """The same modules and tensors in a new container, so that replacing one leaves the original alone."""
    clone = copy.copy(module)
    for registry in ("_modules", "_parameters", "_buffers"):
        clone.__dict__[registry] = dict(module.__dict__[registry])
    return clone
