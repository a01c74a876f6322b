"""The cases of the fuzz: commands that are wrong in one place, made from the options that are declared.

Every option is tried with every hostile value of its kind, in turn on the commands that have it; then
recipes, addresses of pages, and folders and files that are damaged. All are the same in every run.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import typer.main
from safetensors.torch import load_file, save_file

from app.cli import app
from slicing.studies.store import bundled_run

Change = Callable[[Path], object]
MINE = "mine"
"""What stands in the file that nothing may write to unasked."""
TEXT = "It is a truth universally acknowledged, that a tensor in possession of many rows must want a basis. "


STUDY = """model = "tiny"
calibration = "a.txt"
calibration_windows = 3
evaluation = "b.txt"
evaluation_windows = 2
window_length = 16
recipes = ["slice(constant, rounding=1, one_shot=true)"]
"""


class Case(NamedTuple):
    """One command, in a folder of its own."""

    words: tuple[str, ...]
    """After ``slicescope``; or ``address`` with the name and the value of a parameter of a page."""
    refused: bool | None = None
    """Whether it must be refused, or must be done; ``None`` where either may be right."""
    change: Change | None = None
    """What is done to the folder first."""
    home: str | None = None
    """Of ``SLICESCOPE_HOME``."""


# The folder of a case


def furnish(place: Path, world: Path) -> None:
    """What every case finds: a model, two texts, stored runs, and things that nobody may replace."""
    shutil.copytree(world / "home", place / "home")
    (place / "tiny").symlink_to(world / "tiny")
    (place / "a.txt").write_text(TEXT * 20)
    (place / "b.txt").write_text(TEXT[::-1] * 20)
    (place / "study.toml").write_text(STUDY)
    (place / "mine.txt").write_text(MINE)
    (place / "folder").mkdir()
    (place / "folder" / "inside.txt").write_text(MINE)
    for name, target in (("link", "mine.txt"), ("dangling", "nowhere"), ("loop", "loop")):
        (place / name).symlink_to(target)
    os.mkfifo(place / "pipe")


# Options

KEY = bundled_run().request.key
LONG, ENDLESS = "9" * 400, "9" * 5000
WHOLE: dict[str, bool | None] = {
    **dict.fromkeys(("", "nan", "1.5", "1e400", "0x10", "\x1b[31m", ENDLESS), True),
    **dict.fromkeys(("-1", "0", "9223372036854775808", "18446744073709551616", LONG, "٣"), None),
}
REAL: dict[str, bool | None] = {
    **dict.fromkeys(("", "nan", "inf", "-inf", LONG, ENDLESS, "abc", "-1"), True),
    **dict.fromkeys(("1", "1e300", "5e-324"), None),
}
LIST: dict[str, bool | None] = {
    **dict.fromkeys(("nan", "inf", "0,nan", "1e400", LONG, ENDLESS, "abc", "0;1", "0,abc", "1e300"), True),
    **dict.fromkeys(("", ",", "-1", "0,0", "2", "18446744073709551616", "1.5", "5e-324"), None),
    ",".join(map(str, range(3000))) + ",x": True,
}
ODD = ("a" * 5000, "\x1b[31mred", "\u202eevil", "[bold]x[/]", "\udcff", "🙂'\"", "%s{0}", "a\nb")
WORD: dict[str, bool | None] = {
    **dict.fromkeys((*ODD, "../../etc/passwd", "-", "./pipe", "/dev/zero"), True),
    **dict.fromkeys(("", " "), None),
}
SENTENCE: dict[str, bool | None] = dict.fromkeys((*ODD, "", " ", "word " * 4000))
NOWHERE = ("", "/", "folder", "tiny", "nowhere/x.json", "n" * 300, "mine.txt/x", "loop", "/dev/full")
OUTPUT: dict[str, bool | None] = {
    **dict.fromkeys(NOWHERE, True),
    **dict.fromkeys(("mine.txt", "link", "dangling", "pipe", "\udcff", "n" * 240, "\x1b[31m"), None),
    **dict.fromkeys(("/dev/null", "-"), False),
}
NEW: dict[str, bool | None] = {
    **dict.fromkeys((*NOWHERE, "mine.txt", "link", "dangling", "pipe", "/dev/null"), True),
    **dict.fromkeys(("-", "\udcff", "n" * 240, "\x1b[31m"), None),
    "nowhere/x.json": None,
}
INPUT: dict[str, bool | None] = dict.fromkeys(
    ("", "/", "folder", "nowhere/x", "n" * 300, "mine.txt", "loop", "pipe", "/dev/zero", "\udcff"), True
)
FREE = ("--prompt", "--note", "label", "--host")
"""Texts that may be anything."""
LISTS = ("--sizes", "--seeds", "--shares")
SWEPT = (("study sweep", "--base"), ("study sweep", "--target"))
WITH: dict[str, tuple[str, ...]] = {
    "--temperature": ("--allocation", "softmax"),
    "--spread": ("--allocation", "band"),
    "--slope": ("--allocation", "rising"),
    "--draw": ("--allocation", "random"),
    "--rounds": ("--allocation", "searched"),
    "--shares": ("--allocation", "manual"),
    "--address": ("--executor", "ray"),
    "--include": ("--tasks", "sums"),
}
"""What else has to be said so that an option counts."""
OWN: dict[str, dict[str, bool | None]] = {
    "--tasks": {"nonsense": True},
    "--include": dict.fromkeys(("nowhere/x", "n" * 300, "pipe", "/dev/zero", "\udcff"), True),
    "--root": {
        **dict.fromkeys(("", "/", "folder"), False),
        **dict.fromkeys(("nowhere/x", "n" * 300, "mine.txt", "loop", "pipe", "/dev/zero", "\udcff"), True),
    },
    **dict.fromkeys(
        ("--fewer", "--flops"),
        dict.fromkeys(("nonsense", "20", "-5%", "100%", "nan", "1e400", "%", "٣%", "\x1b[31m", LONG), True),
    ),
    "--memory": dict.fromkeys(
        ("nonsense", "5", "GB", "-5GB", "1e30GB", "5 apples", "nanGB", "٣GB", "\x1b[31m", "1B"), True
    ),
    "--quality": dict.fromkeys(("nonsense", "1.3", "ppl<=x", "ppl<=0.5x", "ppl<=nanx", "\x1b[31m"), True),
    "--address": dict.fromkeys(("nonsense", "nonsense:0:0", "x" * 5000, "\x1b[31m"), True),
}
"""Options with values of their own: folders, and what starts the harness or Ray, which takes seconds."""

_MODEL = ("--model", "tiny")
_CALIBRATED = (*_MODEL, "--calibration", "a.txt", "--calibration-windows", "3", "--window-length", "16")
_EVALUATED = ("--evaluation", "b.txt", "--evaluation-windows", "2")
_PROFILED = (*_MODEL, "--text", "a.txt", "--windows", "2", "--window-length", "16")
_ROUNDED = ("--rounding", "1")
_QUICK = (*_ROUNDED, "--method", "preview")
_ONE_SHOT = (*_ROUNDED, "--one-shot")
_ONE_BLOCK = ("--blocks", "1", "--by", "shortgpt")
_CONSTANT = ("--recipes", "slice(constant)")
_ONE_TEXT = ("--other", "")
GOOD: dict[str, tuple[str, ...]] = {
    "profile": _PROFILED,
    "plan": (*_PROFILED, *_ROUNDED),
    "shrink": (
        *(*_CALIBRATED, *_EVALUATED, *_ONE_TEXT, "--fewer", "30%", "--speed-rounds", "0"),
        *("--minutes", "0.1", "--out", "new"),
    ),
    "slice": (*_CALIBRATED, *_QUICK, "--evaluation-windows", "0", "--out", "new"),
    "remove": (*_CALIBRATED, *_ONE_BLOCK, "--evaluation-windows", "0", "--out", "new"),
    "compare": (*_CALIBRATED, *_EVALUATED, *_QUICK, "--new-tokens", "0", "--speed-rounds", "0"),
    "compress": (
        "shortgpt",
        "--budget",
        "blocks=1",
        *_CALIBRATED,
        "--evaluation-windows",
        "0",
        "--out",
        "new",
    ),
    "study": ("study.toml",),
    "study file": ("study.toml",),
    "study sweep": (*_CALIBRATED, *_EVALUATED, *_ONE_SHOT, "--base", "0", "--target", ".2"),
    "study contest": (*_CALIBRATED, *_EVALUATED, *_ONE_SHOT, *_CONSTANT, "--seeds", "0", *_ONE_TEXT),
    "study leaderboard": (*_CALIBRATED, *_EVALUATED, *_ONE_SHOT, *_CONSTANT, "--sizes", ".3", *_ONE_TEXT),
    "evaluate": (*_MODEL, *_EVALUATED, "--window-length", "16"),
    "generate": (*_MODEL, "--new-tokens", "3"),
    "export": ("tiny", "--to", "deci", "--out", "new"),
    "prepare": _MODEL,
    "report": (KEY, "--out", "new.html", "--figures", "new-figures"),
    "cite": (KEY,),
    "app": ("--no-open",),
    "runs": (),
    "runs list": (),
    "runs show": (KEY,),
    "runs delete": (KEY,),
    "runs difference": (KEY, "demo"),
    "runs trash": (),
    "runs restore": ("nothing",),
    "runs note": (KEY, "0", "A note"),
    "runs rename": (KEY, "A name"),
    "runs export": (KEY, "--out", "new.zip"),
    "runs import": ("mine.txt",),
    "queue": (),
    "queue cancel": ("nothing",),
}
"""What each command is given so that it does something small."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that is declared, by its words."""

    def walk(group: Any, words: str) -> Iterator[tuple[str, Any]]:
        for name, each in group.commands.items():
            yield f"{words} {name}".strip(), each
            if hasattr(each, "commands"):
                yield from walk(each, name)

    return walk(typer.main.get_command(app), "")


