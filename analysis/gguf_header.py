"""Check the header of a GGUF file against its size and its tensors before anything is built.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows nothing about transformers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from analysis.errors import ModelError, SlicescopeError
from analysis.storage import storage_errors
from analysis.trust import MOST, MOST_BLOCKS, MOST_ROWS

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_FEWEST_BYTES = 12
"""Of an entry: an empty name and its kind."""
_BLOCK = re.compile(r"blk\.(\d+)\.")
_BOUNDS = {
    "block_count": (1, MOST_BLOCKS),
    "embedding_length": (1, MOST),
    "vocab_size": (1, MOST),
    "context_length": (1, MOST_ROWS),
    "feed_forward_length": (0, MOST),
    "attention.head_count": (0, MOST),
    "attention.head_count_kv": (0, MOST),
    "attention.key_length": (0, MOST),
    "attention.value_length": (0, MOST),
    "rope.dimension_count": (0, MOST),
    "expert_count": (0, MOST),
    "expert_used_count": (0, MOST),
    "nextn_predict_layers": (0, MOST_BLOCKS),
}


def check_gguf(path: Path) -> None:
    """Raise ``ModelError`` unless a GGUF file is whole, and its numbers are those of its tensors."""
    with storage_errors(path), path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(
                f"'{path.name}' is not a GGUF file (it does not begin with 'GGUF'): fetch it again."
            )
        size = path.stat().st_size
        try:
            said = _settings(file, size)
        except (ValueError, struct.error) as error:
            raise _damaged(path) from error
    from gguf import GGUFReader

    try:
        tensors = {tensor.name: tuple(map(int, tensor.shape)) for tensor in _read(GGUFReader(path).tensors)}
    except Exception as error:  # the reader meets damage anywhere, with whatever numpy then raises
        raise _damaged(path) from error
    if not tensors:
        raise ModelError(f"The GGUF file '{path.name}' holds no weights: fetch it again.")
    _check_numbers(path, said, tensors)


def _damaged(path: Path) -> SlicescopeError:
    return ModelError(f"The GGUF file '{path.name}' is damaged or cut short: fetch it again.")


def _read(tensors: Iterable[Any]) -> list[Any]:
    """The tensors; all of them hold something."""
    found = list(tensors)
    if not all(tensor.data.size for tensor in found):
        raise ValueError("an empty tensor")
    return found


def _settings(file: BinaryIO, size: int) -> dict[str, Any]:
    """The scalars and arrays of numbers of a header; ``ValueError`` where it is longer than the file."""
    order = "<" if file.read(4)[:2] != b"\0\0" else ">"

    def take(kind: str) -> Any:
        return struct.unpack(order + kind, file.read(struct.calcsize("<" + kind)))[0]

    def skip(length: int) -> None:
        if length > size - file.tell():
            raise ValueError("longer than the file")
        file.seek(length, 1)

    def text() -> bytes:
        length = take("Q")
        if length > size - file.tell():
            raise ValueError("longer than the file")
        return file.read(length)

    def value(kind: int) -> Any:
        if kind == _TEXT:
            return text()
        if kind in _SCALARS:
            return take(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError("a kind that there is not")
        inner, count = take("I"), take("Q")
        if inner != _TEXT and inner not in _SCALARS:
            raise ValueError("an array of arrays, or of a kind that there is not")
        width = 8 if inner == _TEXT else struct.calcsize("<" + _SCALARS[inner])
        if count * width > size - file.tell():
            raise ValueError("more entries than the file has bytes")
        if inner == _TEXT:
            for _ in range(count):
                skip(take("Q"))
            return None
        if count > MOST_BLOCKS:
            return skip(count * width)
        return [take(_SCALARS[inner]) for _ in range(count)]

    tensors, entries = take("Q"), take("Q")
    if (tensors + entries) * _FEWEST_BYTES > size:
        raise ValueError("more entries than the file has bytes")
    return {text().decode("utf-8", "replace"): value(take("I")) for _ in range(entries)}


def _check_numbers(path: Path, said: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> None:
    architecture = said.get("general.architecture") or b""
    prefix = architecture.decode("utf-8", "replace") + "." if isinstance(architecture, bytes) else ""
    for name, (least, most) in _BOUNDS.items():
        value = said.get(prefix + name)
        for each in value if isinstance(value, list) else [value]:
            if each is None:
                continue
            if not isinstance(each, int) or isinstance(each, bool) or not least <= each <= most:
                raise _unlike(
                    path, prefix + name, each, f"that has to be a whole number from {least} to {most:,}"
                )
    held = {int(found[1]) for found in map(_BLOCK.match, tensors) if found}
    # Blocks that only predict further tokens are counted, and often left out of the file.
    further = said.get(prefix + "nextn_predict_layers") or 0
    width, rows = (tensors.get("token_embd.weight") or (None, None))[:2]
    for name, found in (
        ("block_count", max(held) + 1 if held else None),
        ("embedding_length", width),
        ("vocab_size", rows),
    ):
        value = said.get(prefix + name)
        if name == "block_count" and value and found and value - further <= found <= value:
            continue
        if None not in (value, found) and value != found:
            raise _unlike(path, prefix + name, value, f"its weights are of {found:,}")


def _unlike(path: Path, name: str, value: Any, instead: str) -> ModelError:
    return ModelError(
        f"The GGUF file '{path.name}' says {name} = {str(value)[:40]}, but {instead}: fetch it again."
    )
