"""The perplexity of the demo model sliced by eigenvectors and by products alone. Not a test.

``python tests/benchmarks/subspace.py`` takes about six minutes on a CPU.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from unittest.mock import patch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]

import numpy as np

import slicing.basis.pca
from analysis.evaluate import perplexity
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model

CUTS = (0.10, 0.25, 0.40)
LENGTH, CALIBRATION, EVALUATION = 512, 16, 24
"""Tokens of a window, and windows."""


def main() -> None:
    """Print a row for each cut."""
    model, tokenizer = open_dense(ModelSource(kind="demo", device="cpu", dtype="float32"))
    calibration = token_windows(TextSource.parse("demo", "calibration"), tokenizer, LENGTH, CALIBRATION, 0)
    evaluation = token_windows(TextSource.parse("demo", "evaluation"), tokenizer, LENGTH, EVALUATION, 1)
    shape = read_shape(model)
    for cut in CUTS:
        fractions = (cut,) * shape.block_count
        schedule = SlicingSchedule.from_fractions(fractions, shape.hidden_size, 8, "untied")
        found, seconds = [], []
        for by_products in (False, True):
            began = time.process_time()
            with patch.object(slicing.basis.pca, "pays", lambda *_, here=by_products: here):
                made = slice_model(model, schedule, calibration)
            seconds.append(time.process_time() - began)
            found.append(float(np.exp(np.mean(perplexity(made.model, evaluation).nll))))
        sys.stdout.write(
            f"{cut:.0%}: eigenvectors {found[0]:.4f} ({seconds[0]:.0f} CPU s), "
            f"products {found[1]:.4f} ({seconds[1]:.0f} CPU s), apart {found[1] / found[0] - 1:+.4%}\n"
        )


if __name__ == "__main__":
    main()
