"""Where what we write opens, measured: ``make where-it-opens`` writes the table in docs/export.md.

Tiny models of every kind are written by this version. Other processes, which import none of our packages,
open them: with the transformers of here and other tools, and with transformers 4.57. A cell says yes where
logits, hidden states or tokens are those of the model that was written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, __version__

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "export.md"
MARKERS = ("<!-- where it opens: begin -->\n", "<!-- where it opens: end -->\n")
BUILD = ROOT / "build" / "portability"
TOOLS = BUILD / "tools"
PACKAGES = ("peft>=0.21,<0.22", "torchao>=0.18,<0.19", "xllamacpp")
PROMPT = "Mr. Speaker, the state of our Union is"
TOKENS = 16
TOLERANCE = 1e-4
OF_INT8 = 0.05
"""How far logits may be off, relative to their norm: by rounding, and by weights of 8 bits."""

ROWS = {
    "removed": "blocks removed",
    "uniform": "cut inside, alike in all blocks (`uniform=true`)",
    "unequal": "cut inside, MLPs of their own widths",
    "basis": "one basis (`slice(plain=true)`)",
    "sliced": "sliced, a basis per sub-layer",
    "deci": "cut inside, `export --to deci`",
}


# Written with our packages


def write(root: Path) -> None:
    """A folder and, where it can be, a GGUF file for every row, and what the model makes of some tokens."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import numpy as np
    from conftest import tiny_model

    from analysis.errors import SlicescopeError
    from analysis.read_shape import read_shape
    from analysis.sources.gguf import dequantised_folder, gguf_file
    from analysis.sources.model import ModelSource
    from analysis.sources.opening import dequantise
    from slicing.depth.layout import Layout
    from slicing.depth.operator import reduce_blocks
    from slicing.depth.reduce import ReducedModel
    from slicing.export import find_export
    from slicing.inner.cut import UnitCut, as_narrow_model, cut_model
    from slicing.inner.plain import as_plain
    from slicing.inner.widths import InnerWidths
    from slicing.schedule import SlicingSchedule
    from slicing.slicer import slice_model
    from slicing.store import open_model, save_reduced, save_sliced

    dequantise(demo := ModelSource.parse("demo", device="cpu"))
    tokenizer = AutoTokenizer.from_pretrained(dequantised_folder(gguf_file(demo)))
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
    rope = {"rope_type": "default", "rope_theta": 5e5}
    model = tiny_model(
        "llama",
        **sizes,
        num_hidden_layers=4,
        vocab_size=len(tokenizer),
        rope_parameters=rope,
        max_position_embeddings=256,
    )
    windows = torch.randint(3, len(tokenizer), (4, 32), generator=torch.Generator().manual_seed(1))
    words = {"made_from": "tiny", "method": "by hand", "calibration": "random tokens"}

    def inside(widths: tuple[int, ...]) -> Any:
        made = reduce_blocks(model, Layout.whole(4), check=False)
        cut_model(made, [[(), [UnitCut("channels", np.arange(width))]] for width in widths])
        return as_narrow_model(made)

    whole = InnerWidths.whole(read_shape(model))
    reduced = {
        "removed": ReducedModel(
            reduce_blocks(model, Layout.without(4, {1}), check=False), Layout.without(4, {1})
        ),
        "uniform": ReducedModel(as_plain(inside((96,) * 4).inner), Layout.whole(4), inner=whole),
        "unequal": ReducedModel(inside((80, 96, 64, 128)), Layout.whole(4), inner=whole),
    }
    schedules = {
        "basis": SlicingSchedule.in_one_basis(read_shape(model), 48),
        "sliced": SlicingSchedule(hidden_size=64, widths=(48, 40, 56, 48, 64), embedding="shared"),
    }
    models = {name: each.model for name, each in reduced.items()}
    for name, each in reduced.items():
        save_reduced(each, tokenizer, root / name, dense_parameters=10**7, **words)
    for name, schedule in schedules.items():
        sliced = slice_model(model, schedule, windows)
        models[name] = sliced.model
        save_sliced(sliced, tokenizer, root / name, made_from="tiny", calibration="random tokens")
    models["deci"] = models["unequal"]
    find_export("deci").write(models["deci"], tokenizer, root / "deci", made_from="tiny")
    ids = tokenizer(PROMPT).input_ids
    for name, each in models.items():
        found = each(windows, output_hidden_states=True, use_cache=False)
        known = {"windows": windows, "logits": found.logits, "states": found.hidden_states[-1], "ids": ids}
        torch.save({**known, "tokens": _greedily(each, ids)}, root / f"{name}.pt")
        path = root / f"{name}.gguf"
        try:  # as the command does it: from the folder
            opened = open_model(ModelSource.parse(str(root / name), device="cpu")).model
            find_export("gguf").write(opened, tokenizer, path, made_from="tiny", dtype="f32")
        except SlicescopeError as error:
            path.with_suffix(".refused").write_text(_sentence(error, root), encoding="utf-8")


