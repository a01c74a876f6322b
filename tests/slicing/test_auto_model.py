"""Folders of ours with transformers alone: ``AutoModel`` gives the model without its head."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alone import alone
from conftest import byte_tokenizer, tiny_model
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from analysis.read_shape import read_shape
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.depth.reduce import ReducedModel, reduce_model
from slicing.export import find_export
from slicing.inner.cut import UnitCut, as_narrow_model, cut_model
from slicing.inner.widths import InnerWidths
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model
from slicing.store import save_reduced, save_sliced

ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"analysis", "slicing", "app", "tests"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
from pathlib import Path
import torch
from transformers import AutoModel, AutoModelForCausalLM
torch.set_num_threads(1)
root = Path(sys.argv[1])
windows = torch.load(root / "windows.pt")
for folder in sorted(each for each in root.iterdir() if (each / "config.json").is_file()):
    options = {"trust_remote_code": True, "output_loading_info": True}
    model, report = AutoModel.from_pretrained(folder, **options)
    found = model.eval()(windows, output_hidden_states=True, use_cache=False)
    told = {name: sorted(report[name]) for name in ("missing_keys", "mismatched_keys")}
    names = [name for name, _ in model.named_parameters()]
    again = folder / "again"
    model.save_pretrained(again)
    once_more = AutoModel.from_pretrained(again, trust_remote_code=True)
    same = torch.equal(once_more(windows).last_hidden_state, found.last_hidden_state)
    kind = type(model).__name__
    torch.save({"last": found.last_hidden_state, "states": found.hidden_states, "told": told, "names": names,
                "same": same, "kind": kind, "generates": model.can_generate()}, root / f"{folder.name}.found")
"""
KINDS = {
    "sliced": "SlicedDecoder",
    "sliced, untied": "SlicedDecoder",
    "bridged": "BridgedDecoder",
    "narrow": "NarrowDecoder",
    "narrow, untied": "NarrowDecoder",
    "deci": "DeciLMModel",
}


def narrowed(**changes: Any) -> Any:
    """Without an MLP and half of the channels of another."""
    model = tiny_model("llama", **changes)
    made = reduce_blocks(model, Layout.whole(3), check=False)
    cut_model(made, [[(), [UnitCut("channels", np.arange(20))]], [(), None], [(), ()]])
    return as_narrow_model(made)


def write(name: str, folder: Path, windows: Tensor) -> Any:
    """Write a folder of this kind; the model that is in it."""
    words = {"made_from": "tiny", "method": "by hand", "calibration": "nothing"}
    untied = {"tie_word_embeddings": False} if "untied" in name else {}
    if name.startswith("sliced"):
        form = "untied" if untied else "shared"
        schedule = SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding=form)
        sliced = slice_model(tiny_model("llama", **untied), schedule, windows)
        save_sliced(sliced, byte_tokenizer(), folder, made_from="tiny", calibration="nothing")
        return sliced.model
    if name == "bridged":
        reduced = reduce_model(tiny_model("gpt2"), Layout.without(3, {1}), windows, "linear")
        save_reduced(reduced, byte_tokenizer(), folder, dense_parameters=10**6, **words)
        return reduced.model
    model = narrowed(**untied)
    if name == "deci":
        find_export("deci").write(model, byte_tokenizer(), folder, made_from="tiny")
        return model
    reduced = ReducedModel(model, Layout.whole(3), inner=InnerWidths.whole(read_shape(tiny_model("llama"))))
    save_reduced(reduced, byte_tokenizer(), folder, dense_parameters=1, **words)
    return model


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Path]]:
    """By kind of folder: the whole model, what another process found with transformers alone, the folder."""
    root = tmp_path_factory.mktemp("folders")
    windows = torch.randint(3, 256, (2, 12), generator=torch.Generator().manual_seed(1))
    torch.save(windows, root / "windows.pt")
    calibration = torch.randint(3, 300, (6, 16), generator=torch.Generator().manual_seed(2))
    models = {name: write(name, root / name, calibration) for name in KINDS}
    answer = alone(ALONE, root, cwd=root)
    assert answer.returncode == 0, answer.stderr[-3000:]
    wholes = {
        name: model(windows, output_hidden_states=True, use_cache=False) for name, model in models.items()
    }
    return {name: (whole, torch.load(root / f"{name}.found"), root / name) for name, whole in wholes.items()}


@pytest.mark.parametrize("name", KINDS)
def test_auto_model_is_the_decoder_with_the_states_of_the_whole_model(opened, name):
    whole, found, _ = opened[name]
    assert (found["kind"], found["generates"]) == (KINDS[name], False)
    assert not any(found["told"].values())
    assert not any("lm_head" in each or each.startswith("inner.head") for each in found["names"])
    assert found["same"], "it is another one after it was saved"
    assert torch.allclose(found["last"], whole.hidden_states[-1], atol=1e-5)
    assert [each.shape for each in found["states"]] == [each.shape for each in whole.hidden_states]
    for here, there in zip(whole.hidden_states, found["states"], strict=True):
        assert torch.allclose(here, there, atol=1e-5)


@pytest.mark.parametrize("name", ["sliced", "bridged", "narrow, untied"])
def test_the_head_of_the_whole_model_reads_what_auto_model_gives(opened, name):
    whole, found, folder = opened[name]
    model = AutoModelForCausalLM.from_pretrained(folder)  # registered by 'import slicing'
    assert torch.allclose(model.get_output_embeddings()(found["last"]), whole.logits, atol=1e-5)
    decoder = AutoModel.from_pretrained(folder)
    assert type(decoder).__name__ == KINDS[name]
    assert decoder.get_input_embeddings() is decoder.whole.get_input_embeddings()


def test_configurations_name_files_that_are_there(opened):
    for _, _, folder in opened.values():
        named = json.loads((folder / "config.json").read_text())["auto_map"]
        assert set(named) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
        for reference in named.values():
            module, _, kind = reference.partition(".")
            assert f"class {kind}(" in (folder / f"{module}.py").read_text()


def test_the_cards_open_the_tokenizer_without_code_and_without_a_question(opened, tmp_path):
    """At a terminal, where transformers asks whether code may run unless it is told."""
    script = "from transformers import AutoTokenizer\n"
    names = ("sliced", "bridged", "narrow", "deci")
    for name in names:  # in one process, which takes seconds to start
        folder = opened[name][2]
        (line,) = re.findall("^tokenizer = .*", (folder / "README.md").read_text(), re.MULTILINE)
        assert "trust_remote_code=True" not in line
        script += f"{line.replace('PATH', str(folder))}\nprint(tokenizer('the union').input_ids)\n"
    ours, theirs = pty.openpty()
    modules = tmp_path / "modules"
    environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(modules), "PATH": "/usr/bin:/bin"}
    try:
        os.write(ours, b"y\n" * len(names))  # whoever asks is answered, and runs the code
        words = [sys.executable, "-c", script]
        answer = subprocess.run(
            words, stdin=theirs, capture_output=True, text=True, env=environment, check=True
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "run the custom code" not in answer.stdout
    assert not modules.exists() or not list(modules.rglob("modeling_*.py"))
    found = answer.stdout.splitlines()
    assert found == [str(byte_tokenizer()("the union").input_ids)] * len(names)
