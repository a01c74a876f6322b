"""Principal bases of the residual stream: the directions its tokens live in, by energy.

Knows the sites of the stream (before every sub-layer) but nothing about what is done with a basis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError

from analysis.anatomy import anatomy_of, blocks, final_norm
from analysis.batches import tokens_at_a_time
from analysis.device import HOST, memory_of, out_of_memory_told, precise_home, present, widen
from analysis.errors import ModelError, StorageError
from analysis.evaluate import check_windows
from analysis.late import inference_mode, tensor_files, torch
from analysis.needs import FP32, MemoryNeed, bases_need, fits, is_spread, refuse_unless_it_fits
from analysis.precision import calibration, matmuls
from analysis.products import multiplied, parts, pays
from analysis.stream import BlockStream, pass_windows
from analysis.subspace import eigenvectors
from analysis.ticks import part_of
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

_ROWS, _MORE_ROWS = 2048, 16_384
"""Tokens whose products are summed in fp32 before they join the fp64 sum, on a CPU and on an accelerator.
There the sum takes longer to be read and written than the products of few tokens take. On the demo model, a
quarter sliced, the perplexities of the two are 0.03 % apart, no more than by another order of the sums."""
_PANELS, _FEWEST, _NARROWEST, _WIDEST = 6, 3, 96, 1024
"""Column panels of a Gram product, at least so many of narrow ones, and the columns of one. Below the panels
nothing is computed, so that 7/12 of the work is left, or 2/3. What is narrower gains nothing from more."""
_MASSIVE = 64.0
"""Rows with this many times the median energy are summed in fp64."""
JITTER = 1e-6
"""Size of the noise of ``jittered``, relative to each entry: some sixteen times what fp32 rounds by. On the
demo model (4 calibration windows of 512, a quarter sliced) it moves the perplexity by up to 0.45 %, and
another order of the sums by 0.05 %."""
_DRAW: ContextVar[int] = ContextVar("the draw of the noise on second moments", default=0)


@contextmanager
def jittered(draw: int) -> Iterator[None]:
    """Let every second moment that is read inside the ``with`` carry noise, by its ``draw``; 0 for none.

    Each entry is multiplied by 1 + ``JITTER`` n, where n is standard normal and the same on both sides of the
    diagonal. A draw is the same for all matrices of one width, so that what comes of it does not depend on
    which were read before. Beside a massive token it can drown the least eigenvalues, which then count as 0.
    It holds in this thread alone.
    """
    token = _DRAW.set(draw)
    try:
        yield
    finally:
        _DRAW.reset(token)


class Covariance:
    """The uncentred second moment of a stream, accumulated batch by batch: fp32 products, fp64 sums.

    A massive token (the first of a window, often) can carry almost all of the energy; added up in fp32, the
    directions the other tokens live in drown (SliceGPT, 2401.15024, Tables 4 and 5: 8.5 against 7.6
    perplexity). So massive rows go through fp64, the rest through fp32 blocks, whose rounding is then
    small beside what the rest itself contributes.
    """

    def __init__(self, width: int, device: torch.device, alone: int = 0) -> None:
        """``alone``: of so many of the last columns only the squares are summed up, and their products with
        the columns before them.
        """
        self.device = precise_home(device)
        self.rows = width - alone
        self.upper = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        """The upper triangle of the sum; what lies below the panels is not kept."""

    def add(self, states: Tensor) -> None:
        """Add the tokens of ``states``, shape (..., D)."""
        flat = states.reshape(-1, states.shape[-1])
        with torch.autocast(flat.device.type, enabled=False):
            if self.rows < flat.shape[1]:
                squares = widen(flat[:, self.rows :], self.device).square().sum(dim=0)
                self.upper.diagonal()[self.rows :] += squares
            if flat.dtype is torch.float64:
                self.upper[: self.rows].addmm_(flat[:, : self.rows].T, flat)
                return
            # Products of bf16 are exact in fp32, and a GPU makes them faster than those of fp32.
            flat = flat if flat.dtype is torch.bfloat16 and flat.device.type == "cuda" else flat.float()
            energy = flat.float().square().sum(dim=1)
            massive = energy > _MASSIVE * energy.median()
            if massive.any():
                rows = widen(flat[massive], self.device)
                self.upper[: self.rows].addmm_(rows[:, : self.rows].T, rows)
                flat = flat[~massive]
            most = min(-(-self.rows // _FEWEST), _NARROWEST)
            panel = min(max(-(-self.rows // _PANELS), most), _WIDEST)
            for rows in flat.split(_ROWS if flat.device.type == HOST else _MORE_ROWS):
                halves = parts(rows)
                for start in range(0, self.rows, panel):
                    end = min(start + panel, self.rows)
                    some = tuple(each[:, start:end].T for each in halves)
                    total = multiplied(some, tuple(each[:, start:] for each in halves), squares=True)
                    self.upper[start:end, start:] += total.to(self.device)

    def moment(self) -> Tensor:
        """The whole symmetric sum, (D, D), fp64, with the noise of ``jittered``.

        Raises ``ModelError`` when a state was not finite.
        """
        upper = self._read()
        return upper.triu().add_(upper.triu(1).T)

    def energy(self) -> float:
        """The trace of the sum."""
        return float(self.upper.diagonal().sum())

    def principal_basis(self) -> tuple[Tensor, Tensor]:
        """Find the principal basis of ``moment``, with its noise, as ``principal`` does.

        Raises ``ModelError`` when a state was not finite.
        """
        return principal(self.moment())

    def _read(self) -> Tensor:
        """The upper triangle of the sum, with noise where a draw is set."""
        if not self.upper.isfinite().all():
            raise ModelError("The stream is not finite: open the model in bfloat16 or float32.")
        draw = _DRAW.get()
        if draw == 0:
            return self.upper
        drawn = torch.Generator().manual_seed(draw)  # on the host: the same numbers on every device
        noise = torch.randn(self.upper.shape, dtype=torch.float64, generator=drawn)
        return noise.to(self.device).mul_(JITTER).add_(1.0).mul_(self.upper)


class Moment(NamedTuple):
    """A second moment that is known whole, such as that of streams that are to share a basis."""

    total: Tensor
    """(D, D), fp64."""

    @classmethod
    def joint(cls, moments: Iterable[Tensor]) -> Moment:
        """Add second moments (D, D), fp64, each divided by its trace, since the stream grows with depth."""
        first, *others = (moment / moment.trace() for moment in moments)
        for moment in others:
            first += moment.to(first.device)  # a model may be spread over devices
        return cls(first)

    def moment(self) -> Tensor:
        """(D, D), fp64."""
        return self.total

    def principal_basis(self) -> tuple[Tensor, Tensor]:
        """Find the principal basis of it, as ``principal`` does."""
        return principal(self.total)


def principal(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Find the eigenvectors of a second moment (D, D) as columns (D, D), and its eigenvalues (D,), fp64.

    The moment is in fp64. Both come by decreasing eigenvalue. The eigenvectors are in fp64, or on a GPU, by
    products, in fp32.
    """
    if pays(moment.device, len(moment)):
        found = eigenvectors(moment)
        if found is not None:
            return found
    values, vectors = torch.linalg.eigh(moment, UPLO="U")
    return vectors.flip(-1), values.flip(-1).clamp_min(0.0)


