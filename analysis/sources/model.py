"""Say where a model is, and read from there quietly.

Knows nothing about what a model is made of.
"""

from __future__ import annotations

import logging
import re
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from analysis.device import check_device_names, is_out_of_memory, place_of
from analysis.errors import ModelError, is_ours, one_line
from analysis.fetch import fetched
from analysis.late import transformers
from analysis.sources.hub import fetch_error
from analysis.values import Value

SLICED_MANIFEST = "slicescope.json"
"""The file that marks a folder as a sliced model; written and read by ``slicing.store``."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class ModelSource(Value):
    """Where a model is, and the device and dtype it is wanted in. Holds no weights."""

    kind: Literal["demo", "hub", "folder", "gguf", "memory"]
    location: str = ""
    """Hub id, folder or GGUF file; empty for the demo model; what a model in memory is called."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; of a model in memory a number that no other has."""
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
        check_device_names(device, dtype)
        device = place_of(device).name
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

    @classmethod
    def in_memory(cls, name: str, device: str = "auto") -> Self:
        """Name a model that is open in this process and that no other process can open."""
        return cls(kind="memory", location=name, revision=secrets.token_hex(6), device=device)

    @property
    def label(self) -> str:
        """A short name for people."""
        if self.kind == "demo":
            return "SmolLM2-135M-Instruct (demo)"
        if self.kind == "hub":
            return self.location + (f"@{self.revision}" if self.revision else "")
        if self.kind == "memory":
            return self.location
        return Path(self.location).name

    def is_same(self, other: ModelSource) -> bool:
        """Tell whether the other is the same model, on whatever device and in whatever dtype."""
        mine, others = ((each.kind, each.location, each.revision) for each in (self, other))
        return mine == others


def is_sliced(source: ModelSource) -> bool:
    """Tell whether the source is a folder that ``slicing.store`` wrote."""
    return source.kind == "folder" and (Path(source.location) / SLICED_MANIFEST).is_file()


def must_fetch(source: ModelSource) -> bool:
    """Tell whether opening a model takes something that is not on this machine."""
    return source.kind == "hub" and fetched(source.location, source.revision) is None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the progress bars, tables and warnings of transformers and the Hub's client off the terminal.

    Our own errors tell what matters of them.
    """
    bars, level = (
        transformers.utils.logging.is_progress_bar_enabled(),
        transformers.utils.logging.get_verbosity(),
    )
    others = [logging.getLogger(name) for name in ("huggingface_hub", "accelerate")]
    levels = [each.level for each in others]
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    for each in others:
        each.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        for each, own in zip(others, levels, strict=True):
            each.setLevel(own)
        if bars:
            transformers.utils.logging.enable_progress_bar()


@contextmanager
def reading(source: ModelSource) -> Iterator[None]:
    """Read quietly, and translate what transformers and the Hub client raise."""
    try:
        with quiet_transformers():
            yield
    except BaseException as error:  # safetensors, tokenizers and the Hub's checks raise classes of their own
        if is_ours(error) or is_out_of_memory(error):
            raise
        if must_fetch(source):
            raise fetch_error(source.location, source.revision, error) from error
        raise ModelError(f"The model '{source.label}' cannot be read: {one_line(error)}.") from error