def of_options() -> Iterator[Case]:
    """Every option with every hostile value of its kind.

    In turn on the commands that have it; values that may be right on the first of them, the quickest.
    """
    having: dict[str, list[tuple[str, Any]]] = {}
    for words, command in commands():
        for each in command.params:
            if not getattr(each, "is_flag", False):
                place = " of the server" if words == "app" else ""
                place = " of the sweep" if (words, each.opts[0]) in SWEPT else place
                having.setdefault(each.opts[0] + place, []).append((words, each))
    for found in having.values():
        first, option = found[0]
        values = list(_values(first, option).items())
        if option.type_descriptor.is_choice:
            values = values[::6]
        # Every command that has it is asked at least once.
        rounds = len(values) if option.opts[0] in OWN else max(len(values), len(found))
        turns = zip(itertools.cycle(values), itertools.cycle(found), range(rounds))
        for (value, refused), (words, each), turn in turns:
            again = turn >= len(values)
            words, each = (words, each) if refused or again else found[0]
            yield Case(_said(words, each, value), _values(words, each)[value])


def _values(words: str, option: Any) -> dict[str, bool | None]:
    """The hostile values of an option, each with whether it must be refused."""
    name, kind = option.opts[0], option.type_descriptor.annotation
    if name in OWN and not (words == "app" and name == "--address"):
        return OWN[name]
    if name in LISTS or (words, name) in SWEPT:
        return LIST
    if kind is int:
        # Torch draws by negative seeds too.
        return WHOLE if name == "--seed" else {**WHOLE, "-1": True}
    if kind is float:
        return REAL
    if "Path" in str(kind):
        return {"--json": OUTPUT, "--out": NEW}.get(name, INPUT)
    return SENTENCE if name in FREE else WORD


