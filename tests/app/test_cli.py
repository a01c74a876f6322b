"""The command line on a tiny model: the contract of ``compare``, and one clear sentence for bad input."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from safetensors.torch import load_file, save_file

from analysis.errors import visible
from analysis.scores import SCORES
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from app.cli import main
from app.cli.showing import print_profile
from app.journal import Journal
from slicing.allocation import ALLOCATIONS
from slicing.repairs import REPAIRS
from slicing.steps import STEPS
from slicing.steps.removal import Removal
from slicing.studies.requests import ProfileRequest
from slicing.studies.store import bundled_run, keep_run, list_runs

TEXT = "It is a truth universally acknowledged, that a tensor in possession of many rows must want a basis. "


@pytest.fixture
def texts(tmp_path: Path) -> tuple[str, str]:
    calibration, evaluation = tmp_path / "calibration.txt", tmp_path / "evaluation.txt"
    calibration.write_text(TEXT * 20)
    evaluation.write_text(TEXT[::-1] * 20)
    return str(calibration), str(evaluation)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of ``slicescope ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["slicescope", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def budget(texts: tuple[str, str]) -> list[object]:
    calibration, evaluation = texts
    windows = ["--calibration-windows", 3, "--evaluation-windows", 8, "--window-length", 32]
    return ["--calibration", calibration, "--evaluation", evaluation, *windows, "--new-tokens", 3]


def test_compare_keeps_its_contract(monkeypatch, tiny_folder, texts, tmp_path, capsys):
    path = tmp_path / "result.json"
    flags = ["--target", 0.25, "--base", 0.1, "--seed", 3, "--rounding", 1, "--embedding", "shared"]
    code = run(monkeypatch, "compare", "--model", tiny_folder, *budget(texts), *flags, "--json", path)
    assert code == 0
    result = json.loads(path.read_text())
    by_name = {each["name"]: each for each in result["evaluations"]}
    assert list(by_name) == ["dense", "constant", "dynamic", "constant-matched"]
    for each in by_name.values():
        assert each["perplexity"] > 1
        assert len(each["widths"]) == 4
        assert each["widths"][-1] == 32
    assert by_name["dense"]["parameters"] == sum(p.numel() for p in tiny_model("llama").parameters())
    assert by_name["constant"]["widths"][:3] == [24, 24, 24]
    assert sum(by_name["dynamic"]["widths"][:3]) == 72
    assert [d["verdict"] for d in result["differences"]]
    assert "token-level perplexity, 8 windows of 32 tokens" in by_name["dense"]["protocol"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "against constant" in printed
    assert "8 windows from 1 document: windows of one document resemble each other" in printed


def test_compare_warns_on_the_terminal_and_in_one_field_of_its_json(
    monkeypatch, tiny_folder, texts, tmp_path, capsys
):
    text, path = texts[0], tmp_path / "result.json"

    def warned(*flags: object) -> tuple[Any, str]:
        where = ["--model", tiny_folder, *budget((text, text)), "--window-length", 16, "--new-tokens", 0]
        assert run(monkeypatch, "compare", *where, *flags, "--speed-rounds", 0, "--json", path) == 0
        return json.loads(path.read_text())["warning"], " ".join(capsys.readouterr().err.split())

    both, told = warned()
    assert "flatters every smaller model" in both
    assert "32 dimensions are found on 48 tokens" in both
    assert both in told
    assert warned("--evaluation", texts[1], "--calibration-windows", 8)[0] is None


def test_json_to_standard_output_is_nothing_but_json(monkeypatch, tiny_folder, texts, capsys):
    text, _ = texts
    code = run(
        monkeypatch,
        *("profile", "--model", tiny_folder, "--text", text, "--windows", 2, "--window-length", 16),
        *("--json", "-"),
    )
    assert code == 0
    blocks = json.loads(capsys.readouterr().out)["blocks"]
    assert [row["module"] for row in blocks] == ["model.layers.0", "model.layers.1", "model.layers.2"]


def test_a_profile_says_what_the_released_code_computes(monkeypatch, tiny_folder, texts, capsys):
    where = ["--model", tiny_folder, "--text", texts[0], "--windows", 2, "--window-length", 16]
    assert run(monkeypatch, "profile", *where, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    last = found["blocks"][-1]
    assert found["units"] == ["channels", "kv_groups", "value_pairs", "rotary_pairs"]
    assert run(monkeypatch, "profile", *where) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Inside its blocks these can be taken out: channels, heads of keys and values, value" in told
    assert f"{last['lr-published']:.3f}" == f"{last['lr']:.3f}" and "as released" not in told
    (made,), _ = list_runs()
    profile = made.result.profile
    after = profile.measurements["cosine-after-norm"]
    lower = after.model_copy(update={"rest": tuple((*row[:-1], 0.1) for row in after.rest)})
    measured = {**profile.measurements, "cosine-after-norm": lower}
    profile = profile.model_copy(update={"measurements": measured})
    print_profile(made.model_copy(update={"result": made.result.model_copy(update={"profile": profile})}))
    released, true = (profile.values(name)[-1] for name in ("lr-published", "lr"))
    told = " ".join(capsys.readouterr().out.split())
    assert f"{released:.3f} for the last block, not {true:.3f}." in told
    assert f"Known issue: {SCORES['lr-published'].known_issue}" in told


def test_sliced_model_opens_and_evaluates_as_compared(monkeypatch, tiny_folder, texts, tmp_path, capsys):
    calibration, evaluation = texts
    folder, first, second = tmp_path / "sliced", tmp_path / "a.json", tmp_path / "b.json"
    shared = ["--calibration", calibration, "--calibration-windows", 3, "--window-length", 32]
    shared += ["--evaluation", evaluation]
    assert run(monkeypatch, "slice", "--model", tiny_folder, *shared, "--out", folder) == 0
    assert "Perplexity" in (card := (folder / "README.md").read_text())
    assert "8 windows of 32 tokens" in card
    assert run(monkeypatch, "compare", "--model", tiny_folder, *budget(texts), "--json", first) == 0
    where = ["--evaluation", evaluation, "--evaluation-windows", 8, "--window-length", 32]
    assert run(monkeypatch, "evaluate", "--model", folder, *where, "--json", second) == 0
    dynamic = json.loads(first.read_text())["evaluations"][2]
    alone = json.loads(second.read_text())
    assert alone["perplexity"] == pytest.approx(dynamic["perplexity"], rel=1e-5)
    assert alone["parameters"] == dynamic["parameters"]
    assert run(monkeypatch, "generate", "--model", folder, "--prompt", "a tensor", "--new-tokens", 4) == 0
    assert "a tensor" in capsys.readouterr().out
    assert run(monkeypatch, "slice", "--model", tiny_folder, *shared, "--out", folder) == 6
    assert run(monkeypatch, "profile", "--model", folder, "--text", calibration, "--window-length", 32) == 3


def test_a_size_can_be_asked_for_instead_of_a_target(monkeypatch, tiny_folder, texts, tmp_path, capsys):
    text, evaluation = texts
    where = ["--model", tiny_folder, "--window-length", 16, "--rounding", 1, "--base", 0, "--fewer", "25%"]
    assert run(monkeypatch, "plan", *where, "--text", text, "--windows", 2, "--json", "-") == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["plan"]["target"] != 0.25
    drawn = ["--calibration", text, "--calibration-windows", 2, "--profile-windows", 2]
    judged = ["--evaluation", evaluation, "--evaluation-windows", 2, "--new-tokens", 0, "--speed-rounds", 0]
    assert run(monkeypatch, "compare", *where, *drawn, *judged, "--json", "-") == 0
    sizes = [each["parameters"] for each in json.loads(capsys.readouterr().out)["evaluations"]]
    assert planned["parameters"] == pytest.approx(sizes[2], rel=0.01)
    folder = tmp_path / "smaller"
    assert run(monkeypatch, "slice", *where, *drawn, "--evaluation-windows", 0, "--out", folder) == 0
    capsys.readouterr()
    assert run(monkeypatch, "plan", *where, "--target", 0.3) == 5
    assert "either --target or --fewer" in capsys.readouterr().err


def test_plan_reuses_the_profile_and_shows_the_widths(monkeypatch, tiny_folder, texts, capsys):
    text, _ = texts
    where = ["--model", tiny_folder, "--text", text, "--windows", 2, "--window-length", 16, "--rounding", 1]
    assert run(monkeypatch, "plan", *where, "--json", "-") == 0
    first = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(
        "slicing.studies.run.perform", lambda *_: pytest.fail("the profile was measured again")
    )
    assert run(monkeypatch, "plan", *where, "--base", 0.2, "--json", "-") == 0
    second = json.loads(capsys.readouterr().out)
    assert first["key"] == second["key"]
    assert first["schedule"]["widths"] != second["schedule"]["widths"]
    assert first["mean_slice"] == second["mean_slice"] == 0.25
    assert first["weight_bytes"] == 4 * first["parameters"]
    assert first["cache_bytes"] == 4 * 4096 * 3 * (2 * 2 * 8)  # fp32, three blocks, two heads of 8 each


def test_runs_are_listed_shown_and_deleted(monkeypatch, tiny_folder, texts, capsys):
    text, _ = texts
    run(monkeypatch, "profile", "--model", tiny_folder, "--text", text, "--windows", 2, "--window-length", 16)
    capsys.readouterr()
    assert run(monkeypatch, "runs", "--json", "-") == 0
    listed = capsys.readouterr().out
    (row,) = json.loads(listed)["runs"]
    assert run(monkeypatch, "runs", "list", "--json", "-") == 0
    assert capsys.readouterr().out == listed
    assert run(monkeypatch, "runs", "show", row["key"][:5]) == 0
    assert "block" in capsys.readouterr().out
    assert run(monkeypatch, "runs", "delete", row["key"]) == 0
    assert run(monkeypatch, "runs", "show", row["key"]) == 6


def test_two_runs_are_held_side_by_side(monkeypatch, tiny_folder, texts, capsys, tmp_path):
    for windows, seed in ((9, 0), (9, 1), (8, 0)):
        asked = ("profile", "--model", tiny_folder, "--text", texts[0], "--window-length", 8)
        assert run(monkeypatch, *asked, "--windows", windows, "--seed", seed) == 0
    keys = [
        folder.name for folder in sorted(runs_folder().glob("[!.]*"), key=lambda each: each.stat().st_ctime)
    ]
    capsys.readouterr()
    table = tmp_path / "blocks.csv"
    assert run(monkeypatch, "runs", "difference", *keys[:2], "--csv", table) == 0
    shown = capsys.readouterr().out
    assert "Not paired" in shown and "judged no model" in shown
    assert table.read_text().startswith(
        "block,first,second,difference,95 % from,95 % to,p-value (Holm),clear"
    )
    assert run(monkeypatch, "runs", "difference", keys[0], keys[0], "--percent", "--json", "-") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["paired"] and not any(row["difference, %"] for row in data["blocks"])
    assert run(monkeypatch, "runs", "difference", "demo", keys[0]) == 5  # of another depth


def broken_sliced_folder(tiny_folder: Path) -> Path:
    weights = load_file(tiny_folder / "model.safetensors")
    save_file({name: torch.zeros(1) for name in weights}, tiny_folder / "model.safetensors")
    return tiny_folder


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--target", "1.0"], 5, "The target (SP) must be a fraction"),
        (["--target", "nan"], 5, "got nan"),
        (["--target", "0.1", "--base", "0.2"], 5, "may not exceed the target"),
        (["--max-fraction", "0.2"], 5, "cannot be reached"),
        (["--allocation", "dynamik"], 5, "Did you mean 'dynamic'?"),
        (["--score", "lrr"], 1, "Did you mean 'lr'?"),
        (["--window-length", "4096"], 4, "this model's context ends at 128"),
        (["--evaluation-windows", "100000"], 4, "tokens"),
        (["--evaluation", "no-such-preset"], 4, "no-such-preset"),
        (["--model", "./missing"], 3, "does not exist"),
        (["--model", "missing.gguf"], 3, "does not exist"),
        (["--device", "gpu"], 3, "Unknown device 'gpu'"),
        (["--dtype", "float8"], 3, "Unknown dtype 'float8'"),
        (["--embedding", "tied"], 2, "tied"),
        (["--rounding", "7"], 2, "7"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    monkeypatch, tiny_folder, texts, tmp_path, capsys, flags, code, sentence
):
    for text in texts:
        Path(text).write_text(TEXT * 400)
    path = tmp_path / "result.json"
    where = ["compare", "--model", tiny_folder, *budget(texts), "--json", path]
    assert run(monkeypatch, *where, *flags) == code
    said = capsys.readouterr().err
    assert sentence in " ".join(said.split()), said
    assert "Traceback" not in said
    assert not path.exists()
    assert not list((tmp_path / "home").glob("runs/*"))
    assert not list((tmp_path / "home").glob("runs/.*"))


def test_weights_that_do_not_fit_are_one_sentence(monkeypatch, tiny_folder, texts, capsys):
    folder = broken_sliced_folder(tiny_folder)
    assert run(monkeypatch, "compare", "--model", folder, *budget(texts)) == 3
    assert "cannot be read" in capsys.readouterr().err


def test_the_same_text_twice_is_warned_about(monkeypatch, tiny_folder, texts, capsys):
    text, _ = texts
    assert run(monkeypatch, "compare", "--model", tiny_folder, *budget((text, text))) == 0
    assert "flatters every smaller model" in " ".join(capsys.readouterr().err.split())


def test_json_into_a_missing_folder_is_one_sentence(monkeypatch, tiny_folder, texts, tmp_path, capsys):
    path = tmp_path / "nowhere" / "result.json"
    assert run(monkeypatch, "compare", "--model", tiny_folder, *budget(texts), "--json", path) == 6
    assert "cannot be read or written" in capsys.readouterr().err


def test_the_version_is_printed(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"slicescope {importlib.metadata.version('slicescope')}\n"


EVERY_HELP = """
import sys, typer.main
from app.cli import app, main

