"""Scores of the harness against the same loglikelihoods computed by hand."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerator import simulated
from conftest import byte_tokenizer, tiny_model

from analysis.errors import ModelError, TextError
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel, open_dense
from analysis.sources.text import TextSource
from analysis.tasks import TaskScore, evaluate_tasks, usual_rows
from app.repeat import study_file
from app.report import build_report
from app.tables import task_table
from slicing.plans import Plan
from slicing.studies.run import perform
from slicing.studies.study import comparison
from slicing.studies.verdicts import read_comparison

pytest.importorskip("lm_eval")

QUESTIONS = [
    {"question": f"Which of these follows number {n}?", "options": options, "answer": n // 2 % 3}
    for n, options in enumerate([["a", "bc", "de"], ["one", "two", "three"], ["x y", "z", "!"]] * 3)
]
PAGES = [{"page": "A short page."}, {"page": " ".join(map(str, range(100)))}, {"page": "Grüße, 42!"}]
"""The second, 289 bytes, is longer than the tiny model's context of 128."""

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
PERPLEXITY = """
task: tiny_pages
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{page}}}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks as a person would write them."""
    for name, rows in (("questions", QUESTIONS), ("pages", PAGES)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_task(tasks, CHOICE, "tiny_choice", tmp_path / "questions.jsonl")
    write_task(tasks, PERPLEXITY, "tiny_pages", tmp_path / "pages.jsonl")
    return tasks


def write_task(folder: Path, form: str, name: str, data: Path, more: str = "") -> None:
    (folder / f"{name}.yaml").write_text(form.format(name=name, data=data) + more, encoding="utf-8")


@pytest.fixture
def opened() -> OpenModel:
    return OpenModel(tiny_model("llama"), byte_tokenizer())


def loglikelihood(opened: OpenModel, context: list[int], continuation: list[int]) -> float:
    """Of the continuation after the context, in nats."""
    row = torch.tensor([context + continuation])
    logits: Any = opened.model(row[:, :-1]).logits
    log = logits[0].double().log_softmax(-1)[-len(continuation) :]
    return sum(float(log[place, token]) for place, token in enumerate(continuation))


def tokens(text: str) -> list[int]:
    return byte_tokenizer().encode(text)


def table(scores: tuple[TaskScore, ...]) -> dict[tuple[str, str], TaskScore]:
    return {(score.task, score.metric): score for score in scores}


def choices_by_hand(opened: OpenModel, rows: list[dict[str, Any]]) -> tuple[list[bool], list[bool]]:
    """Whether the likeliest option is the answer, as it is and per character."""
    plain, by_length = [], []
    for row in rows:
        found = [
            loglikelihood(opened, tokens(row["question"]), tokens(f" {option}")) for option in row["options"]
        ]
        per_character = [each / len(option) for each, option in zip(found, row["options"], strict=True)]
        plain.append(int(np.argmax(found)) == row["answer"])
        by_length.append(int(np.argmax(per_character)) == row["answer"])
    return plain, by_length


def page_by_hand(opened: OpenModel, text: str, context: int = 128) -> float:
    """Every token predicted once; the last window reaches back as far as the context allows."""
    row = [1, *tokens(text)]  # 1 begins the text
    total, done = 0.0, 0
    while done < len(row) - 1:
        new = min(context, len(row) - 1 - done)
        end = done + new + 1
        window = row[max(0, end - 1 - context) : end]
        total += loglikelihood(opened, window[:-new], window[-new:])
        done += new
    return total


@pytest.mark.parametrize(
    ("vocabulary", "memory", "rows"), [(128256, 80e9, 9), (32000, 80e9, 32), (128256, 6e9, 1)]
)
def test_rows_at_a_time_follow_from_the_memory_of_an_accelerator(vocabulary, memory, rows):
    with simulated("cuda", memory=memory) as accelerator:
        model = accelerator.put(tiny_model("llama", vocab_size=vocabulary), "cuda")
        assert usual_rows(model) == rows
    assert usual_rows(tiny_model("llama")) == 1


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_scores_are_those_of_a_hand_computation(opened, folder, batch_size):
    found = table(
        evaluate_tasks(opened, ["tiny_choice", "tiny_pages"], include=folder, batch_size=batch_size)
    )
    plain, by_length = choices_by_hand(opened, QUESTIONS)
    assert 0 < sum(plain) < len(plain) and plain != by_length  # else the check is worth little
    for metric, right in (("acc", plain), ("acc_norm", by_length)):
        score = found.pop(("tiny_choice", metric))
        assert (score.examples, score.few_shot) == (9, 0)
        assert score.value == pytest.approx(np.mean(right), abs=1e-9)
        assert score.standard_error == pytest.approx(np.std(right, ddof=1) / 3, abs=1e-9)
    nats = -sum(page_by_hand(opened, row["page"]) for row in PAGES)
    size = sum(len(row["page"].encode()) for row in PAGES)
    words = sum(len(row["page"].split()) for row in PAGES)
    expected = {
        "word_perplexity": math.exp(nats / words),
        "byte_perplexity": math.exp(nats / size),
        "bits_per_byte": nats / size / math.log(2),
    }
    assert {metric for _, metric in found} == set(expected)
    for metric, value in expected.items():
        score = found["tiny_pages", metric]
        assert (score.examples, score.standard_error) == (3, None)
        assert score.value == pytest.approx(value, rel=1e-4)


def test_loglikelihoods_themselves_are_those_of_torch(opened):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    wrapped: Any = HFLM(pretrained=opened.model, tokenizer=opened.tokenizer, backend="causal", batch_size=2)
    pairs = [(row["question"], f" {option}") for row in QUESTIONS[:3] for option in row["options"]]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    found = [value for value, _ in wrapped.loglikelihood(requests, disable_tqdm=True)]
    expected = [loglikelihood(opened, tokens(context), tokens(more)) for context, more in pairs]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_limit_and_few_shot_reach_the_harness(opened, folder):
    fewshot = "\nfewshot_split: test\nnum_fewshot: 1\nfewshot_config:\n  sampler: first_n\n"
    write_task(folder, CHOICE, "tiny_shots", folder.parent / "questions.jsonl", fewshot)
    (score, *_) = evaluate_tasks(opened, ["tiny_shots"], include=folder, limit=4)
    assert (score.examples, score.few_shot) == (4, 1)
    (score, *_) = evaluate_tasks(opened, ["tiny_shots"], include=folder, limit=1, num_fewshot=2)
    assert (score.examples, score.few_shot, score.standard_error) == (1, 2, None)
    (score, *_) = evaluate_tasks(opened, ["tiny_choice"], include=folder, limit=3)
    assert score.value == pytest.approx(np.mean(choices_by_hand(opened, QUESTIONS[:3])[0]))


def test_nothing_is_printed_and_nothing_is_changed(opened, folder, capsys):
    opened.tokenizer.pad_token = None
    before = {name: tensor.clone() for name, tensor in opened.model.state_dict().items()}
    scores = evaluate_tasks(opened, ["tiny_choice"], include=folder, limit=2)
    assert capsys.readouterr().out == ""
    assert opened.tokenizer.pad_token is None
    after = opened.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert TaskScore.from_json(scores[0].to_json(), "a test") == scores[0]


def test_standard_errors_without_a_formula_are_drawn_here(opened, folder, capsys):
    likelihood = "\n  - metric: perplexity\n    aggregation: perplexity\n    higher_is_better: false\n"
    form = CHOICE.replace("multiple_choice", "loglikelihood").replace(
        'doc_to_choice: "{{{{options}}}}"\n', ""
    )
    form = form.replace("{{{{answer}}}}", " {{{{options[0]}}}}").partition("metric_list:")[0] + "metric_list:"
    write_task(folder, form, "tiny_likelihood", folder.parent / "questions.jsonl", likelihood)
    (score,) = evaluate_tasks(opened, ["tiny_likelihood"], include=folder)
    found = [loglikelihood(opened, tokens(q["question"]), tokens(f" {q['options'][0]}")) for q in QUESTIONS]
    assert score.value == pytest.approx(math.exp(-np.mean(found)), rel=1e-4)
    generator = random.Random(5)
    drawn = [math.exp(-np.mean(generator.choices(found, k=len(found)))) for _ in range(1000)]
    assert score.standard_error == pytest.approx(np.std(drawn), rel=0.2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "No task was named"),
        ({"tasks": ["scrolls_quality"]}, "'scrolls_quality' runs code .* choose another task"),
        ({"limit": 0}, "0 examples per task were asked for: ask for 1 or more"),
        ({"num_fewshot": -1}, "-1 few-shot examples were asked for: ask for 0 or more"),
        ({"batch_size": 0}, "0 rows per batch"),
        ({"include": Path("/no/such/folder")}, "'/no/such/folder' does not exist"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(opened, changes, message):
    with pytest.raises(TextError, match=message):
        evaluate_tasks(opened, **{"tasks": ["tiny_choice"], **changes})


def test_unknown_task_is_one_sentence_with_the_nearest(opened, folder, monkeypatch):
    from lm_eval.tasks import TaskManager

    class Few(TaskManager):
        """Without the harness's own tasks, which take ten seconds to read."""

        def __init__(self, include_path: Path, include_defaults: bool = False) -> None:
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Few)
    with pytest.raises(TextError, match=r"^Unknown task 'tiny_choise' among 2: did you mean tiny_choice\?$"):
        evaluate_tasks(opened, ["tiny_pages", "tiny_choise"], include=folder)
    with pytest.raises(TextError, match=r"^Unknown task '§' among 2: 'lm_eval ls tasks' lists all\.$"):
        evaluate_tasks(opened, ["§"], include=folder)


def test_tasks_that_run_code_or_lack_data_are_refused_in_one_sentence(opened, folder):
    write_task(folder, CHOICE, "tiny_code", folder.parent / "questions.jsonl", "\nunsafe_code: true\n")
    with pytest.raises(TextError, match=r"^The tasks tiny_code cannot be run \(.* marked as unsafe"):
        evaluate_tasks(opened, ["tiny_code"], include=folder)
    write_task(folder, CHOICE, "tiny_lost", folder.parent / "lost.jsonl")
    with pytest.raises(TextError, match=r"^The tasks tiny_lost cannot be run \(Unable to find .*lost\.jsonl"):
        evaluate_tasks(opened, ["tiny_lost"], include=folder)


def test_score_that_is_not_finite_is_one_sentence(opened, folder):
    opened.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="of task 'tiny_pages' is not finite: open the model in bfloat16"):
        evaluate_tasks(opened, ["tiny_pages"], include=folder)


