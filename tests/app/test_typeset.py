"""Numbers on pages: a percent sign stays on the line of its number, and a minus sign is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, seated, words
from idle_app import page

from app import wording
from slicing.wish import Wish

PARTED = re.compile(r"\d ?%(?!\w)")
HYPHEN = re.compile(r"(?<![\w.\-])-\d")
CODE = re.compile(r"`[^`]*`")


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path)


def rendered(app: Any) -> list[str]:
    """All sentences, labels and numbers of a page, without code."""
    metrics = [part for each in app.metric for part in (each.label, each.value, each.delta)]
    labels = [
        each.label for kind in ("button", "toggle", "selectbox", "slider") for each in getattr(app, kind)
    ]
    alts = [each.proto.alt for each in app.get("plotly_chart") if hasattr(each.proto, "alt")]
    return [CODE.sub("", str(line)) for line in [*words(app).split("\n"), *metrics, *labels, *alts]]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("shrink", {}),
        ("model", {}),
        ("profile", {}),
        ("profile", {"near": "Heads and MLP"}),
        ("tune", {}),
        ("compare", {}),
        ("play", {}),
        ("runs", {}),
        ("study", {"study": "demo-ranking"}),
        ("study", {"study": "demo-map"}),
        ("study", {"study": "demo-frontier"}),
    ],
)
def test_no_page_parts_a_number_from_its_percent_sign_or_writes_a_hyphen(
    name: str, asked: dict[str, str]
) -> None:
    app = page(name, **asked)
    assert not app.exception
    lines = rendered(app)
    assert any("%" in line for line in lines) or name in ("model", "runs")
    assert [line for line in lines if PARTED.search(line) or HYPHEN.search(line)] == []


def test_sentences_are_typeset_and_names_are_left_alone() -> None:
    gap = "\N{NO-BREAK SPACE}"
    assert wording.typeset("20% of 5 %, from -3.1 to +2") == f"20{gap}% of 5{gap}%, from −3.1 to +2"
    for name in ("SmolLM2-135M", "1947-2009", "0-based", "100%ly", "1e-6", "--fewer"):
        assert wording.typeset(name) == name
    # A number is not parted from what it is of, nor a date within itself.
    run = "SB 10 %, SP 25 % · 23 Nov 2026 11:40 UTC"
    assert wording.unparted(run) == f"SB{gap}10 %, SP{gap}25 % · 23{gap}Nov{gap}2026{gap}11:40{gap}UTC"
    assert Wish(fewer=0.2).line == f"20{gap}% fewer parameters"