def commands(group, words):
    yield words
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, [*words, name])

for words in commands(typer.main.get_command(app), ["slicescope"]):
    sys.argv = [*words, "--help"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, words
print("all:", len(list(commands(typer.main.get_command(app), []))))
print("heavy:", {"torch", "transformers", "streamlit", "plotly"} & set(sys.modules))
"""


def test_every_help_is_quick_and_needs_no_torch():
    answer = subprocess.run([sys.executable, "-c", EVERY_HELP], capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    *_, count, heavy = answer.stdout.splitlines()
    assert int(count.removeprefix("all: ")) > 20 and answer.stdout.count("Usage: slicescope") > 20
    assert heavy == "heavy: set()"


COMPLETED = """
import sys
from app.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="not installed: bash")
def test_bash_completes_commands_flags_and_choices(tmp_path):
    program = tmp_path / "slicescope"
    program.write_text(f"#!{sys.executable}\n{COMPLETED}")
    program.chmod(0o700)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def bash(script: str) -> str:
        command = ["bash", "--norc", "-c", f"{script}\ntrue"]  # or bash would be replaced by what it starts
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert "bash completion installed" in bash("slicescope --install-completion")

    def completed(*words: str) -> list[str]:
        answer = bash(
            "source ~/.bashrc && complete -p slicescope > /dev/null\n"
            f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
            'COMPREPLY=(); _slicescope_completion slicescope; echo "${COMPREPLY[@]}"'
        )
        return answer.split()

    assert completed("slicescope", "st") == ["study"]
    assert completed("slicescope", "study", "le") == ["leaderboard"]
    assert completed("slicescope", "runs", "li") == ["list"]
    assert completed("slicescope", "compare", "--meth") == ["--method"]
    assert completed("slicescope", "compare", "--method", "") == ["faithful", "preview"]
    assert completed("slicescope", "study", "contest", "--one") == ["--one-shot"]


