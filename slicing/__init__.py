"""slicing: changes the model.

How much to cut where (allocation, plan, schedule), the cut itself (rotation, assembly, slicer), sliced
models on disk (store), and recipes with their outcomes (runs). Imports analysis, never app.
"""
