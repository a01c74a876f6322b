"""How redundant a block is: every score, each one entry in ``SCORES``.

A score measures tokens (what enters a block against what leaves it) in the one pass of a profile, or is
probed: each block by itself, with passes of its own (``analysis.probes``, ``slicing.probes``). From the mean
of that it derives one number per block. Knows nothing about models, hooks or windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from analysis.errors import SlicescopeError, unknown_name
from analysis.late import torch

if TYPE_CHECKING:
    from torch import Tensor

_CHANGE = ("changes its input least", "changes its input most")
"""Such predicates for scores that compare the stream before and after a block."""

Measure = Callable[["Tensor", "Tensor"], "Tensor"]
"""(..., D) entering and (..., D) leaving a block -> (...) one value per token, fp32 or better."""


def cosine(entering: Tensor, leaving: Tensor) -> Tensor:
    """The cosine between a token's state before and after the block, in [-1, 1].

    In fp32 or better, and by the states themselves: a product in fp16 overflows at norms above 256.
    """
    return Passage.of(entering, leaving).cosine


def dot(one: Tensor, other: Tensor) -> Tensor:
    """The inner products of the last dimension, (..., D) and (..., D) -> (...)."""
    if one.device.type == "cpu":
        return torch.linalg.vecdot(one, other)
    # There the products would be written and read again before they are summed.
    return (one.unsqueeze(-2) @ other.unsqueeze(-1)).squeeze(-1).squeeze(-1)


class Passage(NamedTuple):
    """A batch of states (..., D) as a block finds and leaves them, in fp32 or better, with their norms.

    On an accelerator measuring takes as long as reading and writing the states, so that each is read once.
    """

    entering: Tensor
    leaving: Tensor
    norms: tuple[Tensor, Tensor]
    """The norms of the states entering and of those leaving, (...) each."""
    cosine: Tensor
    """(...), in [-1, 1]."""
    left: Tensor
    """The states as they left, in their own dtype."""

    @classmethod
    def of(cls, entering: Tensor, leaving: Tensor, before: Passage | None = None) -> Passage:
        """Measure what a block makes of states; the one ``before`` it may have measured what enters."""
        precise = torch.promote_types(entering.dtype, torch.float32)
        if before is not None and before.left is entering:
            entering, norm = before.leaving, before.norms[1]
        else:
            entering = entering.to(precise)
            norm = torch.linalg.vector_norm(entering, dim=-1)
        left, leaving = leaving, leaving.to(precise)
        norms = norm, torch.linalg.vector_norm(leaving, dim=-1)
        both = (norms[0] * norms[1]).clamp_min(torch.finfo(precise).tiny)
        return cls(entering, leaving, norms, (dot(entering, leaving) / both).clamp(-1.0, 1.0), left)


def angular_distance(entering: Tensor, leaving: Tensor) -> Tensor:
    """The angle between the two states over pi, in [0, 1]; 0.5 when they are orthogonal."""
    return torch.arccos(cosine(entering, leaving)) / math.pi


def _scaled(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    spread = np.ptp(mean)
    return (values - mean.min()) / spread if spread > 0 else np.ones_like(values)


def _one_minus(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return 1.0 - values


def _as_is(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return values


@dataclass(frozen=True)
class Score:
    """One way to say how redundant a block is."""

    name: str
    title: str
    description: str
    """One sentence: the formula, the range, and which direction is more redundant."""
    source: str
    measure: Measure | None
    """``None`` for a score that is probed."""
    tokens: Literal["all", "last"]
    """Averaged over all tokens of a window, or taken at its last one only."""
    derive: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(values, mean over windows (L,)) -> the score; values have the blocks as their last axis."""
    higher_is_redundant: bool
    cite: str = ""
    """A key of ``app.citations.ENTRIES``, or a BibTeX entry of its own."""
    quick: bool = True
    """Whether it takes no pass for every block."""
    after_norm: bool = False
    """Whether the state that leaves the last block is taken after the model's final norm."""
    known_issue: str = ""
    """A sentence that tells the known fault of the score or of its released code; empty without one."""
    ends: tuple[str, str] = ("is the most redundant", "is the least redundant")
    """Predicates for sentences about the most and the least redundant block."""

    @property
    def measurement(self) -> str:
        """The name of what it is derived from in a profile; scores may share one."""
        if self.measure is None:
            return self.name
        return f"{self.measure.__name__}-after-norm" if self.after_norm else self.measure.__name__

    @property
    def of_cosine(self) -> bool:
        """Whether it is derived from a cosine, of which one minus the cosine is the change."""
        return self.measurement.startswith("cosine")

    @property
    def about(self) -> str:
        """Describe the score, with its known issue where it has one."""
        return f"{self.description} Known issue: {self.known_issue}" if self.known_issue else self.description


def _probed(
    name: str,
    title: str,
    description: str,
    source: str,
    higher_is_redundant: bool,
    cite: str,
    quick: bool = True,
    ends: tuple[str, str] = Score.ends,
) -> Score:
    return Score(
        name, title, description, source, None, "all", _as_is, higher_is_redundant, cite, quick, ends=ends
    )