def joint_basis(moments: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The principal basis of streams that are to share one: (D, D) and (D,), as ``principal_basis`` gives it.

    See ``Moment.joint``.
    """
    return Moment.joint(moments).principal_basis()


class TokenSample:
    """Up to so many tokens of a stream, evenly spaced over all of it, however it comes in batches."""

    def __init__(self, most: int) -> None:
        """``most``: tokens that are kept; 0 for none."""
        self.most, self.seen, self.every = most, 0, 1
        self.kept: Tensor | None = None
        """(n, D), in the dtype that they came in."""

    def add(self, states: Tensor) -> None:
        """Look at the tokens of ``states``, (..., D)."""
        if not self.most:
            return
        flat = states.reshape(-1, states.shape[-1])
        rows = flat[-self.seen % self.every :: self.every]
        kept = rows if self.kept is None else torch.cat([self.kept, rows])
        self.seen += len(flat)
        while len(kept) > self.most:
            kept, self.every = kept[::2], 2 * self.every
        self.kept = kept.clone()  # what it is a part of would stay in memory

    def tokens(self) -> Tensor:
        """(n, D), with n from half of ``most`` to all of it, or as many tokens as there were."""
        assert self.kept is not None, "it saw tokens"
        return self.kept


class Seen(NamedTuple):
    """Hold the moments and sampled tokens of the stream at one site, or at several that share a basis."""

    second: Covariance | Moment
    tokens: Tensor | None = None
    """(n, D), a sample, where one was asked for."""
    place: int = 0
    """Its number among the places where a basis is asked for."""


class Bases(NamedTuple):
    """The principal basis of the dense stream before every sub-layer."""

    vectors: tuple[Tensor, ...]
    """(D, D) each, columns by decreasing energy, fp32."""
    energies: tuple[Tensor, ...]
    """(D,) each, fp64: the energy along every column."""
    principal: bool = True
    """Whether they are principal, so that others follow from them; else each is to be taken as it is."""

    def discarded(self, site: int, width: int) -> float:
        """Share of the energy at ``site`` outside the leading ``width`` directions."""
        energies = self.energies[site]
        return float(energies[width:].sum() / energies.sum())

    def shared(self, sites: range) -> Tensor:
        """The basis of several sites together, (D, D), columns by decreasing energy, fp32."""
        if not self.principal:
            return self.vectors[sites[0]]
        vectors = [widen(self.vectors[site]) for site in sites]
        moments = ((v * self.energies[site]) @ v.T for site, v in zip(sites, vectors, strict=True))
        return joint_basis(moments)[0].float()

    def missed(self, site: int, basis: Tensor) -> float:
        """Share of the energy at ``site`` outside the columns of ``basis`` (D, W)."""
        if not self.principal:
            return self.discarded(site, basis.shape[1])
        energies = self.energies[site]
        kept = ((widen(basis).T @ widen(self.vectors[site])).square() * energies).sum()
        return max(0.0, 1.0 - float(kept / energies.sum()))

    @property
    def bytes(self) -> int:
        """The bytes that the bases take, in memory and on disk."""
        return sum(tensor.nbytes for tensor in (*self.vectors, *self.energies))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {f"vectors.{i}": v.contiguous() for i, v in enumerate(self.vectors)}
        tensors |= {f"energies.{i}": e.contiguous() for i, e in enumerate(self.energies)}
        tensor_files.save_file(tensors, path)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Bases:
        """Read what ``save`` wrote (``StorageError`` when it is missing or damaged).

        On a card they take no more than a quarter of what is free; larger ones stay in the host's memory,
        where they are a file that is read as it is needed.
        """
        try:
            tensors = tensor_files.load_file(path)
            sites = range(len(tensors) // 2)
            size = sum(each.nbytes for each in tensors.values())
            if device.type == "cuda" and size > memory_of(device)[0] // 4:
                device = torch.device(HOST)
            return cls(
                tuple(tensors[f"vectors.{i}"].to(device) for i in sites),
                tuple(widen(tensors[f"energies.{i}"], device) for i in sites),
            )
        except (OSError, SafetensorError, KeyError):
            raise StorageError(f"The bases '{path}' cannot be read: profile the model again.") from None


class BasesCollector:
    """Sums up the stream at every site during forward passes of the dense model, or of some of its blocks."""

    def __init__(
        self, model: Any, some: slice = slice(None), together: bool = False, tokens: int = 0
    ) -> None:
        """``some`` of the blocks; ``tokens``: so many are kept at each site.

        ``together``: all sites are summed up as one, that before the head among them, and every token counts
        alike, since one basis for all must not serve the massive tokens and the last blocks alone. (On the
        demo model, a fifth of the width cut, sites normalised by their energy give a perplexity of 74.1, and
        tokens 69.2.)
        """
        anatomy = anatomy_of(model.config)
        self.model = model
        self.centred = anatomy.centred
        self.norms = [
            getattr(block, branches[0].norm)
            for block in blocks(model)[some]
            for branches in anatomy.sublayers
        ]
        if together:
            self.norms.append(final_norm(model))
        self.together = together
        self.sites = [0 if together else site for site in range(len(self.norms))]
        """The sum that the stream in front of each of these norms joins."""
        self.sums: list[Covariance | None] = [None] * (1 if together else len(self.norms))
        self.samples = [TokenSample(tokens) for _ in self.sums]

    def need(self, windows: Tensor) -> MemoryNeed:
        """Tell what the sums at all of its sites take, with a batch of ``windows`` that passes."""
        width = self.model.get_input_embeddings().weight.shape[1]
        tokens = tokens_at_a_time(windows, self.model.device)
        return bases_need(self.model, len(self.sums), width, tokens)

    def refuse_unless_they_fit(self, windows: Tensor) -> None:
        """Raise ``OutOfMemoryError`` where the sums at all sites and a batch of ``windows`` do not fit."""
        refuse_unless_it_fits("Finding bases", self.model, self.need(windows))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Add what passes inside the ``with``."""
        handles = [
            norm.register_forward_pre_hook(lambda _, args, site=site: self.add(site, args[0]))
            for site, norm in zip(self.sites, self.norms, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @inference_mode
    def look(self, windows: Tensor, progress: Progress = no_progress) -> None:
        """Add what passes when the model reads ``windows`` (N, T) of token ids, without its head."""
        check_windows(self.model, windows)
        self.refuse_unless_they_fit(windows)
        precise = matmuls(calibration(), self.model.device, self.model.dtype)
        with self.watching(), precise:
            pass_windows(self.model, windows, lambda *_: None, progress=progress, phase="Finding bases")

    def add(self, site: int, states: Tensor) -> None:
        """Add a batch of the stream, (B, T, D), at one of the ``sites``."""
        total = self.sums[site]
        if total is None:
            total = self.sums[site] = Covariance(states.shape[-1], states.device)
        if self.centred or self.together:
            states = states.to(torch.promote_types(states.dtype, torch.float32))
        # The mean is what a layer norm takes off; in a sliced model the writers do, so it is no direction.
        states = states - states.mean(dim=-1, keepdim=True) if self.centred else states
        if self.together:
            states = states * states.square().mean(-1, keepdim=True).clamp_min(1e-24).rsqrt()
        total.add(states)
        self.samples[site].add(states)

    def seen(self, sites: range, place: int) -> Seen:
        """Add up the moments of some sites, each with the same weight, and free them."""
        totals = [total for site in sites if (total := self.sums[site]) is not None]
        tokens = None
        if self.samples[0].most:
            rows = (sample.tokens() for sample in self.samples[sites.start : sites.stop])
            tokens = torch.cat(
                [
                    each.to(totals[0].device) / total.energy() ** 0.5
                    for each, total in zip(rows, totals, strict=True)
                ]
            )
        for site in sites:
            self.sums[site] = None
        return Seen(Moment.joint(total.moment() for total in totals), tokens, place)

    def bases(self, progress: Progress = no_progress) -> Bases:
        """The bases, found one after the other; the sums are given up."""
        vectors, energies = [], []
        for site, total in enumerate(self.sums):
            assert total is not None
            found, energy = total.principal_basis()
            vectors.append(found.float())
            energies.append(energy)
            self.sums[site] = None
            progress("Finding bases", site + 1, len(self.sums))
        return Bases(tuple(vectors), tuple(energies))


def sums_fit(model: Any, windows: Tensor) -> bool:
    """Tell whether the sums at all sites fit in one memory, so that one pass of the whole model fills them.

    Those of a model that is spread lie on several devices, and what rests elsewhere had better visit once.
    """
    return not is_spread(model) and fits(model, BasesCollector(model).need(windows))


def refuse_unless_bases_fit(model: Any, windows: Tensor) -> None:
    """Raise ``OutOfMemoryError`` where ``find_bases`` does not fit, one block after the other."""
    if not sums_fit(model, windows):
        need = BasesCollector(model, slice(0, 1)).need(windows)
        width, tokens = model.get_input_embeddings().weight.shape[1], windows.numel()
        kept = len(BasesCollector(model).sums) * width * width * FP32  # in the host's memory
        refuse_unless_it_fits(
            "Finding bases",
            model,
            need.model_copy(
                update={
                    "bases": need.bases + kept,
                    "activations": tokens * width * model.dtype.itemsize,
                    "resting": kept,
                }
            ),
        )


@inference_mode
def find_bases(model: Any, windows: Tensor, progress: Progress = no_progress) -> Bases:
    """The bases of the dense stream over ``windows`` (N, T) of token ids, in one pass without the head.

    Where the sums at all sites do not fit at once, the stream is carried through one block after the other,
    and what is found rests in the host's memory. Raises ``OutOfMemoryError``, before the pass where that can
    be told.
    """
    check_windows(model, windows)
    with out_of_memory_told("finding bases"):
        if not sums_fit(model, windows):
            refuse_unless_bases_fit(model, windows)
            return _block_by_block(model, windows, progress)
        collector = BasesCollector(model)
        total = len(windows) + len(collector.sums)
        collector.look(windows, part_of(progress, 0, total))
        return collector.bases(part_of(progress, len(windows), total))


def _block_by_block(model: Any, windows: Tensor, progress: Progress) -> Bases:
    """Find the bases of one block at a time, so that the sums of no more than its sites are in memory."""
    stream, every = BlockStream(model, windows), blocks(model)
    vectors: list[Tensor] = []
    energies: list[Tensor] = []
    for place, block in enumerate(every):
        collector = BasesCollector(model, slice(place, place + 1))
        with present(block) as device, collector.watching():
            stream.move(device)
            stream.through(block, place)
        found = collector.bases()
        vectors += [each.to(HOST) for each in found.vectors]
        energies += [each.to(HOST) for each in found.energies]
        progress("Finding bases", place + 1, len(every))
    return Bases(tuple(vectors), tuple(energies))
