"""PruneNet: a policy learns, without text, which channels can go so that the spectrum of a weight stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from analysis.anatomy import blocks, core_of
from analysis.device import present, widen
from analysis.late import nn, torch
from analysis.numbers import Seed
from analysis.read_units import read_units
from analysis.sublayers import out_in
from slicing.inner.select import Scores, best_units, branches_of
from slicing.inner.widths import InnerWidths
from slicing.late import row_policy
from slicing.memory import Holds
from slicing.steps.base import Cost, step
from slicing.steps.inner import Inner, InnerPlan, at_size, widths_of_shares

if TYPE_CHECKING:
    from torch import Tensor

    from slicing.view import ModelView


@step
class Prunenet(Inner):
    """Keep the channels that a trained policy scores highest by the rows of the first reader of their MLP.

    An episode goes through all blocks: the policy draws the rows that stay, and is rewarded by how alike the
    singular values are that this leaves. Every block loses the same share. In the end nothing is drawn.
    """

    name = "prunenet"
    title = "Learned policy (PruneNet)"
    source = "Sengupta et al., PruneNet, ICLR 2025"
    cite = "sengupta2025prunenet"
    known_issue = (
        "The published code draws the final channels at random too, and clips gradients after the step; here "
        "the highest scores stay, and gradients are clipped before it."
    )
    kinds = ("channels",)
    trains = True
    holds = Holds(moments=False, policy=True)

    restore: bool = Field(default=False, title="Least-squares restoration")
    """Fit every output projection that lost inputs to what the dense one writes. The method does not, which
    needs no text."""
    episodes: int = Field(default=20, ge=0, title="Episodes of training")
    """Each looks at the singular values of one weight in every block."""
    learning_rate: float = Field(default=1e-3, gt=0.0, title="Learning rate")
    gamma: float = Field(default=0.99, gt=0.0, le=1.0, title="Discount from block to block")
    """The reward of block l counts ``gamma^l``."""
    seed: Seed = Field(default=0, ge=0, title="Seed of the policy")

    def cost(self, tokens: int, window_length: int) -> Cost:
        """As much for every episode as a few hundred tokens take, whatever the text."""
        _, *fits = super().cost(tokens, window_length)
        return (("Training the policy", 300.0 * self.episodes), *fits)

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """The share of every block decides how many go; the policy, trained at these widths, which."""
        shape = view.shape

        def widths(share: float) -> InnerWidths:
            return widths_of_shares(shape, [share] * shape.block_count, self.kinds_cut(shape))

        found = at_size(widths, shape, size, self.name)
        return InnerPlan(found, best_units(view.model, found, self.scores(view, found)))

    def scores(self, view: ModelView, widths: InnerWidths) -> Scores:
        """The scores of all channels that are to be chosen among, by the policy trained at these widths."""
        found: Scores = {}
        if readers := _readers(view.model, widths):
            policy = self.trained(view, readers)
            for each in readers:
                with torch.no_grad(), each.weight(view.model) as weight:
                    found[each.block, each.branch, "channels"] = policy(weight).sigmoid().cpu().numpy()
        return found

    def trained(self, view: ModelView, readers: Sequence[Reader]) -> row_policy.Policy:
        """The policy after all episodes: REINFORCE, with gradients of no more than norm 1."""
        model, draw = view.model, torch.Generator().manual_seed(self.seed)
        dense, width = [], 0
        for each in readers:
            with each.weight(model) as weight:
                dense.append(singular_values(weight))
                width = weight.shape[1]
        policy = row_policy.Policy(len(readers[0].rows), width, draw).to(model.device)
        optimiser = torch.optim.AdamW(policy.parameters(), lr=self.learning_rate)
        for episode in range(self.episodes):
            optimiser.zero_grad()
            for each, spectrum in zip(readers, dense, strict=True):
                with torch.enable_grad(), each.weight(model) as weight:
                    found = policy.draw(weight, each.kept, draw)
                    distance = kolmogorov_smirnov(spectrum, singular_values(weight[found.rows]))
                    reward = 1.0 / max(distance, 1.0 / len(spectrum))
                    (-found.chance * self.gamma**each.block * reward).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimiser.step()
            view.progress("Training the policy", episode + 1, self.episodes)
        return policy


class Reader(NamedTuple):
    """The weight whose rows make the channels of one MLP, and how many of them are to stay."""

    block: int
    branch: int
    core: nn.Module
    name: str
    rows: np.ndarray
    """(n,): the row of every channel."""
    kept: int

    @contextmanager
    def weight(self, model: Any) -> Iterator[Tensor]:
        """Yield the rows of the channels, (n, D) fp32, on the model's device."""
        module: Any = self.core.get_submodule(self.name.removesuffix(".weight"))
        with present(blocks(model)[self.block]):
            found = out_in(module).detach()
            rows = found[torch.as_tensor(self.rows, device=found.device)]
            yield rows.to(model.device, torch.float32)


def _readers(model: Any, widths: InnerWidths) -> list[Reader]:
    """The first reader, which is the gate where there is one, of every MLP that is to lose channels."""
    found = []
    for place, (block, row) in enumerate(zip(blocks(model), read_units(model), strict=True)):
        for index, ((sublayer, branch), units) in enumerate(zip(branches_of(model), row, strict=True)):
            kept = widths.blocks[place][sublayer].kept.get("channels")
            for each in units.of("channels")[: kept is not None]:
                root = block if " " in branch.core else core_of(block, branch)
                name = next(name for name in each.rows if name.endswith(".weight"))
                found.append(Reader(place, index, root, name, each.rows[name][:, 0], kept or 0))
    return found


def singular_values(weight: Tensor) -> Tensor:
    """The singular values of a weight (n, D), rising, by the smaller of its two Gram matrices in fp64."""
    wide = widen(weight)
    gram = wide @ wide.T if len(wide) < wide.shape[1] else wide.T @ wide
    return torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()


def kolmogorov_smirnov(first: Tensor, second: Tensor) -> float:
    """The largest difference between the shares of two sets of numbers that lie at or below any number."""
    every = torch.cat([first, second])
    shares = [
        torch.searchsorted(each.sort().values, every, right=True) / len(each) for each in (first, second)
    ]
    return float((shares[0] - shares[1]).abs().max())
