"""What an export is: a form that other tools read, what it cannot say, and how it is written.

A form is one file here. Knows nothing about how a model became smaller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerBase

from analysis.errors import PlanError

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
"""Types of numbers that safetensors can hold."""


@dataclass(frozen=True)
class Dense:
    """The model that another one was made from, for forms that refer to it."""

    name: str
    """How another tool finds it: a folder, or a Hub id with an optional ``@revision``."""
    model: Any

    @property
    def path(self) -> str:
        """The folder, or nothing for a model on the Hub."""
        return self.name if Path(self.name).is_absolute() else ""


class Export(ABC):
    """A form that a model can be written in."""

    name: ClassVar[str]
    title: ClassVar[str]
    readers: ClassVar[str]
    """The tools that read it."""
    folder: ClassVar[bool]
    """Whether it is a folder, and not a single file."""
    dtypes: ClassVar[tuple[str, ...]]
    """The types of numbers that it can hold; the first one where nothing is said."""
    needs_dense: ClassVar[bool] = False
    """Whether it refers to the model that this one was made from."""

    def dtype(self, name: str | None) -> str:
        """The type of numbers of this name, or the usual one (``PlanError`` for a type it does not have)."""
        if name is None:
            return self.dtypes[0]
        if name not in self.dtypes:
            raise PlanError(
                f"The form '{self.name}' has no numbers of type '{name}': choose from "
                f"{', '.join(self.dtypes)}."
            )
        return name

    def leave_widths(self, multiple: int) -> None:
        """Raise a ``PlanError`` where widths are to be filled up, in a form that leaves them as they are."""
        if multiple != 1:
            raise PlanError(
                f"The form '{self.name}' leaves widths as they are: leave '--multiple' out, or write "
                "'--to deci'."
            )

    @abstractmethod
    def check(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, dense: Dense | None = None) -> None:
        """Raise ``UnsupportedError``, one sentence, for what the form cannot say of this model."""

    @abstractmethod
    def write(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        path: Path,
        *,
        made_from: str,
        dtype: str | None = None,
        multiple: int = 1,
        dense: Dense | None = None,
    ) -> None:
        """Write the model and its tokenizer to ``path``, whole or not at all (``StorageError``).

        ``multiple``: the widths of MLPs are filled up with zeros to multiples of it, which changes no output.
        ``dense``: the model that it was made from, which a form with ``needs_dense`` cannot do without
        (``PlanError``).
        Raises what ``check`` and ``dtype`` raise.
        """
