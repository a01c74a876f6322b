"""Say why a folder is no model that can be opened, and what to do: read off names, sizes and headers alone.

What people have at hand is often nearly a model: a clone without its large files, a download that broke off,
a folder of the cache, an adapter. Knows nothing about configurations.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from analysis.errors import ModelError
from analysis.fetch import ADAPTER

_POINTER = b"version https://git-lfs"
_LARGE = (".safetensors", ".gguf", ".json", ".model")
"""Suffixes of files that are often kept with Git LFS."""
_POINTER_SIZE = 1024
_LONGEST_HEADER = 2**27
CONSOLIDATED = "consolidated*.safetensors"
"""Mistral's own format, with names of weights that transformers does not know."""
_TOKENIZERS = ("tokenizer*", "vocab*", "merges*", "spiece*", "*.model", "*.tiktoken", "tekken.json")


def require_model_folder(folder: Path) -> None:
    """Raise ``ModelError`` for a folder without a configuration: what it is instead, and what to give."""
    if (folder / "config.json").is_file():
        return
    if found := _snapshot(folder):
        raise ModelError(
            f"The folder '{folder}' is a cache of the Hub, and the model lies inside it: give '{found}'."
        )
    if (folder / ADAPTER).is_file():
        raise ModelError(adapter_told(folder, folder.name))
    if any(folder.glob(CONSOLIDATED)):
        raise ModelError(consolidated_told(folder.name))
    raise ModelError(
        f"The folder '{folder}' holds no config.json, so it is not a model: "
        "give the folder that 'save_pretrained' wrote."
    )


def _snapshot(folder: Path) -> Path | None:
    """The snapshot of a model in the cache of the Hub: that of the branch main, or else the newest."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return None
    whole = [path for path in snapshots.iterdir() if (path / "config.json").is_file()]
    main = folder / "refs" / "main"
    named = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else ""
    return next((path for path in whole if path.name == named), None) or max(
        whole, key=lambda path: path.stat().st_mtime, default=None
    )


def adapter_told(folder: Path, label: str) -> str:
    """Say what an adapter changes, and that it has to be merged."""
    try:
        said = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base = said.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        base = None
    what = f"'{base}'" if isinstance(base, str) and base else "another model"
    return (
        f"The model '{label}' holds an adapter ({ADAPTER}) for {what}, which leads to other weights: merge "
        "it into that model first with peft's 'merge_and_unload', save that, and open it instead."
    )


def consolidated_told(label: str) -> str:
    """Say what weights in Mistral's own format are, and which files to fetch."""
    return (
        f"The weights of '{label}' are in Mistral's own format alone ({CONSOLIDATED}), which is not read "
        "here: fetch config.json and the files 'model-*.safetensors' of the same model too."
    )


def require_whole_files(folder: Path, label: str) -> None:
    """Raise ``ModelError`` where a file of a model is a pointer of Git LFS, or weights are cut short."""
    for path in sorted(folder.iterdir()):
        if path.suffix in _LARGE and path.is_file():
            require_whole(path, label)


def require_whole(path: Path, label: str) -> None:
    """Raise ``ModelError`` where one file is a pointer of Git LFS, or safetensors that are cut short."""
    status = path.stat()
    if fault := _fault(path, status.st_size, status.st_mtime_ns):
        raise ModelError(f"The file '{path.name}' of the model '{label}' {fault}.")


@lru_cache(maxsize=512)
def _fault(path: Path, size: int, changed: int) -> str:
    """Say what is wrong with a file and what to do, or nothing; a new size or date asks anew."""
    with path.open("rb") as file:
        if size <= _POINTER_SIZE and file.read(len(_POINTER)) == _POINTER:
            return "is a pointer of Git LFS in the place of the file: run 'git lfs pull' in its folder"
        if path.suffix != ".safetensors":
            return ""
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        wanted = 8 + length
        if size >= 8 and length <= min(size, _LONGEST_HEADER):
            try:
                header = json.loads(file.read(length))
                ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
                wanted += max(ends, default=0)
            except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
                return ""  # damaged in another way, which its reader tells
        elif length > _LONGEST_HEADER and size >= 8:
            return ""
    if size >= wanted:
        return ""
    least = "" if size > 8 + length else " or more"
    return f"is cut short, with {size:,} bytes of {max(wanted, 8):,}{least}: fetch it again"


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds any file of a tokenizer."""
    return any(next(folder.glob(pattern), None) for pattern in _TOKENIZERS)
