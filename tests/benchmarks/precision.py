"""The perplexity of the demo model when a part of slicing is worked out less precisely. Not a test.

``python tests/benchmarks/precision.py subspace`` takes about six minutes on a CPU, ``repair`` and ``halves``
about ten, and the two of bases about four.
``subspace``: the leading subspace by products, instead of eigenvectors in fp64. ``repair``: its fits in fp32,
instead of in fp64. ``halves``: products in fp32 made of products in bf16, as on a card for data centres, and
the subspace by them. ``bases`` and ``bases-halves``: a preview in bases of the dense stream that are found by
products, in fp32 and of halves. These are as on a GPU. ``calibration``: the model multiplies in bf16 while it
reads the calibration text (``--calibration-precision fast``), which takes about four minutes.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]

import numpy as np

import analysis.bases
import analysis.products
import slicing.basis.pca
import slicing.repair
from analysis.bases import find_bases
from analysis.evaluate import perplexity
from analysis.precision import calibrating
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model

CUTS = (0.10, 0.25, 0.40)
LENGTH, CALIBRATION, EVALUATION = 512, 16, 24
"""Tokens of a window, and windows. Repair takes half as many for its fits, and slices twice."""
PARTS = {
    "subspace": ((slicing.basis.pca, "pays"),),
    "repair": ((slicing.repair, "pays"),),
    "halves": ((slicing.basis.pca, "pays"), (analysis.products, "in_halves")),
    "bases": ((analysis.bases, "pays"),),
    "bases-halves": ((analysis.bases, "pays"), (analysis.products, "in_halves")),
    "calibration": (),
}
"""Where each of them is decided."""


def main() -> None:
    """Print a row for each part that is named, by default all, and each cut."""
    model, tokenizer = open_dense(ModelSource(kind="demo", device="cpu", dtype="float32"))
    calibration = token_windows(TextSource.parse("demo", "calibration"), tokenizer, LENGTH, CALIBRATION, 0)
    evaluation = token_windows(TextSource.parse("demo", "evaluation"), tokenizer, LENGTH, EVALUATION, 1)
    shape = read_shape(model)
    for part in sys.argv[1:] or PARTS:
        for cut in CUTS:
            fractions = (cut,) * shape.block_count
            schedule = SlicingSchedule.from_fractions(fractions, shape.hidden_size, 8, "untied")
            found, seconds = [], []
            for less in (False, True):
                began = time.process_time()
                with ExitStack() as stack:
                    for module, rule in PARTS[part]:
                        stack.enter_context(patch.object(module, rule, lambda *_, here=less: here))
                    if part == "calibration" and less:
                        stack.enter_context(calibrating("fast"))
                    if part.startswith("bases"):
                        made = recut(model, schedule, find_bases(model, calibration))
                    else:
                        repair = part == "repair"
                        made = slice_model(model, schedule, calibration[:: 1 + repair], repair=repair)
                seconds.append(time.process_time() - began)
                found.append(float(np.exp(np.mean(perplexity(made.model, evaluation).nll))))
                if made.repair and not made.repair.kept:
                    sys.stdout.write(f"{part}, {cut:.0%}: the repaired model was worse and is not kept\n")
            sys.stdout.write(
                f"{part}, {cut:.0%}: precisely {found[0]:.4f} ({seconds[0]:.0f} CPU s), "
                f"less so {found[1]:.4f} ({seconds[1]:.0f} CPU s), apart {found[1] / found[0] - 1:+.4%}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