def _said(words: str, option: Any, value: str) -> tuple[str, ...]:
    name, given = option.opts[0], [*GOOD[words]]
    if option.param_type_name == "option":
        return (*words.split(), *given, *WITH.get(name, ()), f"{name}={value}")
    given[name == "label"] = value
    return (*words.split(), *(["--"] if value.startswith("-") else []), *given)


# What recipes, budgets and study files may say

_BAD_RECIPES = r"""
    , | slice| |slice slice||slice dense dense|slice nonsense slice( slice) slice(,) slice(constant)slice
    slice(dynamc) slice(dynamic,lrr) slice(dynamic,lr,3) slice(dynamic,base=) slice(dynamic,=0)
    slice(dynamic,base=nan) slice(dynamic,base=inf) slice(dynamic,base=LONG) slice(dynamic,base=ENDLESS)
    slice(dynamic,base=2) slice(dynamic,base=-1) slice(dynamic,base=0,base=1) slice(dynamic,other=0)
    slice(dynamic,base=a) slice(dynamic,base='0') slice(dynamic,base=0.1=0.2) slice(random,draw=-1)
    slice(constant,blocks_per_basis=ENDLESS) slice(constant,blocks_per_basis=-1) slice(**x) slice(*x)
    slice(constant,blocks_per_basis=1.5) slice(constant,blocks_per_basis=nan) slice(constant,rounding=0)
    slice(constant,repair=nonsense) slice(constant,repair=linear) slice(constant,repair=writers,one_shot=true)
    slice(random,draw=LONG) slice(random,draw=1.5) slice(random,draw=1e300) slice(rising,slope=2)
    slice(softmax,temperature=0) slice(softmax,temperature=-1) slice(band,spread=2) slice(searched,rounds=0)
    slice(manual,shares=(1,)) slice(manual,shares=1) slice(manual,shares=(nan,)) slice(constant)|slice(rising)
    slice(constant,share=0.5) slice(constant,max_fraction=2) slice(constant,embedding=tied) WORD \x1b[31m
    slice(constant)[0] slice.constant slice(constant)+sleb -slice [slice] "slice" 7 lambda:0 slice#x
    constant constant,rising dynamic:lr:base=0 remove:shortgpt shortgpt+matrix greedy PARENTHESES
    shortgpt(x=1) laco(merge=) laco(merge=nonsense) laco(merge=nan) laco(width=0) laco(width=LONG)
    laco(width=1e300) laco(width=1.5) random-blocks(draw=-1) random-blocks(draw=nan)
    random-blocks(draw=ENDLESS) shortgpt(repair=nonsense) shortgpt(repair=matrix) shortgpt(windows=0)
    shortgpt(share=0.5) shortgpt(share=0)|slice shortgpt(share=2)|slice shortgpt(share=nan)|slice
    shortgpt(share=-1)|slice shortgpt(share=x)|slice shortgpt(share=0.5)| shortgpt(share=0.5)|nonsense
    shortgpt(share=0.5,repair=linear)|slice shortgpt|slice shortgpt(share=0.5)|slice|slice shortgpt|sleb
"""
BAD_RECIPES = (
    _BAD_RECIPES.replace("LONG", LONG)
    .replace("ENDLESS", ENDLESS)
    .replace("WORD", "x" * 5000)
    .replace("PARENTHESES", "(" * 5000)
    .replace(r"\x1b", "\x1b")
    .split()
)
GOOD_RECIPES = ("slice(rising)", "  slice( dynamic , base = 0 ) ", "slice(random,draw=7,blocks_per_basis=99)")
BAD_BUDGETS = (
    *(
        "",
        "=",
        "blocks",
        "blocks=",
        "blocks=0",
        "blocks=3",
        "blocks=-1",
        "blocks=1.5",
        "blocks=nan",
        "block=1",
    ),
    *(f"blocks={LONG}", f"blocks={ENDLESS}", "mean_slice=0.25", "size=5", "parameters=0", "parameters=1"),
    *("parameters=inf", "parameters=1e-9", "nonsense=1", "blocks=1=1", "\x1b[31m=1", "x" * 5000, "blocks=٣"),
)
BAD_STUDIES: tuple[str | bytes, ...] = (
    *(
        "",
        "[]",
        "a = ",
        "= 1",
        "model = 'tiny'",
        "recipes = []",
        "recipes = 7",
        "recipes = [7]",
        "recipes = ['x']",
    ),
    *(
        "\x00",
        b"\xff\xfe",
        "x = " + "[" * 5000,
        f"seeds = [{ENDLESS}]",
        "[[recipes]]\na = 1",
        "recipes = ['dense']",
    ),
    *(
        STUDY + more
        for more in (
            *(
                "nonsense = 1",
                "recipes = ['sleb']",
                "view = 'x'",
                "matched = 1",
                "seeds = []",
                "seeds = [0, 0]",
            ),
            *(
                "seeds = [0.5]",
                "seeds = 'x'",
                f"seeds = [{LONG}]",
                "budgets = 3",
                "budgets = {}",
                "budgets = []",
            ),
            *("budgets = { parameters = 2 }", "budgets = { nonsense = 1 }", "budgets = ['x']", "tasks = 'x'"),
            *("budgets = { mean_slice = [nan] }", "budgets = { mean_slice = [[0.2]] }", "task_limit = 0"),
            *("speed_rounds = 5000", "speed_rounds = -1", "new_tokens = true", "profile_windows = 9"),
            *(
                "other = 7",
                "other = ''",
                "other = { kind = 'x' }",
                "other = { kind = 'demo' }",
                "device = 'x'",
            ),
            *(
                "dtype = 7",
                "lens = 2020-01-01",
                "prompt = 1.5",
                "task_folder = 7",
                "seed = 3",
                "kind = 'study'",
            ),
            *(f"{'x' * 5000} = 1", "'\\u001b[31m' = 1", f"prompt = {ENDLESS}", "model.x = 1"),
        )
    ),
)


