"""Folders that other tools read as they are meant: transformers 4 too, and those built on it.

transformers 5 writes some settings under new names only. Older versions do not miss them: they take defaults
of their own without a word, such as another base of the rotary positions. So both names are written. Knows
nothing about weights but their types.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from analysis.late import transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLAIN = {"F64", "F32", "F16", "BF16", "I64", "BOOL"}
"""Types of tensors in safetensors that are numbers, places or masks; the others are codes of a quantiser."""
_OF_LOADING = ("backend", "is_local", "local_files_only")
"""Settings of a tokenizer that only tell how it was opened."""
_USUAL = ("rope_theta", "", "partial_rotary_factor")
_NAMES = {
    **dict.fromkeys(("gemma3_text", "gemma3n_text"), ("rope_theta", "rope_local_base_freq", "")),
    **dict.fromkeys(("gpt_neox", "gpt_neox_japanese"), ("rotary_emb_base", "", "rotary_pct")),
    **dict.fromkeys(("modernbert", "modernbert-decoder"), ("global_rope_theta", "local_rope_theta", "")),
}
"""The old names of the base, of the base of local attention, and of the share of a head that is turned."""


def make_portable(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Rewrite the configurations of a model and its tokenizer that ``save_pretrained`` put into ``folder``.

    Settings are written under their old names beside the new ones. What does not hold for this folder is left
    out: references to code that is not in it, and the settings of a quantiser where the weights are plain.
    """
    path = folder / "config.json"
    config = _without_foreign_code(json.loads(path.read_text(encoding="utf-8")), folder)
    if _weight_types(folder) <= _PLAIN:
        config = _without(config, "quantization_config")
    _write(path, with_old_names(config))
    path = folder / "tokenizer_config.json"
    content = _without_foreign_code(json.loads(path.read_text(encoding="utf-8")), folder)
    if (folder / "tokenizer.json").is_file():
        content = _generic(content, tokenizer)
    _write(path, content)


def with_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """The content of a ``config.json`` with transformers 4's names beside those of transformers 5.

    Configurations inside it are treated alike. Names that would change what transformers 5 reads are left
    out.
    """
    made = {
        name: with_old_names(value) if isinstance(value, dict) and "model_type" in value else value
        for name, value in config.items()
    }
    if made.get("dtype") is not None:
        made["torch_dtype"] = made["dtype"]
    name = str(made.get("model_type"))
    if name not in transformers.models.auto.configuration_auto.CONFIG_MAPPING:
        return made
    kind: Any = transformers.models.auto.configuration_auto.CONFIG_MAPPING[name]
    # Which of a family's two names is stored has changed, as that of the number of experts has.
    aliases = {alias: made[name] for alias, name in kind.attribute_map.items() if name in made}
    old = {**aliases, **made, **_rope(made)}
    try:
        meant, found = _read(kind, made), _read(kind, old)
    except Exception:  # whatever a family has against names that it never had
        return made
    return old if all(found.get(name) == value for name, value in meant.items()) else made


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions under their old names."""
    kind, said = config["model_type"], config.get("rope_parameters")
    if not said:
        return {}
    local = said.get("sliding_attention") or {}
    if kinds := [value for value in said.values() if isinstance(value, dict)]:
        said = said.get("full_attention") or kinds[0]
    of_all, of_local, share = _NAMES.get(kind, _USUAL)
    scaling = dict(said)
    old = {of_all: scaling.pop("rope_theta", None), share: scaling.pop("partial_rotary_factor", None)}
    old[of_local] = local.get("rope_theta")
    if kind == "phi3" and scaling.get("rope_type") == "longrope":  # which takes these three and no others
        scaling = {"type": "longrope", **{name: scaling[name] for name in ("short_factor", "long_factor")}}
    old = {name: value for name, value in old.items() if name and value is not None}
    scaled = scaling not in ({}, {"rope_type": "default"})
    if scaled or kind in ("apertus", "gpt_oss"):  # which transformers 4 scales unless told otherwise
        old["rope_scaling"] = scaling if scaled else None
    return old


def _read(kind: Any, content: dict[str, Any]) -> dict[str, Any]:
    """Read a configuration as transformers 5 does, and leave out ``type``, its old name for ``rope_type``."""

    def number(entry: dict[str, Any]) -> Any:  # infinity has no JSON
        return float(entry["__float__"]) if set(entry) == {"__float__"} else entry

    with warnings.catch_warnings(action="error"):
        read = kind.from_dict(json.loads(json.dumps(content), object_hook=number)).to_dict()
    if isinstance(read.get("rope_parameters"), dict):
        read["rope_parameters"].pop("type", None)
    return read


def _generic(content: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The settings of a tokenizer that is all in ``tokenizer.json``, for the class that adds nothing to it.

    Other classes add tokens by rules that differ between versions, and some exist in one version only.
    """
    made = {name: value for name, value in content.items() if name not in _OF_LOADING}
    made["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("model_input_names", "padding_side", "truncation_side", "clean_up_tokenization_spaces"):
        made[name] = getattr(tokenizer, name)
    if isinstance(made.get("extra_special_tokens"), list):  # a dict with names in transformers 4
        made["additional_special_tokens"] = made.pop("extra_special_tokens")
    return made


def _without_foreign_code(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Without references to classes whose file is not in the folder."""

    def here(reference: Any) -> bool:
        if isinstance(reference, list | tuple):
            return all(here(each) for each in reference if each is not None)
        return "--" not in reference and (folder / f"{reference.partition('.')[0]}.py").is_file()

    made = {
        name: _without_foreign_code(value, folder) if isinstance(value, dict) else value
        for name, value in content.items()
        if name != "auto_map"
    }
    said = content.get("auto_map") or {}
    said = said if isinstance(said, dict) else {"AutoTokenizer": said}
    kept = {name: value for name, value in said.items() if here(value)}
    return {**made, "auto_map": kept} if kept else made


def _without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        key: _without(value, name) if isinstance(value, dict) else value
        for key, value in content.items()
        if key != name
    }


def _weight_types(folder: Path) -> set[str]:
    """The types of all tensors in the folder's safetensors files, from their headers."""
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
