"""analysis: looks, never changes a weight.

Where a model and a text come from, which parts of a block read and write the residual stream, how
redundant each block is, and what a model's perplexity is. Imports nothing of slicing or app.
"""

import os

# With the package 'kernels' installed, transformers would otherwise fetch code from the Hub for some models.
os.environ.setdefault("USE_HUB_KERNELS", "NO")