def of_recipes() -> Iterator[Case]:
    """Recipes of studies and of what is compressed, budgets, and study files."""
    for place, text in enumerate(BAD_RECIPES):
        if place % 2:
            yield Case(
                ("study", "contest", *GOOD["study contest"], f"--recipes=slice(constant);{text}"), True
            )
        else:
            yield Case(("compress", *GOOD["compress"][1:], "--", text), True)
    for place, text in enumerate(BAD_RECIPES[-30:]):
        words = ("remove", *GOOD["remove"], f"--by={text}")
        if place % 2:
            words = ("study", "leaderboard", *GOOD["study leaderboard"], f"--recipes=slice(constant);{text}")
        yield Case(words, True)
    for text in GOOD_RECIPES:
        yield Case(("study", "contest", *GOOD["study contest"], f"--recipes=slice(constant);{text}"), False)
    words = ("study", "leaderboard", *GOOD["study leaderboard"])
    yield Case((*words, "--recipes=slice(constant);shortgpt"), False)
    yield from (Case(("compress", *GOOD["compress"], f"--budget={text}"), True) for text in BAD_BUDGETS)
    for content in BAD_STUDIES:
        yield Case(("study", "study.toml"), True, put("study.toml", content))
    for file in (
        "folder",
        "pipe",
        "loop",
        "/dev/zero",
        "nowhere/x.toml",
        "n" * 300 + ".toml",
        "mine.txt",
        "\udcff",
    ):
        yield Case(("study", file), True)
    yield Case(("study", "large.toml"), True, put("large.toml", "#" * 2_000_000))


