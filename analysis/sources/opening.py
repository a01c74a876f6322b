"""Open a dense model: fetch it, check it, and read its weights onto a device.

Nothing remote is executed and nothing is unpickled: weights come from safetensors or GGUF. Knows nothing
about slicing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.checkpoint import refuse_left_out, settle_tables
from analysis.device import is_out_of_memory, out_of_memory_told, pick_device, pick_dtype
from analysis.errors import ModelError, UnsupportedError, is_ours, one_line
from analysis.fetch import fetch
from analysis.gguf_header import check_gguf
from analysis.late import torch, transformers
from analysis.portable import make_portable
from analysis.quantised import make_plain, why_not_plain, why_not_readable
from analysis.sources.card import made_from
from analysis.sources.configuration import (
    read_config,
    require_causal,
    skeleton_of,
    weights_folder,
    where_to_read,
)
from analysis.sources.folder import has_tokenizer, require_whole
from analysis.sources.gguf import alone, dequantised_folder, gguf_file, reading_once
from analysis.sources.model import ModelSource, is_sliced, must_fetch, quiet_transformers, reading
from analysis.spread import clear_with, where_to_put
from analysis.storage import whole_folder
from analysis.trust import pin, require_own_weights
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class OpenModel(NamedTuple):
    """A model on its device, ready to run, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def fetch_missing(source: ModelSource, progress: Progress = no_progress, asks: bool = True) -> None:
    """Fetch the files of a model that are not on this machine (``fetch``). Opening a model does it too.

    Raises ``ModelError``, before anything is fetched, where its weights could not be read here. A process
    that must not ask the device (``asks=False``) leaves this check to the process that opens the model, if
    that one would use CUDA.
    """
    if must_fetch(source):
        if asks or pick_device(source.device).type != "cuda":
            _require_readable(source, read_config(source))
        fetch(source.location, source.revision, progress)


def require_plain_weights(source: ModelSource) -> None:
    """Raise ``UnsupportedError`` where the weights are quantised and stay so, and cannot be changed."""
    if source.kind in ("demo", "gguf"):  # dequantised by us
        return
    config = read_config(source)
    if why_not_plain(config):
        raise UnsupportedError(why_not_plain(config, made_from(source)))


def _require_readable(source: ModelSource, config: PreTrainedConfig) -> None:
    if reason := why_not_readable(config, pick_device(source.device)):
        raise ModelError(
            f"The model '{source.label}' cannot be opened, since {reason}: open {_origin(source)}."
        )


def _origin(source: ModelSource) -> str:
    """Say which model a quantised one was made from, within a sentence."""
    base = made_from(source)
    return f"'{base}', from which it was made" if base else "the model that it was made from"


def outline(source: ModelSource) -> OpenModel:
    """Build a dense model without its weights, on the meta device, with its tokenizer, to check a recipe by.

    Raises what ``open_dense`` raises, except for faults that only the weights show.
    """
    where, options, config = _found(source)
    with reading(source):
        tokenizer = _tokenizer(source, where, options)
    return OpenModel(skeleton_of(source, config).eval(), tokenizer)


def open_dense(source: ModelSource) -> OpenModel:
    """Read the weights onto the source's device, or several, in its dtype, ready for inference.

    GGUF weights are dequantised once and cached as safetensors. Other quantised weights are dequantised as
    they are read, where transformers can do that. Raises ``ModelError`` for anything that is not a readable
    causal language model, ``OutOfMemoryError`` when it does not fit.
    """
    where, options, config = _found(source)
    skeleton = skeleton_of(source, config)
    becomes_plain = make_plain(config)
    device = pick_device(source.device)
    dtype = pick_dtype(source.dtype, device, config.dtype)
    placing = where_to_put(source.label, source.device, skeleton, dtype)
    if becomes_plain and isinstance(placing["device_map"], dict):
        raise ModelError(
            f"The quantised weights of '{source.label}' become plain numbers on one device alone, and that "
            f"has no room for them: open {_origin(source)}."
        )
    with out_of_memory_told(f"loading {source.label} onto {device}"), reading(source):
        tokenizer = _tokenizer(source, where, options)
        model = _read_weights(
            source,
            where,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            **placing,
            **options,
        )
        # What has just been fetched from the Hub could not be looked into before.
        if (folder := weights_folder(source)) and settle_tables(model.config, folder):
            model.tie_weights()
        if becomes_plain:  # transformers leaves some of them in another dtype
            model.to(dtype)
        clear_with(model, placing)
    return OpenModel(model.eval().requires_grad_(False), tokenizer)


def _found(source: ModelSource) -> tuple[str, dict[str, Any], PreTrainedConfig]:
    """Fetch what a dense model lacks; return where it is, the options to read it, and its configuration."""
    if is_sliced(source):
        raise ModelError(f"'{source.label}' is a sliced model; a dense one is needed here.")
    if source.kind in ("demo", "gguf"):
        dequantise(source)
    config = read_config(source)
    _require_readable(source, config)
    where, options = where_to_read(source)
    if source.kind == "hub":
        where = str(fetch(source.location, source.revision))
    require_own_weights(Path(where), source.label)
    return where, options, config


def _tokenizer(source: ModelSource, where: str | Path, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a model (``ModelError`` where its folder holds none that can be read)."""
    try:
        return transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
    except Exception as error:  # each kind of tokenizer has errors of its own
        if is_ours(error) or is_out_of_memory(error):
            raise
        reason = one_line(error) if has_tokenizer(Path(where)) else "there is no file of one"
        raise ModelError(
            f"The tokenizer of the model '{source.label}' cannot be read ({reason}): copy tokenizer.json and "
            "tokenizer_config.json from the model that it was made from into its folder."
        ) from error


def _read_weights(source: ModelSource, where: str | Path, **options: Any) -> Any:
    """Read a model of which every weight is in the file, and which has a place for every weight in the file.

    transformers would fill what is missing with random numbers, and leave out what it has no place for.
    """
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        where, trust_remote_code=False, output_loading_info=True, **options
    )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"The model '{source.label}' lacks {len(missing)} of the weights that its configuration asks for "
            f"(the first is '{missing[0]}'): fetch or save it again."
        )
    refuse_left_out(source.label, model, report["unexpected_keys"])
    return model


def dequantise(source: ModelSource) -> None:
    """Write the weights of a GGUF source as safetensors to the cache folder, unless they are there already.

    Written whole or not at all. Raises ``ModelError`` when the file is damaged.
    """
    path = gguf_file(source)
    folder = dequantised_folder(path)
    if folder.is_dir():
        return
    require_whole(path, source.label)
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    with alone(path) as place, reading(source), reading_once():
        check_gguf(path)
        config = pin(transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **options))
        require_causal(source, config)
        model = _read_weights(source, place, config=config, dtype=torch.float32, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    # The weights are plain numbers now; without this the stored model would claim to be quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    with whole_folder(folder, replace=True) as draft, quiet_transformers():
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        make_portable(draft, tokenizer)
