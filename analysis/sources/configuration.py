"""Read a model's configuration, and build the model without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.anatomy import BRIDGED, NARROW, blocks
from analysis.checkpoint import refuse_extra_blocks, refuse_larger, settle_tables, weight_files
from analysis.errors import ModelError
from analysis.gguf_header import check_gguf
from analysis.late import huggingface_hub, torch, transformers
from analysis.read_shape import read_shape
from analysis.shape import ModelShape
from analysis.sources.decilm import DECILM, check_blocks
from analysis.sources.folder import require_model_folder, require_whole, require_whole_files
from analysis.sources.gguf import alone, dequantised_folder, gguf_file
from analysis.sources.hub import hub_answers
from analysis.sources.model import ModelSource, is_sliced, reading
from analysis.trust import pin, read_settings, require_plain_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def read_config(source: ModelSource) -> PreTrainedConfig:
    """Read the configuration of a causal language model; correct it where its weights are here and differ.

    Raises ``ModelError`` when there is none or the model is of another kind.
    """
    with reading(source):
        where, options = where_to_read(source)
        if name := options.get("gguf_file"):
            with alone(Path(where) / name) as place:
                config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
        else:
            require_plain_folder(Path(where), source.label)
            require_whole_files(Path(where), source.label)
            said = read_settings(Path(where) / "config.json", source.label)
            if said.get("model_type") == DECILM:
                check_blocks(said, source.label)
            if is_sliced(source):  # the dense model's configuration is the part of it that says what it is
                config = transformers.AutoConfig.for_model(**said["text_config"])
            else:
                config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
        pin(config)
    require_causal(source, config)
    if (folder := weights_folder(source)) and not is_sliced(source):
        with reading(source):
            settle_tables(config, folder)
    return config


def shape_of(source: ModelSource) -> ModelShape:
    """Return the shapes of a sliceable model from its configuration (``UnsupportedError`` for others)."""
    config = read_config(source)
    return read_shape(skeleton_of(source, config))


def context_length(config: Any) -> int | None:
    """Return the longest window in tokens, or ``None`` where the configuration does not say."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def skeleton_of(source: ModelSource, config: PreTrainedConfig) -> PreTrainedModel:
    """Build the model without its weights; where they are here, check that they fit it (``ModelError``)."""
    with reading(source):
        with torch.device("meta"):
            skeleton = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        folder = weights_folder(source)
        if folder is None or is_sliced(source):
            return skeleton
        refuse_larger(source.label, skeleton, folder)
        try:
            blocks(skeleton)
        except (ModelError, AttributeError):  # a family whose blocks are no list, or have no number
            return skeleton
        refuse_extra_blocks(source.label, skeleton, weight_files(folder))
    return skeleton


def where_to_read(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """Return what to give to ``from_pretrained``: a folder or a name, and its options."""
    if source.kind in ("demo", "gguf"):
        path = gguf_file(source)
        if (folder := dequantised_folder(path)).is_dir():
            return str(folder), {"local_files_only": True}
        require_whole(path, source.label)
        check_gguf(path)
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}
    if source.kind == "memory":
        raise ModelError(
            f"The model '{source.label}' was in the memory of another program and cannot be opened: save it, "
            "and give its folder."
        )
    if source.kind == "folder":
        require_model_folder(Path(source.location))
        return source.location, {"local_files_only": True}
    # Its folder in the cache is given, for transformers would take a local folder of that name for it.
    # Without an answer what was fetched before is looked up at once, instead of after half a minute.
    config = huggingface_hub.hf_hub_download(
        source.location,
        "config.json",
        revision=source.revision or "main",
        local_files_only=not hub_answers(),
    )
    return str(Path(config).parent), {"local_files_only": True}


def weights_folder(source: ModelSource) -> Path | None:
    """Return the folder with the weights, or ``None`` where there is none on this machine."""
    if source.kind == "folder":
        return Path(source.location)
    if source.kind == "memory":
        return None
    if source.kind in ("demo", "gguf"):
        folder = dequantised_folder(gguf_file(source))
        return folder if folder.is_dir() else None
    found = huggingface_hub.try_to_load_from_cache(
        source.location, "config.json", revision=source.revision or "main"
    )
    return Path(found).parent if isinstance(found, str) else None


def require_causal(source: ModelSource, config: Any) -> None:
    """Raise ``ModelError`` where a configuration is not one of a causal language model."""
    said = config.architectures if isinstance(config.architectures, list) else []
    architectures = [name for name in said if isinstance(name, str)]
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    known = config.model_type in {
        *transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        BRIDGED,
        NARROW,
        DECILM,
    }
    if config.is_encoder_decoder or not known or (architectures and not causal):
        kind = architectures[0] if architectures else config.model_type
        raise ModelError(
            f"'{source.label}' is a {kind}, not a causal (decoder-only) language model; choose one whose "
            "architecture ends in 'ForCausalLM'."
        )