def test_tokenizer_of_the_tests_is_one_token_per_byte():
    assert len(byte_tokenizer()(TEXT).input_ids) == len(TEXT)


def test_preview_comparison_says_that_it_is_one(monkeypatch, tiny_folder, texts, tmp_path, capsys):
    path = tmp_path / "result.json"
    words = ["compare", "--model", tiny_folder, *budget(texts), "--method", "preview"]
    assert run(monkeypatch, *words, "--json", path) == 0
    assert json.loads(path.read_text())["recipe"]["method"] == "preview"
    assert run(monkeypatch, *words) == 0
    captured = capsys.readouterr()
    assert "One-shot" in captured.out
    assert "The work takes about 0.00 GB" in captured.err  # told before the work


def test_profile_keeps_its_bases_when_asked(monkeypatch, tiny_folder, texts):
    words = ["profile", "--model", tiny_folder, "--text", texts[0], "--windows", 3, "--window-length", 32]
    for flag, kept in (([], []), (["--bases"], ["bases.safetensors"])):
        assert run(monkeypatch, *words, *flag) == 0
        (run_folder,) = [
            f for f in runs_folder().glob("[!.]*") if (f / "bases.safetensors").exists() == bool(kept)
        ]
        assert sorted(f.name for f in run_folder.glob("*.safetensors")) == [*kept, "profile.safetensors"]