_LIST = (
    Score(
        "lr",
        "LR score",
        "Mean cosine of a block's input and output, scaled so that the most changing block has 0 and the "
        "least changing one 1; higher means more redundant.",
        "Dumitru et al., Change Is the Only Constant, Findings of EMNLP 2024",
        cosine,
        "all",
        _scaled,
        higher_is_redundant=True,
        cite="dumitru2024change",
        ends=_CHANGE,
    ),
    Score(
        "lr-published",
        "LR score as released",
        "What the released code computes: the LR score with the last block's output taken after the model's "
        "final norm, from 0 to 1; higher means more redundant.",
        "Dumitru et al., Change Is the Only Constant, Findings of EMNLP 2024, released code",
        cosine,
        "all",
        _scaled,
        higher_is_redundant=True,
        cite="dumitru2024change",
        after_norm=True,
        known_issue="The last of the hidden states that transformers returns has passed the final norm, so "
        "that the last block seems to change its input most and is spared; 'lr' compares the stream with "
        "itself.",
        ends=_CHANGE,
    ),
    Score(
        "block-influence",
        "Block influence",
        "One minus the mean cosine of a block's input and output, from 0 to 2; lower means more redundant.",
        "Men et al., ShortGPT, Findings of ACL 2025",
        cosine,
        "all",
        _one_minus,
        higher_is_redundant=False,
        cite="men2025shortgpt",
        ends=_CHANGE,
    ),
    Score(
        "angular",
        "Angular distance",
        "Angle between a block's input and output over pi, at the last token of each window, from 0 to 1; "
        "lower means more redundant.",
        "Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, ICLR 2025",
        angular_distance,
        "last",
        _as_is,
        higher_is_redundant=False,
        cite="gromov2025unreasonable",
        ends=_CHANGE,
    ),
    _probed(
        "leave-one-out",
        "Leave-one-out loss",
        "Rise of the loss, nats per token, when the block is left out; lower means more redundant.",
        "Rethinking Layer Relevance Beyond Cosine Similarity, ICLR 2026",
        higher_is_redundant=False,
        cite="rethinking2026relevance",
        quick=False,
        ends=("costs least when it is left out", "costs most when it is left out"),
    ),
    _probed(
        "slice-one",
        "Slice-one loss",
        "Rise of the loss, nats per token, when a quarter of the block's width is cut and no other block's; "
        "lower means more redundant.",
        "slicescope",
        higher_is_redundant=False,
        cite="ashkboos2024slicegpt",
        quick=False,
        ends=("costs least when it alone is cut", "costs most when it alone is cut"),
    ),
    _probed(
        "discarded-energy",
        "Discarded energy",
        "Share of the stream's energy outside the leading three quarters of the directions where the block "
        "reads and writes it, from 0 to 1; lower means more redundant.",
        "Ashkboos et al., SliceGPT, ICLR 2024",
        higher_is_redundant=False,
        cite="ashkboos2024slicegpt",
        ends=("loses the least energy to a cut", "loses the most energy to a cut"),
    ),
    _probed(
        "heavy-tail",
        "Heavy-tail exponent",
        "Mean Hill estimate of the power law that the larger half of the squared singular values of the "
        "block's weights follows; higher means a lighter tail, less trained and more redundant. Needs no "
        "text.",
        "Lu et al., AlphaPruning, NeurIPS 2024",
        higher_is_redundant=True,
        cite="lu2024alphapruning",
    ),
    _probed(
        "depth",
        "Depth",
        "How deep the block lies, from 0 for the first to 1 for the last; deeper counts as more redundant.",
        "Huang et al., Determining Layer-wise Sparsity, ICML 2025",
        higher_is_redundant=True,
        cite="huang2025determining",
    ),
    _probed(
        "activation",
        "Activation norm inside",
        "Mean RMS of the block's channels and value coordinates, relative to the stream; lower means more "
        "redundant.",
        "Sandri et al., 2SSP, TMLR 2025, as the mean of a block",
        higher_is_redundant=False,
        cite="sandri2025twossp",
        quick=False,
    ),
    _probed(
        "wanda",
        "Wanda inside",
        "Mean over the block's channels and value coordinates of their absolute output weights times their "
        "RMS, relative to the stream; lower means more redundant.",
        "Sun et al., Wanda, ICLR 2024, as the mean of a block",
        higher_is_redundant=False,
        cite="sun2024wanda",
        quick=False,
    ),
    _probed(
        "leverage",
        "Leverage inside",
        "Mean ridge leverage of the block's channels and value coordinates, from 0 to 1: how little the "
        "others can stand in for them; lower means more redundant.",
        "Lin et al., MoDeGPT, ICLR 2025, as the mean of a block",
        higher_is_redundant=False,
        cite="lin2025modegpt",
        quick=False,
    ),
    _probed(
        "fisher",
        "Fisher information inside",
        "Mean squared slope of the loss, token by token, in a factor on the block's channels and value "
        "coordinates; lower means more redundant.",
        "Kwon et al., NeurIPS 2022, as the mean of a block",
        higher_is_redundant=False,
        cite="kwon2022fast",
        quick=False,
    ),
    _probed(
        "taylor",
        "First-order Taylor inside",
        "Mean over the block's channels and value coordinates of |gradient times weight|, summed over all "
        "weights that go with each; lower means more redundant.",
        "Ma et al., LLM-Pruner, NeurIPS 2023, as the mean of a block",
        higher_is_redundant=False,
        cite="ma2023llmpruner",
        quick=False,
    ),
)
SCORES: dict[str, Score] = {score.name: score for score in _LIST}


def find_score(name: str) -> Score:
    """The score of this name, or an error that suggests the nearest."""
    if name not in SCORES:
        raise SlicescopeError(unknown_name("score", name, SCORES))
    return SCORES[name]
