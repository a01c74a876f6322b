"""Widths inside a block: what is decided, the operator that cuts, and how what is left is fitted anew."""
