"""Say where a text is, and read its documents.

A text is the embedded demo text, a data set on the Hugging Face Hub, or a file. Nothing remote is executed.
Knows nothing about models, or about what a text is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from analysis.errors import TextError, unknown_name
from analysis.sources.columns import MARK, split_column
from analysis.sources.demo_text import DEMO_SPLITS, demo_documents, require_demo_text
from analysis.sources.files import existing_path, file_documents, looks_like_path, require_file
from analysis.sources.hub_text import HUB_ID, check_hub_text, hub_documents, whole_split
from analysis.sources.labels import split_label
from analysis.sources.presets import PRESETS, Preset, Role
from analysis.values import Value

_HUB_TEXT = re.compile(
    rf"(?P<location>{HUB_ID})(/(?P<config>[\w.-]+))?(@(?P<revision>[^:]+))?(:(?P<split>.+))?"
)


class TextSource(Value):
    """Where a text is, which part of it is wanted, and how much of that part at most."""

    kind: Literal["demo", "hub", "file"]
    location: str = ""
    """Hub id or file path; empty for the demo text."""
    config: str | None = None
    """Configuration of a Hub data set, where it has several."""
    split: str = ""
    """Demo: a key of ``DEMO_SPLITS``. Hub: a split, or part of one: ``train[:90%]``. File: unused."""
    column: str | None = None
    """Column of a table that holds the text; by default ``text``, else the only column of strings."""
    label_column: str | None = None
    """Column of the same table that holds a label for every text, for healing on a classification task."""
    data_files: str | None = None
    """Hub: a file, or a pattern of files, inside the repository; nothing else is then downloaded."""
    revision: str | None = None
    """Hub: branch, tag or commit."""
    max_documents: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "demo" and self.split not in DEMO_SPLITS:
            raise TextError(unknown_name("split of the demo text", self.split, DEMO_SPLITS))
        if self.kind == "hub":
            check_hub_text(self)
        if self.label_column and not self.column:
            raise TextError(
                f"The column of labels '{self.label_column}' was named without that of the texts: name both, "
                "as in 'FILE#TEXT:LABEL'."
            )
        if self.label_column and self.kind == "demo":
            raise TextError("The demo text has no labels: give a table, as in 'FILE#TEXT:LABEL'.")
        if self.max_documents is not None and self.max_documents < 1:
            raise TextError(f"At most {self.max_documents} documents were asked for: ask for 1 or more.")
        return self

    @classmethod
    def parse(cls, text: str, role: Role) -> TextSource:
        """Read what a person wrote: the demo text, a preset, a file, or a data set on the Hub.

        ``demo``, ``demo:SPLIT``; ``PRESET``, ``PRESET:SPLIT``; a path;
        ``owner/name[/config][@revision][:split]``. Where no split is named, the role chooses it. Behind a
        file or a data set, ``#COLUMN`` names the column of its table that holds the text.
        ``#COLUMN:LABELS`` names a column of labels as well, for healing alone.
        Raises ``TextError`` for a name that is none of these, and for a path without a file.
        """
        text, labels = split_label(text.strip())
        if labels:
            return cls(**{**dict(cls.parse(text, role)), "label_column": labels})
        name, _, split = text.partition(":")
        if name == "demo":
            return cls(kind="demo", split=split or role)
        if name in PRESETS:
            return _preset_text(PRESETS[name], split or PRESETS[name].splits[role])
        # A mark may also be part of a file's own name.
        place, column = (text, None) if existing_path(text) else split_column(text)
        if existing_path(place) or looks_like_path(place):
            return cls(kind="file", location=str(require_file(place)), column=column)
        if hub := _HUB_TEXT.fullmatch(place):
            return cls(
                kind="hub",
                location=hub["location"],
                config=hub["config"],
                revision=hub["revision"],
                split=hub["split"] or {"calibration": "train", "evaluation": "test"}[role],
                column=column,
            )
        raise TextError(unknown_name("text", text, ["demo", *PRESETS]))

    @property
    def label(self) -> str:
        """A short name for people, with the split and the limit on documents."""
        limit = f", first {self.max_documents:,} documents" if self.max_documents else ""
        if self.label_column:
            limit = f", labels in '{self.label_column}'{limit}"
        if self.kind == "demo":
            first, last = DEMO_SPLITS[self.split]
            return f"State of the Union {first}-{last} ({self.split} split){limit}"
        if self.kind == "file":
            return Path(self.location).name + (f"{MARK}{self.column}" if self.column else "") + limit
        titles = {(preset.repo, preset.config, preset.revision): preset.title for preset in PRESETS.values()}
        name = self.location + (f"@{self.revision}" if self.revision else "")
        name += f" ({self.config})" if self.config else ""
        title = titles.get((self.location, self.config, self.revision), name)
        return f"{title} {self.split}{limit}"

    def require_installed(self) -> None:
        """Raise ``TextError`` where it is the demo text and that is not installed; nothing is read."""
        if self.kind == "demo":
            require_demo_text()

    def documents(self) -> Iterator[str]:
        """Read the documents in their order, as they are stored: nothing is stripped, and none is left out.

        Raises ``TextError`` on the first document when the text cannot be found or read, and for a text with
        labels, which ``labelled_texts`` reads.
        """
        if self.label_column:
            raise TextError(
                f"The text '{self.label}' has labels, which only healing takes: leave the column of labels "
                "out, or name this text as the healing text."
            )
        if self.kind == "demo":
            found = demo_documents(self.split)
        elif self.kind == "hub":
            found = hub_documents(self)
        else:
            found = file_documents(self)
        return islice(found, self.max_documents)


def _preset_text(preset: Preset, split: str) -> TextSource:
    """Return the text of a split of a preset, or of a part of a split, such as ``train[:10%]``."""
    whole = whole_split(split)
    if preset.data_files and whole not in preset.data_files:
        raise TextError(unknown_name(f"split of {preset.title}", whole, preset.data_files))
    return TextSource(
        kind="hub",
        location=preset.repo,
        config=preset.config,
        split=split,
        column=preset.column,
        data_files=preset.data_files.get(whole),
        revision=preset.revision,
        max_documents=preset.max_documents,
    )


def share_text(first: TextSource, second: TextSource) -> bool:
    """Tell whether two texts have documents in common, as far as their sources tell."""
    same = "kind", "location", "config", "revision"
    if any(getattr(first, name) != getattr(second, name) for name in same):
        return False
    if (first.column or "text") != (second.column or "text"):
        return False
    if first.data_files and second.data_files and first.data_files != second.data_files:
        return False
    whole, other = whole_split(first.split), whole_split(second.split)
    return whole == other and not _apart(first.split, second.split)


_PART = re.compile(r".*\[(?P<start>\d{0,30})(?P<start_unit>%?):(?P<end>\d{0,30})(?P<end_unit>%?)\]")


def _apart(first: str, second: str) -> bool:
    """Whether two parts of the same split, such as ``train[:90%]``, certainly do not overlap."""
    one, two = _PART.fullmatch(first), _PART.fullmatch(second)
    return one is not None and two is not None and (_ends_before(one, two) or _ends_before(two, one))


def _ends_before(left: re.Match[str], right: re.Match[str]) -> bool:
    if not (left["end"] and right["start"]) or left["end_unit"] != right["start_unit"]:
        return False
    return int(left["end"]) <= int(right["start"])
