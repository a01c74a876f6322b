"""Modules that stand in for those of a model while its stream is watched, carried on or given to its head."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn


class Recorder(nn.Module):
    """Stands in for a block: keeps what the decoder hands it and passes the stream through."""

    def __init__(self, block: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not registered, so that nothing walks into it
        self.returns_tuple = returns_tuple
        self.entering: Tensor | None = None
        self.context: dict[str, Any] = {}
        self.leaving: int | None = None
        """The width that what follows takes, where it may be another: what is missing is zero."""

    def __getattr__(self, name: str) -> Any:
        # Some decoders read attributes off their blocks, such as the kind of attention.
        return getattr(self.__dict__["block"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **context: Any) -> Any:
        """Give the stream (B, T, D) back, and keep it with the context."""
        context.update(zip(_argument_names(self.__dict__["block"]), args, strict=False))
        self.__dict__.update(entering=hidden_states, context=context)
        if self.leaving is not None:
            missing = self.leaving - hidden_states.shape[-1]
            hidden_states = nn.functional.pad(hidden_states, (0, missing)) if missing else hidden_states
        return (hidden_states, None) if self.returns_tuple else hidden_states


class Passed(Recorder):
    """Stands in for a block that is behind: passes the stream through, or gives the one to go on with."""

    def __init__(self, block: nn.Module, returns_tuple: bool, states: Tensor | None) -> None:
        super().__init__(block, returns_tuple)
        self.__dict__["states"] = states

    def forward(self, hidden_states: Tensor, *args: Any, **context: Any) -> Any:
        """Give the stream (B, T, D) back, or the one to go on with."""
        given = self.__dict__["states"]
        states = hidden_states if given is None else given
        return (states, None) if self.returns_tuple else states


class Given(nn.Module):
    """Stands in for a decoder: answers with what it was given."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Give what it was given, whatever it is asked."""
        return self.__dict__["output"]


def _argument_names(block: Any) -> list[str]:
    """The names of what a decoder may hand its blocks by position, after the states."""
    if hasattr(block, "arguments"):  # a sliced block, which stands for a dense one
        return block.arguments
    return list(inspect.signature(type(block).forward).parameters)[2:]
