"""What is said of too little calibration text, and of a text that is used twice."""

from __future__ import annotations

import pytest
from conftest import DEMO_SHAPE, FAMILIES, tiny_model

from analysis.read_shape import read_shape
from analysis.sources.text import TextSource
from slicing.calibration import same_text, too_few_tokens
from slicing.repair import features


@pytest.mark.parametrize(
    ("windows", "length", "parts"),
    [
        (1, 256, ("on 256 tokens", "320 dimensions or more are arbitrary", "9 windows of 256 tokens")),
        (1, 575, ("1 dimensions or more are arbitrary", "5 windows of 575")),
        (1, 576, ("on 576 tokens, fewer than 4 for each", "4 windows of 576")),
        (8, 256, ("on 2,048 tokens, fewer than 4 for each", "9 windows of 256")),
    ],
)
def test_bases_of_too_few_tokens_are_told_with_the_numbers(windows, length, parts):
    (told,) = too_few_tokens({"bases"}, DEMO_SHAPE, windows, length)
    assert [part for part in parts if part not in told] == []
    assert told.endswith(".")
    assert too_few_tokens({"bases"}, DEMO_SHAPE, 9, 256) == ()
    assert too_few_tokens({"writers"}, DEMO_SHAPE, 16, 256) == ()


@pytest.mark.parametrize(("fit", "unknowns", "enough"), [("writers", 2112, 10), ("matrix", 576, 4)])
def test_fits_see_the_tokens_that_are_not_held_out(fit, unknowns, enough):
    (told,) = too_few_tokens({fit}, DEMO_SHAPE, 2, 256)
    assert f"fitted to 256 tokens, which are fewer than the {unknowns:,} features" in told
    assert f"calibrate on {enough} windows of 256 tokens or more" in told
    assert too_few_tokens({fit}, DEMO_SHAPE, enough, 256) == ()
    assert too_few_tokens({fit}, DEMO_SHAPE, enough - 1, 256)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "moe" not in name and "mixtral" not in name])
def test_features_are_those_that_repair_fits(family, windows, monkeypatch):
    from slicing.plans import Plan
    from slicing.repair import RidgeFit
    from slicing.slicer import slice_model

    model = tiny_model(family)
    shape = read_shape(model)
    seen: list[int] = []
    add = RidgeFit.add
    monkeypatch.setattr(
        RidgeFit, "add", lambda fit, given, *rest: (seen.append(given.shape[-1]), add(fit, given, *rest))[1]
    )
    slice_model(model, Plan(rounding=1, target=0.1).constant(shape), windows, repair=True)
    assert features(shape) - 32 // 5 <= max(seen) <= features(shape)  # the stream is a little narrower


def hub(split: str, **more: str) -> TextSource:
    return TextSource(kind="hub", location="owner/name", split=split, **more)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (TextSource(kind="demo", split="evaluation"), TextSource(kind="demo", split="evaluation"), True),
        (TextSource(kind="demo", split="evaluation"), TextSource(kind="demo", split="calibration"), False),
        (TextSource(kind="file", location="/a.txt"), TextSource(kind="file", location="/b.txt"), False),
        (
            TextSource(kind="file", location="/a.csv"),
            TextSource(kind="file", location="/a.csv", column="text", max_documents=3),
            True,
        ),
        (hub("train"), hub("test"), False),
        (hub("train"), hub("train[:10%]"), True),
        (hub("train[:90%]"), hub("train[90%:]"), False),
        (hub("train[:91%]"), hub("train[90%:]"), True),
        (hub("train[:100]"), hub("train[100:200]"), False),
        (hub("train[:100]"), hub("train[90%:]"), True),
        (hub("train", config="one"), hub("train", config="two"), False),
        (hub("train", data_files="a.csv"), hub("train", data_files="b.csv"), False),
        (hub("train", data_files="a.csv"), hub("train"), True),
    ],
)
def test_texts_that_share_documents_are_told(first, second, shared):
    assert bool(same_text(first, None, second)) is bool(same_text(second, first)) is shared
