"""How far the stream of a smaller model is from the dense one's, depth by depth, while both run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.anatomy import blocks
from analysis.late import torch
from slicing.depth.layout import Layout
from slicing.repair import token_weights

if TYPE_CHECKING:
    from torch import Tensor, nn


class AlignedStreams:
    """Watch a dense model and a ``student`` in a ``with``, and then tell how far their streams were apart.

    Every block of the student is paired with the last of the dense blocks that it stands for.
    """

    def __init__(self, dense: Any, student: Any, layout: Layout) -> None:
        self.pairs = [
            (blocks(dense)[first - 1], own)
            for first, own in zip(layout.following, blocks(student), strict=True)
        ]
        self._hooks: list[Any] = []

    def __enter__(self) -> Any:
        wanted: dict[int, Tensor] = {}
        found: dict[int, Tensor] = {}

        def watch(kept: dict[int, Tensor], place: int, block: nn.Module) -> None:
            def keep(module: nn.Module, given: Any, output: Any) -> None:
                kept[place] = output[0] if isinstance(output, tuple) else output

            self._hooks.append(block.register_forward_hook(keep))

        for place, (theirs, own) in enumerate(self.pairs):
            watch(wanted, place, theirs)
            watch(found, place, own)

        def distance(real: Tensor | None = None) -> Tensor:
            """The mean over depths and tokens of the squared distance, in RMS of the dense stream.

            Of all tokens, or of those that ``real`` (B, T) says are no padding.
            """
            parts = []
            for place in range(len(self.pairs)):
                goal = wanted[place].detach().float()
                weights = token_weights(goal).detach()
                apart = ((found[place].float() - goal) * weights).square()
                parts.append((apart if real is None else apart[real]).mean())
            return torch.stack(parts).mean()

        return distance

    def __exit__(self, *raised: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