# Addresses of pages

VALUES = ("", "0", "-1", "1.5", "nan", "inf", "abc", LONG, ENDLESS, "²", "٣", "\x00", "../..", "a" * 5000)
SHARES = (
    "nan,nan,nan",
    "inf,1,1",
    "1e400,0,0",
    f"{LONG},1,1",
    f"{ENDLESS},1,1",
    "-1,0,0",
    "a,b,c",
    "0,0",
    ",,",
)


def of_addresses() -> Iterator[Case]:
    """Parameters of the address of a page: nothing that stands there may break it."""
    for name in ("step", "profile", "compare", "study"):
        yield from (Case(("address", name, value), False) for value in VALUES)
    yield from (Case(("address", "shares", value), False) for value in (*SHARES, *VALUES))


# Damaged models


def settings(file: str, **fields: Any) -> Change:
    """Set fields of a JSON file of the model."""

    def change(place: Path) -> None:
        path = place / "model" / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **fields}))

    return change


def written(file: str, content: str | bytes) -> Change:
    """Put this into a file of the model."""
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda place: (place / "model" / file).write_bytes(raw)


def replaced(file: str, by: Change) -> Change:
    """Take a file of the model away, and put something else in its place."""

    def change(place: Path) -> None:
        (place / "model" / file).unlink(missing_ok=True)
        by(place / "model" / file)

    return change


