"""Making a model shallower: what becomes of its blocks, and the operator that takes them out."""
