"""Healing on a text with labels: only labels count, the accuracy rises, and other uses refuse such a text."""

from __future__ import annotations

import csv
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from torch.nn import functional
from typer.testing import CliRunner

from analysis.errors import PlanError, TextError
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from app.cli import app
from app.tables import healing_table
from slicing.budget import Budget
from slicing.healing import training
from slicing.healing.examples import Examples
from slicing.healing.judged import accuracy, held_loss, label_nll
from slicing.healing.labelled import labelled_examples
from slicing.healing.resume import Resume
from slicing.steps import find_step
from slicing.steps.base import Made
from slicing.studies.files import parse_study, text_line, write_study
from slicing.studies.healing import healing_examples, training_key
from slicing.studies.recipe import Recipe
from slicing.studies.requests import Trial
from slicing.studies.run import make_smaller
from slicing.studies.store import load_run
from slicing.studies.study import Study, recipes
from slicing.view import ModelView

WINDOWS = torch.randint(3, 200, (4, 16), generator=torch.Generator().manual_seed(0))
ROWS = 240


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Have matrix products in fp32, whatever the processor multiplies in."""
    monkeypatch.setattr("slicing.steps.healing.training_precision", lambda device: "exact")


def written(path: Path, rows: list[tuple[Any, Any]], names: tuple[str, str] = ("body", "kind")) -> TextSource:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return TextSource.parse(f"{path}#{names[0]}:{names[1]}", "calibration")


def task() -> list[tuple[str, str]]:
    """Texts (ROWS of them) whose label their last letter decides."""
    drawn = random.Random(0)
    found = []
    for _ in range(ROWS):
        last = drawn.choice("xy")
        found.append(
            ("".join(drawn.choices("abcd", k=drawn.randint(3, 6))) + last, {"x": "up", "y": "off"}[last])
        )
    return found


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Examples:
    source = written(tmp_path_factory.mktemp("task") / "task.csv", task())
    return labelled_examples(source, byte_tokenizer(), 32)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", num_hidden_layers=2)


def healed(line: str, model: Any, examples: Examples, **own: Any) -> Made:
    view = ModelView(model, WINDOWS, healing_windows=lambda: examples, **own)
    return make_smaller(Recipe.parse(f"shortgpt | {line}"), Budget.parse("parameters=0.2"), view)[0]


LINE = "finetune(tokens=4000, rate=0.003, train=all, batch=8)"


@pytest.fixture(scope="module")
def tuned(model, examples) -> Made:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slicing.steps.healing.training_precision", lambda device: "exact")
        return healed(LINE, model, examples)


def test_fine_tuning_learns_a_task(tuned, examples):
    (told,) = tuned.healed
    assert told.windows == ROWS // 5
    assert told.kept
    assert told.after < 0.5 * told.before
    assert 0.2 < told.accuracy_before < 0.8
    assert told.accuracy_after > 0.95
    assert told.accuracy_after == accuracy(tuned.model, examples[: ROWS // 5], "exact")
    assert told.distinct == int(examples[ROWS // 5 :].real.sum())
    assert f"the labels of {ROWS // 5} texts held out went from" in told.told
    assert f"correctly before training, and {told.accuracy_after:.1%} after it." in told.told
    table = healing_table([told])
    shown = table["labels predicted correctly, %"]
    assert shown.iloc[0] == pytest.approx(100 * told.accuracy_before, abs=0.06)
    assert len(shown.dropna()) == 2


def test_an_accuracy_counts_the_labels_that_are_likeliest(tuned, examples):
    some, right = examples[:6], 0
    for row, own in enumerate(some.own):
        text = some.tokens[row][: int(some.counts[row].int().argmax())].tolist()
        sums = []
        for label in some.labels:
            logits = tuned.model(torch.tensor([[*text, *label]])).logits[0].log_softmax(-1)
            sums.append(sum(float(logits[len(text) - 1 + at, token]) for at, token in enumerate(label)))
        right += sums.index(max(sums)) == own
    assert accuracy(tuned.model, some, "exact") == pytest.approx(right / 6)


def test_distillation_and_reconstruction_take_labels_too(model, examples):
    for line in ("distil(tokens=600, rate=0.001, states=1)", "reconstruct(tokens=600, rate=0.001)"):
        (told,) = healed(line, model, examples).healed
        assert told.accuracy_before is not None
        assert told.accuracy_after is not None


def losses_of(name: str, model: Any) -> Any:
    view = ModelView(tiny_model("llama", num_hidden_layers=3), WINDOWS)
    return find_step(name)().loss(view, Made(model), model)  # type: ignore[attr-defined]


def test_only_tokens_of_labels_count(model, examples):
    rows = examples[:4]
    logits = model(rows.tokens).logits
    expected = rows.next_token_loss(logits)
    text, label = ~rows.counts, rows.counts
    changed = Examples(rows.tokens.masked_fill(text, 7), rows.counts, rows.labels)
    assert rows.tokens.ne(changed.tokens).any()
    assert changed.next_token_loss(logits).equal(expected)  # targets alone: the logits are the same
    changed = Examples(rows.tokens.masked_fill(label, 7), rows.counts, rows.labels)
    assert not changed.next_token_loss(logits).equal(expected)
    sums = label_nll(model, rows, "exact")
    assert float(expected) == pytest.approx(float(sums.sum()) / int(rows.counts.sum()), rel=1e-5)
    assert held_loss(model, rows, "exact") == pytest.approx(float(expected), rel=1e-5)


def test_padding_changes_nothing(model, examples):
    rows = examples[:4]
    padding = ~rows.real
    assert padding.any()
    other = Examples(rows.tokens.masked_fill(padding, 9), rows.counts, rows.labels)
    for name in ("finetune", "distil"):
        loss = losses_of(name, model)
        assert float(loss(model, rows)) == pytest.approx(float(loss(model, other)), abs=1e-6)
    assert label_nll(model, rows, "exact").tolist() == pytest.approx(
        label_nll(model, other, "exact").tolist()
    )
    assert rows[:1].trimmed().tokens.shape[1] == int(rows[:1].real.sum())


def test_plain_text_has_the_losses_that_it_had():
    model, dense = (tiny_model("llama", num_hidden_layers=depth) for depth in (2, 3))
    rows = Examples.of(WINDOWS)
    logits = model(WINDOWS).logits
    wanted = functional.cross_entropy(logits[:, :-1].flatten(0, 1), WINDOWS[:, 1:].flatten())
    assert losses_of("finetune", model)(model, rows).equal(wanted)
    found, target = (functional.log_softmax(each(WINDOWS).logits, -1) for each in (model, dense))
    wanted = functional.kl_div(found, target, log_target=True, reduction="sum") / WINDOWS.numel()
    assert losses_of("distil", model)(model, rows).equal(wanted)
    assert rows.trimmed() is rows
    assert rows.size == WINDOWS.numel()
    assert accuracy(model, rows, "exact") is None


def test_a_training_on_labels_that_was_killed_ends_with_the_same_weights(
    model, examples, tuned, tmp_path, monkeypatch
):
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    monkeypatch.setattr("slicing.steps.healing.Resume", partial(Resume, every=0.0))
    step, calls = training._step, 0

    def dies(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        step(*given)

    monkeypatch.setattr(training, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        healed(LINE, model, examples, key="kept")
    made = healed(LINE, model, examples, key="kept")
    assert made.healed[0].looks == tuned.healed[0].looks
    assert made.healed[0].accuracy_after == tuned.healed[0].accuracy_after
    weights = tuned.model.state_dict()
    assert all(tensor.equal(weights[name]) for name, tensor in made.model.state_dict().items())


def test_a_long_text_loses_its_beginning_and_keeps_its_label(tmp_path):
    tokenizer = byte_tokenizer()
    source = written(tmp_path / "long.csv", [("a" * 40 + "b" * 10, "yes"), ("c", "no")])
    found = labelled_examples(source, tokenizer, 16)
    said = [tokenizer.decode(row[real]) for row, real in zip(found.tokens, found.real, strict=True)]
    assert said == ["a" * 2 + "b" * 10 + " yes", "c no"]
    labels = [tokenizer.decode(row[own]) for row, own in zip(found.tokens, found.counts, strict=True)]
    assert labels == [" yes", " no"]
    assert found.own == [1, 0]
    assert found.with_label(0).own == [0, 0]
    with pytest.raises(TextError, match=r"The label 'yes' .* has 4 tokens, and windows of 4 leave no room"):
        labelled_examples(source, tokenizer, 4)


def test_a_label_that_begins_another_is_ended(tmp_path):
    tokenizer = byte_tokenizer()
    found = labelled_examples(written(tmp_path / "n.csv", [("a", 1), ("b", 10)]), tokenizer, 16)
    assert [tokenizer.decode([*label]) for label in found.labels] == [" 1</s>", " 10</s>"]
    assert found.own == [0, 1]
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(TextError, match=r"The labels '1' and '10' .* cannot be told apart: rename"):
        labelled_examples(written(tmp_path / "n.csv", [("a", 1), ("b", 10)]), tokenizer, 16)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "yes"), ("b", "yes")], "has only the label 'yes', and a task needs two labels or more: give"),
        ([("a", "yes"), ("b", "")], "Row 2 of .* has no label: every row needs a text and a label, so fill"),
        ([(" ", "yes"), ("b", "no")], "Row 1 of .* has no text: every row needs"),
        (
            [("a", 0.5), ("b", 1.5)],
            r"holds no names or whole numbers in 'kind': name a column of labels among",
        ),
    ],
)
def test_a_table_that_is_no_task_is_refused(rows, said, tmp_path):
    with pytest.raises(TextError, match=said):
        labelled_examples(written(tmp_path / "it.csv", rows), byte_tokenizer(), 16)


def test_columns_that_are_not_there_are_told(tmp_path):
    source = written(tmp_path / "it.csv", [("a", "yes"), ("b", "no")])
    for column, label, said in (
        ("body", "sort", r"has no column 'sort': name a column of labels among body \(string\), kind"),
        ("text", "kind", "has no column 'text'"),
    ):
        other = TextSource.parse(f"{source.location}#{column}:{label}", "calibration")
        with pytest.raises(TextError, match=said):
            labelled_examples(other, byte_tokenizer(), 16)
    with pytest.raises(TextError, match=r"names only one of two columns: write 'FILE#TEXT:LABEL'"):
        TextSource.parse(f"{source.location}#body:", "calibration")
    plain = tmp_path / "it.txt"
    plain.write_text("plain")
    with pytest.raises(TextError, match="read as plain text, which has no column 'body'"):
        labelled_examples(TextSource.parse(f"{plain}#body:kind", "calibration"), byte_tokenizer(), 16)


def test_too_few_rows_are_told(model, examples):
    with pytest.raises(PlanError, match=r"has 39 labelled rows, .* give a table of 40 rows or more"):
        healed(LINE, model, examples[:39])


def trial(source: TextSource, **own: Any) -> Trial:
    demo = TextSource.parse("demo", "calibration")
    given = {"model": {"kind": "demo"}, "calibration": demo, "evaluation": demo, "healing_text": source}
    return Trial(**{**given, **own})


def test_only_healing_takes_a_text_with_labels(tmp_path):
    source = written(tmp_path / "task.csv", task())
    found = healing_examples(trial(source, window_length=32), byte_tokenizer())
    assert len(found) == ROWS
    assert found.own[:40] != [*map(["off", "up"].index, (label for _, label in task()[:40]))]  # shuffled
    for name in ("calibration", "evaluation", "other", "search_text"):
        with pytest.raises(
            PlanError, match=r"task.csv#body, labels in 'kind'' has labels, which only healing"
        ):
            trial(source, **{name: source})
    with pytest.raises(TextError, match="has labels, which only healing takes: leave"):
        token_windows(source, byte_tokenizer(), 16, 1)


def test_the_command_line_takes_a_table_with_labels(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "home"))
    source = written(tmp_path / "task.csv", task())
    (tmp_path / "text.txt").write_text(" ".join(map(str, range(800))))
    text = str(tmp_path / "text.txt")
    said = ["compress", "shortgpt | finetune(tokens=400)", "--budget", "parameters=0.2"]
    said += ["--model", str(tiny_folder), "--calibration", text, "--calibration-windows", "4"]
    said += ["--evaluation", text, "--window-length", "24", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, [*said, "--healing-text", f"{source.location}#body:kind"])
    assert found.exit_code == 0, found.output
    results = [load_run(path.parent).result for path in runs_folder().glob("*/run.json")]
    ((told,),) = [result.healed for result in results if result.kind == "compress"]
    assert told.windows == ROWS // 5
    assert told.accuracy_before is not None


def test_the_line_of_a_text_with_labels_is_read_back(tmp_path):
    source = written(tmp_path / "task.csv", task())
    assert (source.column, source.label_column) == ("body", "kind")
    hub = TextSource.parse("owner/name:train#body:kind", "calibration")
    assert (hub.location, hub.split, hub.column, hub.label_column) == ("owner/name", "train", "body", "kind")
    for each in (source, hub):
        assert TextSource.parse(text_line(each, "calibration"), "calibration") == each
    other = source.model_copy(update={"label_column": "sort"})
    assert training_key(trial(source), WINDOWS) != training_key(trial(other), WINDOWS)
    asked = trial(source)
    study = Study(
        model=asked.model,
        calibration=asked.calibration,
        evaluation=asked.evaluation,
        healing_text=source,
        recipes=recipes("shortgpt | finetune"),
        budgets=(Budget.parse("parameters=0.2"),),
    )
    assert parse_study(write_study(study), "it").healing_text == source