def weights(of: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change every tensor of the model."""

    def change(place: Path) -> None:
        path = place / "model" / "model.safetensors"
        save_file({name: of(each) for name, each in load_file(path).items()}, path, {"format": "pt"})

    return change


def vocabulary(of: Callable[[int], int]) -> Change:
    """Change the number of every token of the model."""

    def change(place: Path) -> None:
        path = place / "model" / "tokenizer.json"
        said = json.loads(path.read_text())
        said["model"]["vocab"] = {name: of(each) for name, each in said["model"]["vocab"].items()}
        path.write_text(json.dumps(said))

    return change


def tokenizer(kind: str, **fields: Any) -> Change:
    """Give the model a tokenizer of another kind."""
    return settings("tokenizer.json", model={"type": kind, **fields})


INDEX, LEADING = "model.safetensors.index.json", '{"weight_map": {"a": "../../mine.txt"}}'
NUMBERS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "max_position_embeddings", "head_dim", "rms_norm_eps", "initializer_range"),
)
NO_NUMBERS = (0, -1, 10**6, 2**63, 10**400, 1.5, float("nan"), "x", None, [1])
NEST = "[" * 3000 + "]" * 3000
DAMAGES: tuple[Change, ...] = (
    *(
        settings("config.json", **{name: value})
        for place, name in enumerate(NUMBERS)
        for value in NO_NUMBERS[place % 2 :: 2]
    ),
    settings("config.json", hidden_size=16),
    settings("config.json", vocab_size=100),
    settings("config.json", num_hidden_layers=2),
    settings("config.json", hidden_act="nonsense"),
    settings("config.json", model_type="nonsense"),
    settings("config.json", model_type=["llama"]),
    settings("config.json", model_type="x" * 5000),
    settings("config.json", dtype="nonsense"),
    settings("config.json", dtype=7),
    settings("config.json", tie_word_embeddings="maybe"),
    settings("config.json", eos_token_id="x"),
    settings("config.json", eos_token_id=10**9),
    settings("config.json", pad_token_id=10**9),
    settings("config.json", rope_parameters={"rope_type": "nonsense"}),
    settings("config.json", rope_parameters={"rope_type": "linear", "factor": "x"}),
    settings("config.json", rope_parameters=7),
    settings("config.json", rope_scaling={"type": "yarn", "factor": -1}),
    settings("config.json", quantization_config={"quant_method": "nonsense"}),
    settings("config.json", quantization_config=7),
    settings("config.json", architectures="x"),
    settings("config.json", architectures=[7]),
    settings("config.json", architectures=7),
    settings("config.json", auto_map={"AutoConfig": "x.Y"}),
    settings("config.json", _attn_implementation="nonsense/kernel"),
    settings("config.json", layer_types=["nonsense"] * 3),
    settings("config.json", text_config={"model_type": "nonsense"}),
    written("config.json", NEST),
    written("config.json", '{"model_type": "llama", "x": ' + NEST + "}"),
    written("config.json", "[]"),
    written("config.json", ""),
    written("config.json", b"\xff\xfe\x00"),
    written("config.json", '{"hidden_size": ' + ENDLESS + "}"),
    replaced("config.json", os.mkfifo),
    replaced("config.json", Path.mkdir),
    replaced("config.json", lambda path: path.symlink_to("/dev/zero")),
    replaced("config.json", lambda path: path.symlink_to(path)),
    replaced("model.safetensors", os.mkfifo),
    replaced("model.safetensors", Path.mkdir),
    replaced("model.safetensors", lambda path: path.symlink_to("/dev/zero")),
    replaced("model.safetensors", lambda path: None),
    written("model.safetensors", b"\xff" * 100),
    written("model.safetensors", (2**63).to_bytes(8, "little") + b"{}"),
    written("model.safetensors", (len(NEST) + 6).to_bytes(8, "little") + b'{"a":' + NEST.encode() + b"}"),
    written(INDEX, NEST),
    replaced("model.safetensors", lambda path: (path.parent / INDEX).write_text(LEADING)),
    weights(lambda each: each * torch.nan),
    weights(lambda each: each * 0.0),
    weights(lambda each: each * 1e30),
    weights(lambda each: each.to(torch.int8)),
    weights(lambda each: each[:1]),
    written("tokenizer.json", "[]"),
    written("tokenizer.json", NEST),
    replaced("tokenizer.json", lambda path: None),
    replaced("tokenizer.json", os.mkfifo),
    vocabulary(lambda number: number + 10**6),
    vocabulary(lambda number: 2**32 - 1),
    vocabulary(lambda number: 0),
    tokenizer("BPE", vocab={}, merges=[]),
    tokenizer("BPE", vocab={"a": 0, "b": 1}, merges=[]),
    tokenizer("BPE", vocab={"a": 0}, merges=[["a", "z"]]),
    tokenizer("WordLevel", vocab={"a": 0}, unk_token="[UNK]"),
    tokenizer("WordPiece", vocab={"a": 0}, unk_token="[UNK]", max_input_chars_per_word=100),
    tokenizer("Unigram", vocab=[["a", -1.0]], unk_id=None),
    tokenizer("Unigram", vocab=[], unk_id=7),
    tokenizer("Nonsense"),
    settings("tokenizer.json", pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}}),
    settings("tokenizer.json", truncation={"max_length": 2, "strategy": "LongestFirst", "stride": 0}),
    settings("tokenizer.json", post_processor={"type": "TemplateProcessing", "single": [], "pair": []}),
    settings("tokenizer.json", normalizer=7, decoder="x"),
    settings("tokenizer_config.json", tokenizer_class="NonsenseTokenizer"),
    settings("tokenizer_config.json", tokenizer_class="../../x"),
    settings("tokenizer_config.json", model_max_length="x"),
    settings("tokenizer_config.json", bos_token={"x": 1}),
    settings("tokenizer_config.json", bos_token=7),
    written("tokenizer_config.json", NEST),
    written("tokenizer_config.json", "[]"),
    settings("generation_config.json", stop_strings=["a", "b"]),
    settings("generation_config.json", eos_token_id=["x", -1, 10**9]),
    settings("generation_config.json", temperature="x", do_sample=True),
    settings("generation_config.json", max_length=-1, min_length=10**9),
    settings("generation_config.json", cache_implementation="nonsense"),
    settings("generation_config.json", num_beams=10**6, num_return_sequences=10**6),
    settings("generation_config.json", custom_generate="x/y"),
    written("generation_config.json", NEST),
    written("generation_config.json", "[]"),
    replaced("generation_config.json", os.mkfifo),
    written("chat_template.jinja", "{% for x in range(10**12) %}{% endfor %}"),
    written("slicescope.json", NEST),
    written("slicescope.json", "{}"),
    replaced("slicescope.json", os.mkfifo),
    written("adapter_config.json", "{}"),
    written("x" * 250 + ".json", "{}"),
)  # fmt: skip


def of_models() -> Iterator[Case]:
    """A damaged model, in turn for the commands that open one."""
    turns = itertools.cycle(("evaluate", "plan", "generate", "slice", "profile", "remove", "prepare"))
    for damage, words in zip(DAMAGES, turns, strict=False):

        def change(place: Path, damage: Change = damage) -> None:
            shutil.copytree(place / "tiny", place / "model")
            damage(place)

        yield Case((words, *GOOD[words], "--model", "model"), None, change)


# Texts, runs and homes that are damaged


def put(file: str, content: str | bytes) -> Change:
    """Put this into a file of the case."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return lambda place: (place / file).write_bytes(raw)


TEXTS: dict[str, str | bytes] = {
    "nested.jsonl": '{"text": ' + NEST + "}",
    "nested.json": NEST,
    "surrogate.jsonl": '{"text": "\\ud800 and so on"}\n' * 200,
    "numbers.jsonl": '{"text": ' + LONG + "}",
    "endless.jsonl": '{"text": ' + ENDLESS + "}",
    "mixed.jsonl": '{"text": "a"}\n{"text": 1}\n',
    "keys.json": '[{"text": "a"}, 7, null]',
    "half.json": '[{"text": "a"',
    "word.json": '"text"',
    "line.txt": "a" * 2_000_000,
    "words.txt": "word " * 200_000,
    "unicode.txt": "🙂" * 200_000,
    "nothing.txt": "",
    "blank.txt": " \n" * 1000,
    "zero.txt": "a\0b" * 100,
    "latin.txt": b"\xe9" * 1000,
    "short.txt": "a",
    "marks.txt": b"\xff\xfe",
    "odd.csv": "text\n\"a\nb",
    "wide.csv": "text," * 20_000 + "\n",
    "zero.csv": "text\na\0b\n",
    "table.parquet": b"PAR1" + b"\0" * 100 + b"PAR1",
    "bad.txt.gz": b"\x1f\x8b\x08\x00" + b"\xff" * 50,
    "large.txt.gz": gzip.compress(b"a" * 2_000_000, 1),
    "x" * 240 + ".txt": TEXT * 20,
    "page.pdf": "%PDF",
}  # fmt: skip
FILES: dict[str, str | bytes] = {
    "empty.zip": b"PK\x05\x06" + b"\0" * 18,
    "cut.zip": b"PK\x03\x04",
    "garbage.zip": b"PK" + bytes(range(256)) * 40,
    "nested.json": NEST,
    "list.json": "[]",
    "key.json": '{"format": 1, "recorded_key": "../../../../x"}',
    "endless.json": '{"seconds": ' + ENDLESS + "}",
    "latin.json": b"\xff\xfe{}",
    "nan.json": '{"seconds": NaN}',
}


def _bomb(place: Path) -> None:
    with zipfile.ZipFile(place / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("run.json", b"0" * 80_000_000)


def of_files() -> Iterator[Case]:
    """Texts and packed runs that are damaged, and homes that are none."""
    turns = itertools.cycle((("profile", "--text"), ("evaluate", "--evaluation"), ("slice", "--calibration")))
    for (file, content), (words, option) in zip(TEXTS.items(), turns, strict=False):
        yield Case((words, *GOOD[words], option, file), None, put(file, content))
    yield from (Case(("runs", "import", file), True, put(file, content)) for file, content in FILES.items())
    yield Case(("runs", "import", "bomb.zip"), True, _bomb)
    run, index = f"home/runs/{KEY}/run.json", "home/runs/.index.json"
    for content in ("", "[]", NEST, "{}", ENDLESS, b"\xff\xfe"):
        yield Case(("runs", "show", KEY), True, put(run, content))
        yield Case(("runs",), None, put(run, content))
        yield Case(("runs",), False, put(index, content))
        yield Case(("runs", "show", KEY), False, put(f"home/runs/{KEY}/note.json", content))
        details = put(f"home/runs/{KEY}/profile.safetensors", content)
        yield Case(("report", KEY, "--out", "new.html"), None, details)
    for home in (
        "mine.txt",
        "mine.txt/x",
        "/dev/null",
        "n" * 300,
        "loop",
        "/proc/x",
        "pipe",
        "dangling",
        "\udcff",
    ):
        yield Case(("profile", *GOOD["profile"]), None, home=home)
        yield Case(("runs",), None, home=home)


def of_commands() -> Iterator[Case]:
    """Words that are no command, and commands without or with too many words."""
    for word in ("nonsense", "x" * 5000, "\x1b[31m", "\udcff", "--nonsense", "-"):
        yield from (Case(words, True) for words in ((word,), ("runs", word), ("study", word)))
    for place, (words, _) in enumerate(commands()):
        more = ("--nonsense",) if place % 2 else ("y" * 3000, "\x1b[31m")
        yield Case((*words.split(), *GOOD[words], *more), True)
        yield Case((*words.split(), *GOOD[words]), words in ("runs restore", "runs import", "queue cancel"))
    for words in (
        "slice",
        "remove",
        "compress",
        "report",
        "runs export",
        "runs show",
        "runs delete",
        "runs rename",
    ):
        yield Case(tuple(words.split()), True)
    for frame in (
        "x",
        "https://",
        "https://a;b",
        "https://x\n",
        ENDLESS,
        "\udcff",
        "https://*.a.org:99999999999999",
    ):
        yield Case(("app", "--no-open", f"--allow-embedding={frame}"), None)
    for address in ("nonsense:0", "", "999.1.1.1", "::1", "\udcff", "a" * 300, "\x1b[31m"):
        yield Case(("app", "--no-open", f"--address={address}"), None)


def all_cases() -> list[Case]:
    """All of them, in their order."""
    kinds = (of_options, of_recipes, of_addresses, of_models, of_files, of_commands)
    return [case for kind in kinds for case in kind()]