def test_profile_warns_of_a_block_that_does_nothing(monkeypatch, texts, tmp_path, capsys):
    model = tiny_model("llama")
    for parameter in model.model.layers[1].parameters():
        parameter.zero_()
    model.save_pretrained(tmp_path / "dead")
    byte_tokenizer().save_pretrained(tmp_path / "dead")
    flags = ["--text", texts[0], "--windows", 3, "--window-length", 32]
    assert run(monkeypatch, "profile", "--model", tmp_path / "dead", *flags) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("Block 1 changes next to nothing of the stream, as if the weights there were zero") == 1


def test_profile_tells_the_logit_lens_when_asked(monkeypatch, tiny_folder, texts, capsys):
    words = ["profile", "--model", tiny_folder, "--text", texts[0], "--windows", 2, "--window-length", 16]
    assert run(monkeypatch, *words, "--lens", "--json", "-") == 0
    blocks = json.loads(capsys.readouterr().out)["blocks"]
    assert all(row["logit lens"] > 0.0 for row in blocks)
    assert run(monkeypatch, *words, "--lens") == 0
    said = " ".join(capsys.readouterr().out.split())
    heading = said.partition("─")[0].split()
    assert heading.count("logit") == heading.count("lens") == 1
    assert "drawn with seed 0, 2 windows at a time." in said
    assert run(monkeypatch, *words, "--json", "-") == 0
    assert "logit lens" not in json.loads(capsys.readouterr().out)["blocks"][0]


