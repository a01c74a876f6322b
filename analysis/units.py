"""Which rows and columns of a branch live and die together: the smallest parts that can be taken out of it.

Knows index arithmetic alone: nothing about families, torch, or what a unit is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["channels", "experts", "expert_channels", "kv_groups", "value_pairs", "rotary_pairs"]
"""``channels``: of an MLP. ``experts``: whole, with their rows of the router. ``expert_channels``: of every
expert. ``kv_groups``: heads of keys and values, with the query heads that attend to them. ``value_pairs``:
one coordinate of the values of a group, with what each of its query heads makes of it. ``rotary_pairs``: two
coordinates of queries and keys that positions turn together."""

COARSE: tuple[Kind, ...] = ("channels", "experts", "kv_groups")
"""Kinds that share out a branch: a row or column belongs to one unit of them at most."""

Index = np.ndarray
"""(units, rows per unit), of integers."""


@dataclass(frozen=True)
class Units:
    """The units of one kind in a branch, by the places of their parts in weights and biases.

    A stack of experts (E, out, in) counts as one weight with E * out rows and E * in columns.
    """

    kind: Kind
    rows: Mapping[str, Index]
    """Output features, by the name of a weight, a bias or a vector: (units, rows per unit)."""
    columns: Mapping[str, Index]
    """Input features, by the name of a weight: (units, columns per unit)."""
    parts: int = 1
    """The units, in order, fall into so many equal parts, and each must keep equally many of its own."""

    @property
    def count(self) -> int:
        """How many units there are."""
        return len(next(iter({**self.rows, **self.columns}.values())))


@dataclass(frozen=True)
class BranchUnits:
    """All units of a branch, and why it has none of the other kinds."""

    units: tuple[Units, ...]
    refused: Mapping[Kind, str]
    """One sentence for each kind that would have no sound meaning here."""
    cached: int = 0
    """Numbers that an attention keeps of one token: its keys and values."""

    def of(self, kind: Kind) -> tuple[Units, ...]:
        """The units of one kind; more than one value where the branch has several MLPs."""
        return tuple(each for each in self.units if each.kind == kind)


@dataclass(frozen=True)
class Heads:
    """Where the coordinates of every head lie in the weights of an attention."""

    queries: tuple[str, Index]
    """The weight and the places (query heads, head size)."""
    keys: tuple[str, Index]
    """The same of the keys, (groups, head size)."""
    values: tuple[str, Index]
    """The same of the values, (groups, value size)."""
    writer: tuple[str, Index]
    """Columns of what writes the stream, (query heads, value size)."""

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return len(self.values[1])


def in_sections(heads: int, groups: int, size: int) -> tuple[Index, Index, Index]:
    """Queries, keys and values of a fused weight that has all queries, then all keys, then all values."""
    places = np.arange((heads + 2 * groups) * size).reshape(-1, size)
    return places[:heads], places[heads : heads + groups], places[heads + groups :]


def in_groups(heads: int, groups: int, size: int) -> tuple[Index, Index, Index]:
    """The same where each group has its queries, its key and its value side by side."""
    places = np.arange((heads + 2 * groups) * size).reshape(groups, heads // groups + 2, size)
    return places[:, :-2].reshape(heads, size), places[:, -2], places[:, -1]


def in_blocks(blocks: int, heads: int, size: int) -> tuple[Index, Index, Index]:
    """The same where each of ``blocks`` has its queries, its values and its keys, one for every head."""
    places = np.arange(3 * heads * size).reshape(blocks, 3, heads // blocks, size)
    queries, values, keys = (places[:, part].reshape(heads, size) for part in range(3))
    return queries, keys, values


def channels(readers: Mapping[str, int], writer: str, count: int) -> Units:
    """Channels of an MLP: one row of each half of every reader, by its number of rows, one column."""
    rows = {name: np.arange(size).reshape(-1, count).T for name, size in readers.items()}
    return Units("channels", rows, {writer: np.arange(count)[:, None]})


def experts(
    router: Mapping[str, int], readers: Mapping[str, int], writer: str, columns: int, count: int, parts: int
) -> Units:
    """Experts of a stack, each with its entry in every part of the router."""
    rows = {name: np.arange(size).reshape(count, -1) for name, size in {**router, **readers}.items()}
    return Units("experts", rows, {writer: np.arange(columns).reshape(count, -1)}, parts)


def expert_channels(readers: Mapping[str, int], writer: str, columns: int, count: int) -> Units:
    """Channels of all experts of a stack, expert by expert, which all keep the same width."""
    each = columns // count
    rows = {
        name: np.arange(size).reshape(count, -1, each).transpose(0, 2, 1).reshape(columns, -1)
        for name, size in readers.items()
    }
    return Units("expert_channels", rows, {writer: np.arange(columns)[:, None]}, count)


def kv_groups(heads: Heads, parts: int = 1) -> Units:
    """Heads of keys and values with all their query heads."""
    rows = _joined(heads, "queries", "keys", "values")
    return Units("kv_groups", rows, {heads.writer[0]: heads.writer[1].reshape(heads.groups, -1)}, parts)


def paired_groups(heads: Heads) -> Units:
    """The same where group g and the one half of all further on make one output (differential attention)."""
    half = heads.groups // 2
    alone = kv_groups(heads)
    rows = {name: np.hstack((each[:half], each[half:])) for name, each in alone.rows.items()}
    return Units("kv_groups", rows, {heads.writer[0]: heads.writer[1].reshape(half, -1)})


def value_pairs(heads: Heads) -> Units:
    """One row of the values of a group with the column of each of its query heads, group by group."""
    groups, size = heads.values[1].shape
    columns = heads.writer[1].reshape(groups, -1, size).transpose(0, 2, 1).reshape(groups * size, -1)
    rows = {heads.values[0]: heads.values[1].reshape(-1, 1)}
    return Units("value_pairs", rows, {heads.writer[0]: columns}, groups)


def rotary_pairs(heads: Heads, start: int, size: int, interleaved: bool) -> Units:
    """Two rows of each query head of a group, and two of its key, group by group.

    Positions turn ``size`` coordinates of every head from ``start`` on: neighbours where they are
    ``interleaved``, otherwise each with the one half of them further on. Keys hold these coordinates last.
    """
    pairs = np.arange(size).reshape(-1, 2) if interleaved else np.arange(size).reshape(2, -1).T
    groups, width = heads.keys[1].shape
    held = min(start, width - size)

    def rows(places: Index, first: int) -> Index:  # (heads, width) -> (groups * pairs, rows per unit)
        found = places.reshape(groups, -1, places.shape[1])[:, :, first + pairs]
        return found.transpose(0, 2, 1, 3).reshape(groups * len(pairs), -1)

    (queries, at), (keys, there) = heads.queries, heads.keys
    return Units("rotary_pairs", _merged((queries, rows(at, start)), (keys, rows(there, held))), {}, groups)


def _joined(heads: Heads, *names: str) -> dict[str, Index]:
    return _merged(*((n, p.reshape(heads.groups, -1)) for n, p in (getattr(heads, each) for each in names)))


def _merged(*named: tuple[str, Index]) -> dict[str, Index]:
    """Places in the same weight side by side."""
    found: dict[str, Index] = {}
    for name, places in named:
        found[name] = np.hstack((found[name], places)) if name in found else places
    return found