# Read without


def read(root: Path) -> dict[str, dict[str, str]]:
    """For every row, what each tool of this environment made of it: nothing said where it is right."""
    checks: dict[str, Callable[[Path, dict[str, Any]], None]] = {"causal": _causal}
    if __version__ >= "5":
        checks |= {"model": _model, "lora": _lora, "int8": _int8, "export": _export, "gguf": _gguf}
    found: dict[str, dict[str, str]] = {}
    for name in ROWS:
        known = torch.load(root / f"{name}.pt")
        for column, check in checks.items():
            try:
                check(root / name, known)
                said = ""
            except Exception as error:  # whatever it is, it is told
                said = _sentence(error, root)
            found.setdefault(name, {})[column] = said
            print(f"{__version__:8} {name:8} {column:8} {said or 'ok'}", file=sys.stderr)  # noqa: T201
    return found


def _opened(folder: Path, kind: Any = AutoModelForCausalLM) -> Any:
    return kind.from_pretrained(folder, trust_remote_code=_has_code(folder)).eval()


def _has_code(folder: Path) -> bool:
    return any(folder.glob("modeling_*.py"))


def _greedily(model: Any, ids: list[int]) -> list[int]:
    length = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    with torch.no_grad():
        made = model.generate(torch.tensor([ids]), **length, do_sample=False, pad_token_id=0)
    return made[0, len(ids) :].tolist()


@torch.no_grad()
def _logits(model: Any, windows: Tensor) -> Tensor:
    return model(windows, use_cache=False).logits


def _near(found: Tensor, known: Tensor, what: str = "logits", within: float = TOLERANCE) -> None:
    error = float((found - known).norm() / known.norm())
    if not error <= within:
        raise AssertionError(f"{what} are off by {error:.1e}")


def _causal(folder: Path, known: dict[str, Any]) -> None:
    model = _opened(folder)
    _near(_logits(model, known["windows"]), known["logits"])
    if _greedily(model, known["ids"]) != known["tokens"]:
        raise AssertionError("greedy tokens differ")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer(PROMPT).input_ids != known["ids"]:
        raise AssertionError("the tokenizer reads a text otherwise")


@torch.no_grad()
def _model(folder: Path, known: dict[str, Any]) -> None:
    model = _opened(folder, AutoModel)
    _near(model(known["windows"], use_cache=False).last_hidden_state, known["states"], "hidden states")


