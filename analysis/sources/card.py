"""Describe a model from its configuration and the names of its weights, before the weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from analysis.anatomy import SLICED_ALREADY, why_not_sliceable
from analysis.device import Facts, pick_device, pick_dtype
from analysis.errors import UnsupportedError
from analysis.quantised import quantisation_of, why_not_plain
from analysis.read_shape import read_shape
from analysis.read_units import why_without
from analysis.shape import ModelShape
from analysis.sources.configuration import context_length, read_config, skeleton_of, weights_folder
from analysis.sources.hub import Listing, look_at, look_up
from analysis.sources.model import SLICED_MANIFEST, ModelSource, is_sliced, must_fetch, reading
from analysis.units import Kind
from analysis.values import Value

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ModelCard(Value):
    """Facts about a model that are known before its weights are read."""

    label: str
    architecture: str
    blocks: int
    hidden_size: int
    heads: int
    """Query heads; 0 where the blocks have no attention, or not all the same number."""
    key_value_heads: int
    vocab_size: int
    context: int | None
    """Longest window in tokens, where the configuration says it."""
    parameters: int
    tied: bool
    device: str
    dtype: str
    bytes: int | None
    """Memory for the weights in that dtype; quantised ones as they are stored, ``None`` where nobody says."""
    not_sliceable: str | None
    """Why it cannot be sliced, or ``None`` when it can."""
    units: tuple[Kind, ...] = ()
    """The kinds of units that methods can take out inside its blocks."""
    no_units: dict[Kind, str] = Field(default_factory=dict)
    """Why kinds of units are not among them, a sentence each."""
    quantised: str | None = None
    """How the weights are stored, where they are quantised."""
    becomes_plain: bool = False
    """Whether quantised weights are plain numbers of that dtype once the model is open."""
    to_fetch: int | None = None
    """Bytes of weights that opening it fetches from the Hub, where that is known; 0 when all are here."""


def describe(source: ModelSource, told: Facts | None = None) -> ModelCard:
    """Make the model card from the configuration and the names of the weights, without opening the model.

    ``told`` holds facts about the device that are then not asked for.
    Raises ``ModelError`` where the weights are of more blocks than the configuration says.
    """
    config: Any = read_config(source)
    skeleton = skeleton_of(source, config)
    text = config.get_text_config(decoder=True)
    with reading(source):
        count = text.num_hidden_layers
    heads = _said(text, "num_attention_heads") or 0
    parameters = sum(parameter.numel() for parameter in skeleton.parameters())
    listing, to_fetch = _listing(source)
    quantised = quantisation_of(config)
    shape, refused = _read(skeleton)
    not_sliceable = (
        why_not_sliceable(config) or (quantised and why_not_plain(config, made_from(source))) or refused
    )
    if is_sliced(source):
        not_sliceable = SLICED_ALREADY
        with reading(source):
            parameters = int(json.loads((Path(source.location) / SLICED_MANIFEST).read_text())["parameters"])
    device = pick_device(source.device)
    dtype = pick_dtype(source.dtype, device, config.dtype, told)
    return ModelCard(
        label=source.label,
        architecture=config.model_type,
        blocks=count,
        hidden_size=text.hidden_size,
        heads=heads,
        key_value_heads=_said(text, "num_key_value_heads") or heads,
        vocab_size=text.vocab_size,
        context=context_length(config),
        parameters=parameters,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        bytes=listing.bytes if quantised and not quantised.becomes_plain else parameters * dtype.itemsize,
        not_sliceable=not_sliceable,
        units=shape.kinds if shape and not not_sliceable else (),
        no_units=_without(skeleton, shape) if shape and not not_sliceable else {},
        quantised=quantised and quantised.name,
        becomes_plain=quantised is not None and quantised.becomes_plain,
        to_fetch=to_fetch,
    )


def _listing(source: ModelSource) -> tuple[Listing, int | None]:
    """Return what is known of a model's files, and how many bytes of them have to be fetched."""
    if must_fetch(source):
        listing = look_up(source.location, source.revision)
        return listing, listing.bytes
    here = weights_folder(source)
    return (look_at(here) if here else Listing(None, None)), 0


def made_from(source: ModelSource) -> str | None:
    """Return the model that a quantised one was made from, as its card on the Hub or in its folder says."""
    if source.kind == "hub":
        return look_up(source.location, source.revision).base_model
    return _listing(source)[0].base_model


def _said(config: Any, name: str) -> Any:
    """Return a setting of all blocks, or ``None`` where there is none."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers has no one answer where blocks differ
        return None


def _read(skeleton: PreTrainedModel) -> tuple[ModelShape | None, str | None]:
    """Return the shape of a model, or ``None`` and why it has none."""
    try:
        return read_shape(skeleton), None
    except UnsupportedError as error:
        return None, str(error)


def _without(skeleton: PreTrainedModel, shape: ModelShape) -> dict[Kind, str]:
    return why_without(skeleton, set(get_args(Kind)) - set(shape.kinds))