def test_missing_harness_is_one_sentence(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(TextError, match=r"run \"pip install 'slicescope\[tasks\]'\"\.$"):
        evaluate_tasks(opened, ["hellaswag"])


def test_a_comparison_shows_everyones_accuracy_beside_the_perplexity(folder, tiny_folder, tmp_path):
    for name in ("calibration", "evaluation"):
        (tmp_path / f"{name}.txt").write_text(f"The {name} goes on and on, and round. " * 60)
    study = comparison(
        Plan(rounding=1),
        model=ModelSource.parse(str(tiny_folder)),
        calibration=TextSource.parse(str(tmp_path / "calibration.txt"), "calibration"),
        calibration_windows=2,
        profile_windows=1,
        evaluation=TextSource.parse(str(tmp_path / "evaluation.txt"), "evaluation"),
        evaluation_windows=8,
        window_length=32,
        new_tokens=0,
        speed_rounds=0,
        tasks=("tiny_choice",),
        task_folder=folder,
    )
    run: Any = perform(study)
    found = read_comparison(study, run.result).measured
    assert list(found) == ["dense", "constant", "dynamic", "constant-matched"]
    for each in found.values():
        assert {score.metric for score in each.tasks} == {"acc", "acc_norm"}
        assert all(score.examples == len(QUESTIONS) for score in each.tasks)
    dense = evaluate_tasks(open_dense(study.model), ["tiny_choice"], include=folder)
    assert found["dense"].tasks == dense
    table = task_table(tuple(found.values()))
    assert table is not None
    assert len(table) == 8
    report = build_report(run)
    assert "What they score on tasks" in report
    assert "acc_norm" in report
    assert 'tasks = ["tiny_choice"]' in study_file(study)
    assert str(folder) in study_file(study)


def test_a_comparison_with_impossible_tasks_does_not_begin(tiny_folder):
    demo = TextSource.parse("demo", "calibration")
    source = ModelSource.parse(str(tiny_folder))
    study = comparison(Plan(), model=source, calibration=demo, evaluation=demo, tasks=("longproc_x",))
    seen: list[str] = []
    with pytest.raises(TextError, match="choose another task"):
        perform(study, lambda phase, done, total: seen.append(phase))
    assert set(seen) <= {"Opening"}
