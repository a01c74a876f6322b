"""Bases of the stream that slicing cuts in. A basis is one file and one line here."""

from slicing.basis import magnitude, pca, random, transport  # noqa: F401 (they register themselves)
from slicing.basis.base import BASES, Basis, find_basis

__all__ = ["BASES", "Basis", "find_basis"]
