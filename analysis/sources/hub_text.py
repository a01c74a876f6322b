"""Read texts from data sets on the Hugging Face Hub. This is the one place that calls ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from analysis.errors import TextError
from analysis.sources.hub import hub_answers
from analysis.sources.tables import arrow_reason, text_column

if TYPE_CHECKING:
    from analysis.sources.text import TextSource

HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


def check_hub_text(source: TextSource) -> None:
    """Raise ``TextError`` where an id, a split or a path of files cannot be one on the Hub."""
    if not re.fullmatch(HUB_ID, source.location):
        raise TextError(
            f"'{source.location}' is not a data set on the Hub: its id has the form 'owner/name'."
        )
    if not source.split:
        raise TextError(f"No split of '{source.location}' was named: give one, such as 'train' or 'test'.")
    # The library refuses these too, but only after it has looked there.
    files = PurePosixPath(source.data_files or "")
    if files.is_absolute() or ".." in files.parts or "://" in str(source.data_files):
        raise TextError(
            f"'{source.data_files}' is outside the repository '{source.location}': "
            "give a path inside it, such as 'data/train-*.parquet'."
        )


def whole_split(split: str) -> str:
    """Return ``train`` for ``train[:90%]``."""
    return split.partition("[")[0]


def hub_documents(source: TextSource) -> Iterator[str]:
    """Read the rows of a data set that hold text (``TextError`` where it cannot be fetched or read)."""
    rows = hub_rows(source)
    column = text_column(source, rows.features.arrow_schema)
    for batch in rows.select_columns(column).iter(batch_size=1000):
        yield from (text for text in batch[column] if text is not None)


def hub_rows(source: TextSource) -> Any:
    """Return the rows as a ``datasets.Dataset``; when the Hub does not answer, from the library's own cache.

    A data set narrowed by ``data_files`` is not found there again without the Hub: the library caches it
    under a name made from the Hub's own description of those files.
    """
    from datasets import config, load_dataset

    online = hub_answers()
    files = {whole_split(source.split): source.data_files} if source.data_files else None
    try:
        with _quiet(), _offline(not online):
            return load_dataset(
                # With this prefix a local folder of the same name is not taken for the data set.
                f"hf://datasets/{source.location}",
                name=source.config,
                split=source.split,
                revision=source.revision,
                data_files=files,
            )
    except Exception as error:  # from the network, the file system, and any reader of any format
        raise TextError(_why_not(source, error, config.HF_ENDPOINT, online)) from error


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Make ``datasets`` look into its cache without asking the network first."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch the progress bars of the two libraries off; the app shows its own."""
    import datasets
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    datasets.disable_progress_bars()
    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


_REFUSALS: tuple[tuple[str, str], ...] = (
    (r"gated dataset", "it is gated: accept its conditions at {page} and log in with 'hf auth login'"),
    (
        r"doesn't exist on the Hub",
        "there is none of that name, or it is private: check the name, or log in with 'hf auth login'",
    ),
    (r"Revision .* doesn't exist", "it has no revision '{revision}': see {page} for those it has"),
    (
        r"scripts are no longer supported",
        "it is a Python script, which is never run here: choose a copy of it in parquet, JSON, CSV or text",
    ),
    (
        r"BuilderConfig .* not found. Available: \[(?P<known>.*)\]",
        "it has no configuration '{config}': use {known}",
    ),
    (
        r"Config name is missing.*available configs: \[(?P<known>.*?)\]",
        "it has several configurations: name one of {known}, as in '{location}/NAME'",
    ),
    (
        r"Unknown split .* one of \[(?P<known>.*)\]",
        "it has no split '{split}': use {known}, or a part of one such as 'train[90%:]'",
    ),
    (r"Unrecognized instruction", "'{split}' is not a split: write for example 'train' or 'train[:10%]'"),
    (
        r"Unable to find|any data file|Couldn't find cache",
        "it holds no such files, or none in parquet, JSON, CSV or text: see {page} for those it has",
    ),
)
"""What ``datasets`` says (a regular expression), and what that means and asks for, in plain words."""


def _why_not(source: TextSource, error: Exception, endpoint: str, online: bool) -> str:
    """Say in one sentence why the data set could not be loaded, and what to do next."""
    said = " ".join(str(error).split())
    page = f"{endpoint}/datasets/{source.location}"
    for pattern, meaning in _REFUSALS:
        found = re.search(pattern, said)
        if found and (online or "known" in found.groupdict()):
            parts = {name: shorten(part, 300, placeholder=" ...") for name, part in found.groupdict().items()}
            reason = meaning.format(page=page, **source.model_dump(), **parts)
            return f"The data set '{source.location}' cannot be used, because {reason}."
    if not online:
        return (
            f"The data set '{source.location}' has to be fetched, but the Hub at {endpoint} does not answer: "
            "check the connection, or give 'demo' or a file."
        )
    return (
        f"The data set '{source.location}' cannot be read ({arrow_reason(error.__cause__ or error)}): "
        f"see {page}, or give 'demo' or a file."
    )