def _lora(folder: Path, known: dict[str, Any]) -> None:
    """Adapters on all linear maps change nothing, learn, and are merged into the maps."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(_opened(folder), LoraConfig(r=4, target_modules="all-linear"))
    windows = known["windows"]
    _near(_logits(model, windows), known["logits"])
    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = model(windows, labels=windows, use_cache=False).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    if not losses[-1] < losses[0]:
        raise AssertionError(f"adapters do not learn: the loss was {losses[0]:.3f} and is {losses[-1]:.3f}")
    adapted = _logits(model, windows)
    _near(_logits(model.merge_and_unload(), windows), adapted, "logits of merged adapters")


def _int8(folder: Path, known: dict[str, Any]) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = _opened(folder)
    plain = {name: type(each.weight) for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    quantize_(model, Int8WeightOnlyConfig())
    left = [name for name, kind in plain.items() if type(model.get_submodule(name).weight) is kind]
    if set(left) - {name for name in left if "head" in name}:
        raise AssertionError(f"'{left[0]}' and {len(left) - 1} other maps were not quantised")
    _near(_logits(model, known["windows"]), known["logits"], within=OF_INT8)


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits


@torch.no_grad()
def _export(folder: Path, known: dict[str, Any]) -> None:
    program = torch.export.export(_Logits(_opened(folder)), (known["windows"],), strict=False)
    _near(program.module()(known["windows"].flip(0)), known["logits"].flip(0))


def _gguf(folder: Path, known: dict[str, Any]) -> None:
    import xllamacpp  # type: ignore[import-not-found]

    refused = folder.with_name(f"{folder.name}.refused")
    if refused.is_file():
        raise AssertionError(refused.read_text(encoding="utf-8"))
    asked: Any = xllamacpp.CommonParams()
    asked.model.path, asked.n_ctx, asked.n_parallel = str(folder.with_name(f"{folder.name}.gguf")), 256, 1
    asked.warmup, asked.cpuparams.n_threads = False, 1
    wish = {"prompt": known["ids"], "n_predict": TOKENS, "temperature": 0.0, "n_probs": 1, "ignore_eos": True}
    answer = xllamacpp.Server(asked).handle_completions(wish)
    answer = json.loads(answer) if isinstance(answer, str) else answer
    found = [each["id"] for each in answer["choices"][0]["logprobs"]["content"]]
    if found != known["tokens"]:
        raise AssertionError("greedy tokens differ")


def _sentence(error: Exception, root: Path) -> str:
    """The first sentence of what an error says, without where the folders are on this machine."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].replace(f"{root}/", "")
    return line.partition(". ")[0].rstrip(".") + "."


# The table


def table(found: dict[str, dict[str, str]], coded: set[str], versions: dict[str, str]) -> str:
    """The text of the page between the markers. ``coded``: the rows whose folders have a modelling file."""
    columns = {
        "causal": f"transformers {versions['new']}",
        "model": "`AutoModel`",
        "old": f"transformers {versions['old']}",
        "lora": "PEFT LoRA",
        "int8": "torchao int8",
        "export": "`torch.export`",
        "gguf": "llama.cpp (`--to gguf`)",
    }
    notes: list[str] = []
    lines = [f"| folder | {' | '.join(columns.values())} |", f"|---|{'---|' * len(columns)}"]
    for row, title in ROWS.items():
        cells = []
        for column in columns:
            if said := found[row][column]:
                if said not in notes:
                    notes.append(said)
                cells.append(f"no ({notes.index(said) + 1})")
            else:
                cells.append("with the file in it" if row in coded and column != "gguf" else "yes")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{place}. {said}" for place, said in enumerate(notes, 1)), ""])


def main(write_it: bool) -> None:
    """Install the other tools, write the folders, open them, and print the table or put it into the page."""
    from portability import OLD, install_old

    install_old()
    if not TOOLS.is_dir():
        words = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TOOLS), *PACKAGES]
        subprocess.run([sys.executable, *words], check=True)
    found: dict[str, dict[str, str]] = {name: {} for name in ROWS}
    versions = {}
    with TemporaryDirectory(dir=BUILD) as folder:
        root = Path(folder)
        write(root)
        coded = {name for name in ROWS if _has_code(root / name)}
        for age, path in (("new", TOOLS), ("old", OLD)):
            environment = {
                **os.environ,
                "PYTHONPATH": str(path),
                "HF_MODULES_CACHE": str(root / f"code-{age}"),
            }
            words = [sys.executable, __file__, "--read", folder]
            answer = subprocess.run(
                words, env=environment, cwd=root, stdout=subprocess.PIPE, text=True, check=True
            )
            told = json.loads(answer.stdout.splitlines()[-1])
            versions[age] = ".".join(told["version"].split(".")[:2])
            for name, cells in told["found"].items():
                found[name] |= {"old": cells["causal"]} if age == "old" else cells
    made = table(found, coded, versions)
    if not write_it:
        print(made)  # noqa: T201
        return
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    PAGE.write_text(before + begin + made + end + after, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    words = argparse.ArgumentParser()
    words.add_argument("--write", action="store_true", help="put the table into docs/export.md")
    words.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.read:
        print(json.dumps({"version": __version__, "found": read(given.read)}))  # noqa: T201
    else:
        main(given.write)
