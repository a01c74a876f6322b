"""What an export is: a form that other tools read, what it cannot say, and how it is written.

A form is one file here. Knows nothing about how a model became smaller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from analysis.errors import PlanError


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

    @abstractmethod
    def check(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
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
    ) -> None:
        """Write the model and its tokenizer to ``path``, whole or not at all (``StorageError``).

        ``multiple``: the widths of MLPs are filled up with zeros to multiples of it, which changes no output.
        Raises what ``check`` and ``dtype`` raise.
        """
