"""Sliced models on disk: safetensors for the weights, JSON for the rest. Strict both ways.

A sliced folder opens as a ``ModelSource`` like any other model. Knows nothing about calibration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from analysis.anatomy import anatomy_of, decoder
from analysis.device import is_out_of_memory, out_of_memory_told, pick_device, pick_dtype
from analysis.errors import ModelError, one_line
from analysis.shape import ModelShape
from analysis.source import SLICED_MANIFEST, ModelSource, OpenModel, is_sliced, open_dense
from analysis.storage import storage_errors, whole_folder
from analysis.values import Value
from slicing.assembly import assemble, dense_sublayers, reading_sublayer, sliced_embedding, write_into
from slicing.schedule import SlicingSchedule
from slicing.slicer import SlicedModel

WEIGHTS = "model.safetensors"


class Manifest(Value):
    """What the folder of a sliced model says about itself, in ``slicescope.json``."""

    format: Literal[1] = 1
    made_from: str
    """Label of the dense model."""
    calibration: str
    """The text and windows the bases were found on, in words."""
    parameters: int
    schedule: SlicingSchedule
    shape: ModelShape
    discarded: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.schedule.check_fits(self.shape)
        return self


def save_sliced(
    sliced: SlicedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    made_from: str,
    calibration: str,
) -> None:
    """Write the model as a new folder, whole or not at all (``StorageError``)."""
    manifest = Manifest(
        made_from=made_from,
        calibration=calibration,
        parameters=sliced.schedule.parameters(sliced.shape),
        schedule=sliced.schedule,
        shape=sliced.shape,
        discarded=sliced.discarded,
    )
    tensors = sliced.model.state_dict()
    if sliced.schedule.embedding == "shared":
        del tensors[_head_name(sliced.model)]  # it is the embedding table, which is there already
    with whole_folder(folder) as draft:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft / WEIGHTS)
        sliced.model.config.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        (draft / SLICED_MANIFEST).write_text(manifest.to_json())


def open_model(source: ModelSource) -> OpenModel:
    """Open any source, dense or sliced, on its device and in its dtype."""
    if not is_sliced(source):
        return open_dense(source)
    with out_of_memory_told(f"loading {source.label}"):
        sliced, tokenizer = load_sliced(source)
    return OpenModel(sliced.model, tokenizer)


@torch.no_grad()
def load_sliced(source: ModelSource) -> tuple[SlicedModel, PreTrainedTokenizerBase]:
    """Read a folder that ``save_sliced`` wrote; the logits are those of the model that was saved.

    Raises ``StorageError`` for an unreadable manifest, ``ModelError`` for weights that do not fit it.
    """
    folder = Path(source.location)
    with storage_errors(folder / SLICED_MANIFEST):
        content = (folder / SLICED_MANIFEST).read_bytes()
    manifest = Manifest.from_json(content, f"'{folder / SLICED_MANIFEST}'")
    device = pick_device(source.device)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tensors = load_file(folder / WEIGHTS, device=str(device))
    except Exception as error:  # safetensors and tokenizers raise classes of their own
        if is_out_of_memory(error):
            raise
        raise ModelError(f"The sliced model '{folder}' cannot be read: {one_line(error)}.") from error
    dtype = pick_dtype(source.dtype, device, config.dtype)
    weights = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    shared = manifest.schedule.embedding == "shared"
    misfit = ModelError(f"The weights in '{folder}' do not fit its {SLICED_MANIFEST}: save the model again.")
    try:
        with torch.device("meta"):
            model = _skeleton(AutoModelForCausalLM.from_config(config, dtype=dtype), manifest)
        fit = model.load_state_dict(weights, strict=False, assign=True)
    except (RuntimeError, ValueError, ArithmeticError):
        raise misfit from None
    if fit.unexpected_keys or fit.missing_keys != ([_head_name(model)] if shared else []):
        raise misfit
    if shared:
        _head(model).weight = getattr(decoder(model), anatomy_of(config).embedding).weight
    _revive_buffers(decoder(model), config, device)
    model = model.eval().requires_grad_(False)
    return SlicedModel(model, manifest.schedule, manifest.shape, manifest.discarded), tokenizer


def _skeleton(dense: PreTrainedModel, manifest: Manifest) -> Any:
    """A sliced model without weights: the parts are made like those of a real one, on the meta device."""
    schedule, width = manifest.schedule, manifest.shape.hidden_size
    embedding = sliced_embedding(dense, torch.empty(width, schedule.widths[0]), schedule.embedding)
    sublayers = []
    sites = zip(dense_sublayers(dense), schedule.sites(manifest.shape), strict=True)
    for (_, block, names), (entering, leaving) in sites:
        sublayer = reading_sublayer(dense, block, names, torch.empty(width, entering))
        write_into(sublayer, names, torch.empty(width, leaving))
        sublayers.append(sublayer)
    return assemble(dense, embedding, sublayers, schedule.embedding)


def _revive_buffers(inner: nn.Module, config: Any, device: torch.device) -> None:
    """Make what is computed rather than stored (rotary frequencies) anew, off the meta device."""
    for name, module in list(inner.named_children()):
        if any(buffer.is_meta for buffer in module.buffers()):
            setattr(inner, name, type(module)(config=config).to(device))


def _head(model: PreTrainedModel) -> nn.Linear:
    return getattr(model, anatomy_of(model.config).head)


def _head_name(model: PreTrainedModel) -> str:
    return f"{anatomy_of(model.config).head}.weight"