def test_profile_tells_what_units_cost_when_asked(monkeypatch, tiny_folder, texts, capsys):
    words = ["profile", "--model", tiny_folder, "--text", texts[0], "--windows", 2, "--window-length", 16]
    assert run(monkeypatch, *words, "--units", "--json", "-") == 0
    units = json.loads(capsys.readouterr().out)["unit_costs"]
    assert [[branch["kind"] for branch in block] for block in units["blocks"]] == [["attention", "mlp"]] * 3
    assert all(branch["whole"] > 0.0 for block in units["blocks"] for branch in block)
    assert run(monkeypatch, *words, "--units") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "¼ of" in said and "0 attention" in said and "2 MLP" in said
    assert "…" not in said  # no number is cut
    assert "Found on 2 windows of 16 tokens, the curvature of the loss on 2 of them." in said
    assert "Spearman" not in said
    assert run(monkeypatch, *words, "--units-measured") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "measured on 2 of them." in said
    assert "over 6 attentions and MLPs" in said
    assert "Predicted token by token: Spearman's rank correlation" in said
    assert run(monkeypatch, *words, "--json", "-") == 0
    assert "unit_costs" not in json.loads(capsys.readouterr().out)


def test_tasks_run_on_a_sliced_folder(monkeypatch, tiny_folder, texts, tmp_path, capsys):
    pytest.importorskip("lm_eval")
    rows = [{"question": f"{n}+{n}=", "choices": [str(2 * n), "z"], "answer": 0} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "sums.yaml").write_text(
        f"""task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
    )
    calibration = ["--calibration", texts[0], "--calibration-windows", 3, "--window-length", 32]
    calibration += ["--rounding", 1, "--evaluation-windows", 0]
    out = tmp_path / "sliced"
    assert run(monkeypatch, "slice", "--model", tiny_folder, *calibration, "--out", out) == 0
    capsys.readouterr()
    assert run(monkeypatch, "evaluate", "--model", out, "--tasks", "sums", "--include", tmp_path) == 0
    assert "sums" in capsys.readouterr().out
    words = ["evaluate", "--model", out, "--tasks", "sums", "--include", tmp_path, "--json", "-"]
    assert run(monkeypatch, *words) == 0
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    assert (score["task"], score["metric"], score["examples"]) == ("sums", "acc", 4)
    assert 0.0 <= score["value"] <= 1.0
    assert run(monkeypatch, "evaluate", "--model", out, "--tasks", "summs", "--include", tmp_path) == 4


def test_sweep_prints_the_map_and_runs_nothing_twice(monkeypatch, tiny_folder, texts, capsys, tmp_path):
    calibration, evaluation = texts
    words = [
        "study",
        "sweep",
        "--model",
        tiny_folder,
        "--calibration",
        calibration,
        "--evaluation",
        evaluation,
    ]
    words += ["--calibration-windows", 3, "--evaluation-windows", 8, "--window-length", 32, "--rounding", 1]
    words += ["--base", "0,.1", "--target", ".2"]
    assert run(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert "SB 10 %" in shown
    assert "SP 20" in shown
    runs = {path: path.stat().st_mtime_ns for path in runs_folder().glob("*/run.json")}
    assert len(runs) == 5  # dense, constant, two cells, and the sweep
    assert run(monkeypatch, *words, "--json", tmp_path / "sweep.json") == 0
    again = {path: path.stat().st_mtime_ns for path in runs_folder().glob("*/run.json")}
    assert sum(runs[path] != again[path] for path in runs) == 1  # the sweep itself
    assert json.loads((tmp_path / "sweep.json").read_text())["result"]["kind"] == "study"
    assert run(monkeypatch, *words[:-1], "high") == 5
    assert "numbers with commas" in capsys.readouterr().err


def test_a_study_of_a_file_is_ranked_and_its_trials_are_used_again(
    monkeypatch, tiny_folder, texts, capsys, tmp_path
):
    file = tmp_path / "mine.toml"
    file.write_text(
        f"""model = "{tiny_folder}"
calibration = "{texts[0]}"
calibration_windows = 4
evaluation = "{texts[1]}"
evaluation_windows = 4
window_length = 32
budgets = {{ blocks = [1] }}
recipes = ["slice(constant, rounding=1)", "shortgpt", "random-blocks"]
"""
    )
    assert run(monkeypatch, "study", file) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 blocks fewer" in shown and "shortgpt" in shown
    trials = {path: path.stat().st_mtime_ns for path in runs_folder().glob("*/run.json")}
    assert len(trials) == 5  # dense, three recipes, and the study
    words = [
        "study",
        "leaderboard",
        "--model",
        tiny_folder,
        "--calibration",
        texts[0],
        "--evaluation",
        texts[1],
    ]
    words += ["--calibration-windows", 4, "--evaluation-windows", 4, "--window-length", 32, "--other", ""]
    words += ["--sizes", ".3", "--recipes", "slice(constant, rounding=1); shortgpt", "--json", "-"]
    assert run(monkeypatch, *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["result"]["measurements"]] == ["dense", "constant", "shortgpt"]
    assert found["request"]["view"] == "frontier"
    again = {path: path.stat().st_mtime_ns for path in runs_folder().glob("*/run.json")}
    assert all(again[path] == moment for path, moment in trials.items())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["sweeep"], 5, "Did you mean 'sweep'"),
        (["missing.toml"], 6, "There is no study file 'missing.toml'"),
        (["contest", "--recipes", "slice(dynamc)"], 5, "in column 7"),
        (["contest", "--recipes", "slice(constant);;sleb"], 5, "an empty one"),
        (["contest", "--recipes", "sleb"], 5, "removes whole blocks, which the budget"),
        (["leaderboard", "--sizes", "2"], 5, "between 0 and 1"),
        (["sweep", "--allocation", "softmax"], 5, "no base to sweep over"),
        (["sweep", "--bases", "0"], 2, "No such option"),
    ],
)
def test_a_study_that_cannot_be_is_one_sentence(monkeypatch, capsys, words, code, said):
    assert run(monkeypatch, "study", *words) == code
    told = " ".join(capsys.readouterr().err.split())
    assert said in told and "Traceback" not in told


def test_slice_and_remove_are_short_forms_of_compress(monkeypatch, tmp_path):
    asked = []

    def caught(request: Any) -> None:
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("app.cli.making.carry_out", caught)

    def request(*words: object) -> Any:
        assert run(monkeypatch, *words, "--out", tmp_path / "out") == 130
        return asked.pop()

    line = "slice(softmax, temperature=0.1, rounding=1, repair=writers)"
    flags = ["--target", 0.3, "--allocation", "softmax", "--temperature", 0.1, "--rounding", 1, "--repair"]
    assert request("slice", *flags) == request("compress", line, "--budget", "mean_slice=0.3")
    assert request("slice", "--span", 2, "--method", "preview") == request(
        "compress", "slice(dynamic, blocks_per_basis=2, one_shot=true)"
    )
    assert request("remove") == request("compress", "sleb(repair=writers)", "--budget", "blocks=4")
    flags = ["--by", "laco(merge=mean)", "--closing", "none", "--blocks", 2, "--search-windows", 3]
    assert request("remove", *flags) == request(
        "compress", "laco(merge=mean, windows=3)", "--budget", "blocks=2"
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--by", "greedy"], "'greedy' is called 'sleb' now: write '--by sleb'"),
        (["--by", "sliding:merge=top"], "'sliding' is called 'sliding-merge' now"),
        (["--closing", "matrix"], "'matrix' is called 'linear' now: write '--closing linear'"),
        (["--by", "slebb"], "Did you mean 'sleb'"),
        (["--by", "slice"], "takes one method that removes blocks"),
        (["--by", "sleb", "--closing", "glue"], "'glue'"),
    ],
)
def test_remove_says_what_an_earlier_name_is_now(monkeypatch, capsys, tmp_path, flags, said):
    assert run(monkeypatch, "remove", *flags, "--out", tmp_path / "out") == 5
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_model_is_compressed_by_a_recipe_and_opens(monkeypatch, tiny_folder, texts, tmp_path, capsys):
    words = ["compress", "shortgpt(share=0.5) | slice(constant, rounding=1)", "--budget", "parameters=0.4"]
    words += ["--model", tiny_folder, "--calibration", texts[0], "--calibration-windows", 4]
    words += ["--window-length", 32, "--evaluation", texts[1], "--out", tmp_path / "less", "--json", "-"]
    assert run(monkeypatch, *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"] == words[1] and told["budget"] == "parameters=0.4"
    assert len(told["layout"]["groups"]) == 2 and told["schedule"]["widths"]
    assert told["parameters"] < told["dense_parameters"] and not told["plain"]
    where = ["--evaluation", texts[1], "--evaluation-windows", 8, "--window-length", 32, "--json", "-"]
    assert run(monkeypatch, "evaluate", "--model", tmp_path / "less", *where) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["perplexity"] == pytest.approx(told["perplexity"], rel=1e-5)


@pytest.mark.parametrize("command", ["compress", "study"])
def test_everything_that_registers_itself_is_listed(monkeypatch, capsys, command):
    class Nothing(Removal):
        name = "nothing-much"
        title = "A method of somebody"
        source = "Somebody, 2026"
        known_issue = "It does nothing."

    monkeypatch.setitem(STEPS, Nothing.name, Nothing)
    assert run(monkeypatch, command, "--methods") == 0
    listed = capsys.readouterr().out
    for name in (*STEPS, *ALLOCATIONS, *REPAIRS, "heavy-tail"):
        assert f"  {name}: " in listed
    assert "A method of somebody (Somebody, 2026)" in listed and "It does nothing." in listed
    assert "repair=none|" in listed and "windows=4" in listed
    assert f"Known issue: {SCORES['lr-published'].known_issue}" in listed


def test_a_contest_repeats_with_noise_and_shows_what_that_moves(monkeypatch, tiny_folder, texts, capsys):
    where = ["--model", tiny_folder, "--calibration", texts[0], "--evaluation", texts[1], "--other", ""]
    where += ["--calibration-windows", 4, "--evaluation-windows", 8, "--window-length", 32, "--seeds", "0"]
    recipes = ["--recipes", "slice(constant, rounding=1); slice(rising, rounding=1)", "--jitter", 2]
    assert run(monkeypatch, "study", "contest", *where, *recipes) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f" {word} " in shown for word in ("noise", "moves", "it", "that", "by"))  # of two headings
    assert "Each calibrated recipe is repeated 2 times on the same windows" in shown
    assert run(monkeypatch, "study", "contest", *where, *recipes, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    names = [each["name"] for each in found["result"]["measurements"]]
    assert names == ["dense", *["constant", "rising"] * 3]
    assert found["request"]["jitter"] == 2
    again = ["slice(constant, rounding=1)", "--jitter", -1]
    assert run(monkeypatch, "study", "contest", *where, "--recipes", *again) == 2


def test_runs_travel_and_come_back(monkeypatch, tiny_folder, texts, capsys, tmp_path):
    text, _ = texts
    run(monkeypatch, "profile", "--model", tiny_folder, "--text", text, "--windows", 2, "--window-length", 16)
    (folder,) = runs_folder().glob("[!.]*")
    key, packed, page = folder.name, tmp_path / "run.zip", tmp_path / "report.html"
    assert run(monkeypatch, "runs", "rename", key, "The talk", "--note", "in May") == 0
    assert run(monkeypatch, "runs", "export", key[:6], "--out", packed) == 0
    assert run(monkeypatch, "runs", "export", key, "--out", packed) == 6  # never over another file
    assert run(monkeypatch, "report", key, "--out", page) == 0
    assert "<h1>The talk</h1>" in page.read_text()
    capsys.readouterr()
    assert run(monkeypatch, "cite", key) == 0
    assert capsys.readouterr().out.count("@") == 4
    assert run(monkeypatch, "runs", "import", packed) == 6  # it is stored already
    assert run(monkeypatch, "runs", "delete", key) == 0
    assert run(monkeypatch, "runs", "import", packed) == 0
    capsys.readouterr()
    assert run(monkeypatch, "runs", "trash") == 0
    name = capsys.readouterr().out.strip()
    assert name.startswith(key)
    assert run(monkeypatch, "runs", "restore", name) == 0  # beside the one that was brought in meanwhile
    assert f"Run {key}-2 is back" in capsys.readouterr().out
    assert run(monkeypatch, "runs", "restore", name) == 6
    assert run(monkeypatch, "runs", "show", key) == run(monkeypatch, "runs", "show", f"{key}-2") == 0
    assert run(monkeypatch, "runs", "import", tmp_path / "nothing.zip") == 6


@pytest.mark.parametrize("name", ["x [/red]", "[final]", "\u202eevil"])
def test_names_of_others_reach_the_terminal_as_they_are(monkeypatch, capsys, name):
    keep_run(bundled_run())
    (stored,), _ = list_runs()
    assert run(monkeypatch, "runs", "rename", stored.key, name) == 0
    shown = capsys.readouterr().out
    assert visible(name) in shown
    assert "\u202e" not in shown
    assert run(monkeypatch, "runs", "rename", stored.key, "a \x1b[31m b") == 6
    told = capsys.readouterr().err
    assert "one line of text" in told
    assert "\x1b[31m" not in told


@pytest.mark.parametrize(
    ("where", "part"), [("", "is a folder"), ("/", "is a folder"), ("n" * 300, "too long")]
)
def test_json_that_cannot_be_written_is_told_before_the_work(monkeypatch, capsys, where, part):
    assert run(monkeypatch, "profile", "--model", "demo", "--json", where) == 6
    assert part in capsys.readouterr().err


def test_json_does_not_replace_a_device(monkeypatch):
    assert run(monkeypatch, "runs", "list", "--json", "/dev/null") == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    "words",
    [
        ("--target", "nan"),
        ("--target", "9" * 400),
        ("--allocation", "softmax", "--temperature", "nan"),
        ("--allocation", "manual", "--shares", "nan,1"),
        ("--max-fraction", "inf"),
        ("--seed", "9" * 400),
        ("--seed", str(2**64)),
    ],
)
def test_a_number_that_no_recipe_takes_is_one_sentence(monkeypatch, capsys, words):
    assert run(monkeypatch, "plan", "--model", "demo", *words) == 5
    told = capsys.readouterr().err
    assert told.startswith("slicescope: ") and told.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("x" * 5000,), ("plan", "y" * 5000), ("plan", "--method=\x1b[31m"), ("\udcff",)]
)
def test_words_that_mean_nothing_are_refused_on_one_screen(monkeypatch, capsys, words):
    assert run(monkeypatch, *words) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) <= 15
    assert "\x1b[31m" not in told


@pytest.mark.parametrize("command", ["slice", "remove", "compress slice"])
@pytest.mark.parametrize(
    ("where", "part"), [("/", "exists already"), ("n" * 300, "too long"), ("/dev/null/x", "a file")]
)
def test_a_folder_that_cannot_be_made_is_told_before_the_work(monkeypatch, capsys, command, where, part):
    monkeypatch.setattr("app.cli.making.carry_out", lambda *_: pytest.fail("worked first"))
    assert run(monkeypatch, *command.split(), "--out", where) == 6
    assert part in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("flag", ["--device", "--dtype"])
def test_every_command_knows_its_devices_and_dtypes(monkeypatch, tiny_folder, capsys, flag):
    assert run(monkeypatch, "prepare", "--model", tiny_folder, flag, "nonsense") == 3
    assert "Known: auto" in capsys.readouterr().err


def test_the_operator_lists_and_cancels_jobs(monkeypatch, capsys):
    assert run(monkeypatch, "queue") == 0
    assert "No job waits or runs" in capsys.readouterr().out
    journal = Journal()
    request = ProfileRequest(model=ModelSource(kind="demo"), text=TextSource.parse("demo", "calibration"))
    for number in (1, 2):
        journal.note(number, request, "a" * 32)
    journal.begin(1)
    assert run(monkeypatch, "queue", "--json", "-") == 0
    first, second = json.loads(capsys.readouterr().out)["jobs"]
    assert (first["state"], second["state"], first["by"]) == ("runs", "waits", "a" * 32)
    assert run(monkeypatch, "queue") == 0
    table = capsys.readouterr().out
    assert first["job"] in table and "Profile" in table and "a" * 12 in table
    assert run(monkeypatch, "queue", "cancel", second["job"]) == 0
    assert journal.taken_away() == {2}
    assert run(monkeypatch, "queue", "cancel", second["job"]) == 6
    assert "There is no job" in capsys.readouterr().err
