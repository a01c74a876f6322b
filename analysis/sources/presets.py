"""List well-known data sets of the Hub under short names. Knows nothing about how they are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from analysis.values import Value

Role = Literal["calibration", "evaluation"]
"""What a text is for; calibration and evaluation text must never overlap."""


class Preset(Value):
    """A well-known data set in a repository without scripts, under a short name."""

    title: str
    repo: str
    note: str
    """Licence, and what else one should know, in one line."""
    config: str | None = None
    revision: str | None = None
    splits: dict[Role, str]
    """The split for each role; the two never share a document."""
    column: str = "text"
    data_files: dict[str, str] = Field(default_factory=dict)
    """Files per split, where the whole would be too much; a split outside this table is then refused."""
    max_documents: int | None = None


PRESETS: dict[str, Preset] = {
    "wikitext2": Preset(
        title="WikiText-2",
        repo="Salesforce/wikitext",
        config="wikitext-2-raw-v1",
        splits={"calibration": "train", "evaluation": "test"},
        note="CC BY-SA 3.0 and GFDL; the text that published perplexities are usually measured on.",
    ),
    "c4": Preset(
        title="C4",
        repo="allenai/c4",
        splits={"calibration": "train", "evaluation": "validation"},
        data_files={
            "train": "en/c4-train.00000-of-01024.json.gz",
            "validation": "en/c4-validation.00000-of-00008.json.gz",
        },
        max_documents=5_000,
        note="ODC-BY; web pages, one file per split (320 MB and 40 MB to download).",
    ),
    "alpaca": Preset(
        title="Alpaca",
        repo="tatsu-lab/alpaca",
        splits={"calibration": "train[:90%]", "evaluation": "train[90%:]"},
        note="CC BY-NC 4.0; instructions with answers; it has one split only, cut in two here.",
    ),
    "ptb": Preset(
        title="Penn Treebank",
        repo="ptb-text-only/ptb_text_only",
        # The main branch holds a script; the Hub keeps this conversion of it.
        revision="refs/convert/parquet",
        splits={"calibration": "train", "evaluation": "test"},
        column="sentence",
        note="LDC user agreement, for research only; lower-case sentences, rare words replaced by <unk>.",
    ),
    "pg19": Preset(
        title="PG-19",
        repo="emozilla/pg19",
        splits={"calibration": "validation", "evaluation": "test"},
        data_files={
            "train": "data/train-00000-of-*.parquet",
            "validation": "data/validation-*.parquet",
            "test": "data/test-*.parquet",
        },
        max_documents=20,
        note="Apache 2.0; whole books from before 1919, one file per split.",
    ),
}
