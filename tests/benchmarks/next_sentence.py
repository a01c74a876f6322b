"""A task of one's own for the lm-evaluation-harness, from the demo text: which sentence comes next?

``python tests/benchmarks/next_sentence.py FOLDER`` writes it, for ``--tasks next_sentence --include FOLDER``.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

from analysis.sources.text import TextSource

COUNT, READ, CHOICES = 200, 3, 4
"""Questions, sentences that are read, and sentences to choose from."""

TASK = """task: next_sentence
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{read}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""


def questions(documents: list[str], count: int = COUNT, seed: int = 0) -> list[dict[str, Any]]:
    """Passages and what may come next: the sentence that does, and others of the same documents."""
    draw = random.Random(seed)
    spoken = [
        [each for each in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if 40 <= len(each) <= 200]
        for text in documents
    ]
    found = []
    for _ in range(count):
        sentences = draw.choice([each for each in spoken if len(each) > READ])
        start = draw.randrange(len(sentences) - READ)
        read, following = sentences[start : start + READ], sentences[start + READ]
        others = sorted({each for text in spoken for each in text} - {*read, following})
        choices = [following, *draw.sample(others, CHOICES - 1)]
        draw.shuffle(choices)
        found.append({"read": " ".join(read), "choices": choices, "answer": choices.index(following)})
    return found


def main(folder: str) -> None:
    """Write the task and its questions."""
    target = Path(folder).resolve()
    target.mkdir(parents=True, exist_ok=True)
    rows = questions(list(TextSource(kind="demo", split="evaluation").documents()))
    data = target / "next_sentence.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (target / "next_sentence.yaml").write_text(TASK.format(data=data), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
