"""Bases of the dense stream, all found in one pass, by any rule but the usual one.

Those of principal components are kept whole, for whatever schedule (``analysis.bases``); a rule may need to
know the widths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.anatomy import anatomy_of
from analysis.bases import Bases, BasesCollector
from analysis.device import out_of_memory_told
from analysis.read_shape import read_shape
from analysis.values import Progress, no_progress
from slicing.basis.base import Basis, along
from slicing.schedule import SlicingSchedule

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def bases_for(
    model: PreTrainedModel,
    schedule: SlicingSchedule,
    windows: Tensor,
    basis: Basis,
    draw: int = 0,
    progress: Progress = no_progress,
) -> Bases:
    """The bases of the dense stream that ``basis`` chooses for a schedule, to slice in.

    ``windows`` (N, T) of token ids; ``draw`` is the number of a random draw. Raises what ``find_bases`` does,
    and ``PlanError`` for the schedule of another model.
    """
    shape = read_shape(model)
    schedule.check_fits(shape)
    collector = BasesCollector(model, tokens=basis.tokens)
    rows, sites = len(anatomy_of(model.config).sublayers), range(len(shape.sublayers))
    vectors: list[Tensor] = []
    energies: list[Tensor] = []
    with out_of_memory_told("finding bases"):
        collector.look(windows, progress)
        while len(vectors) < len(sites):
            begin, end = schedule.basis_of(len(vectors) // rows)
            among = range(rows * begin, rows * end) if schedule.span else sites[len(vectors) :][:1]
            moments = [total.moment() for site in among if (total := collector.sums[site]) is not None]
            seen = collector.seen(among, len(vectors))
            found, _ = basis.directions(seen, schedule.widest(begin), draw)
            vectors += [found.float()] * len(among)
            energies += [along(found.to(moment.device), moment) for moment in moments]
    return Bases(tuple(vectors), tuple(energies), principal=False)
