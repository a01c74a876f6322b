"""A sliced folder for other people: with slicing imported, and with torch and transformers alone.

Each way is tried in a process of its own.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from alone import alone
from conftest import byte_tokenizer, tiny_model

import slicing
from analysis.evaluate import continue_text
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from slicing.schedule import SlicingSchedule
from slicing.slicer import SlicedModel, slice_model
from slicing.store import load_sliced, save_sliced

ROOT = Path(__file__).parents[2]
PROMPTS = ["the union", "a"]

# Nothing of ours can be imported: a finder in front of all others refuses it.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"analysis", "slicing", "app", "tests"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
"""
OPEN = {
    "transformers alone": ALONE
    + "from transformers import AutoModelForCausalLM\n"
    + "trust = {'trust_remote_code': True}\n"
    + "model = AutoModelForCausalLM.from_pretrained(folder, **trust, **options)\n",
    "import slicing": "import slicing\nfrom transformers import AutoModelForCausalLM\n"
    "model = AutoModelForCausalLM.from_pretrained(folder, **options)\n",
    "slicing.load": "import slicing\nmodel, _ = slicing.load(folder)\n",
}
GENERATE = """
import json, torch
from transformers import AutoTokenizer
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
known = {name: batch[name] for name in ("input_ids", "attention_mask")}
tokens = model.generate(**known, max_new_tokens=12, do_sample=False, pad_token_id=0)
print(json.dumps({"tokens": tokens[:, known["input_ids"].shape[1]:].tolist(), "dtype": str(model.dtype),
                  "kind": type(model).__name__}))
"""


def sliced_model(family: str = "llama", form: str | None = None) -> SlicedModel:
    model = tiny_model(family)
    shape = read_shape(model)
    schedule = SlicingSchedule(
        hidden_size=32,
        widths=(24, 16, 29, 32),
        embedding=form or ("shared" if shape.tied else "untied"),  # type: ignore[arg-type]
    )
    windows = torch.randint(3, 300, (6, 16), generator=torch.Generator().manual_seed(1))
    return slice_model(model, schedule, windows)


def save(sliced: SlicedModel, folder: Path) -> Path:
    numbers = ("Perplexity 12.3 on a text.",)
    save_sliced(sliced, byte_tokenizer(), folder, made_from="tiny", calibration="6 windows", numbers=numbers)
    return folder


def elsewhere(way: str, folder: Path, cwd: Path, **options: object) -> dict:
    begin = (
        f"import sys\nfolder, prompts, options = {str(folder)!r}, {PROMPTS!r}, {options!r}\ntrust = {{}}\n"
    )
    if way != "transformers alone":
        begin += f"sys.path.insert(0, {str(ROOT)!r})\n"
    answer = alone(begin + OPEN[way] + GENERATE, cwd=cwd)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout.splitlines()[-1])


def one_by_one(sliced: SlicedModel, prompt: str) -> list[int]:
    tokens = byte_tokenizer()(prompt, return_tensors="pt").input_ids
    made = sliced.model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    return made[0, tokens.shape[1] :].tolist()


@pytest.mark.parametrize("way", OPEN)
def test_folder_opens_in_another_process_and_generates_the_same(tmp_path, way):
    sliced = sliced_model()
    found = elsewhere(way, save(sliced, tmp_path / "sliced"), tmp_path)
    assert found["kind"] == "SlicedForCausalLM"
    assert found["tokens"] == [one_by_one(sliced, prompt) for prompt in PROMPTS]


def test_dtype_and_device_map_are_heard_by_transformers_alone(tmp_path):
    folder = save(sliced_model("gpt2"), tmp_path / "sliced")
    found = elsewhere("transformers alone", folder, tmp_path, dtype="bfloat16", device_map="cpu")
    assert found["dtype"] == "torch.bfloat16"


def test_batch_with_left_padding_is_each_prompt_by_itself(family):
    sliced = sliced_model(family)
    batch = byte_tokenizer()(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    tokens = sliced.model.generate(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )[:, batch.input_ids.shape[1] :]
    assert tokens.tolist() == [one_by_one(sliced, prompt) for prompt in PROMPTS]


def test_load_gives_model_and_tokenizer(tmp_path, windows):
    sliced = sliced_model()
    model, tokenizer = slicing.load(save(sliced, tmp_path / "sliced"))
    assert torch.equal(model(windows).logits, sliced.model(windows).logits)
    sample = continue_text(OpenModel(model, tokenizer), "the union", 12)
    assert sample.text == continue_text(OpenModel(sliced.model, tokenizer), "the union", 12).text


def test_folder_saved_again_by_transformers_still_opens(tmp_path, windows):
    sliced = sliced_model("mixtral")
    folder = save(sliced, tmp_path / "sliced")
    model, _ = slicing.load(folder)
    model.save_pretrained(tmp_path / "again")
    for name in ("slicescope.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "again" / name).write_bytes((folder / name).read_bytes())
    again, _ = load_sliced(ModelSource.parse(str(tmp_path / "again")))
    assert torch.equal(again.model(windows).logits, sliced.model(windows).logits)


def test_card_states_recipe_numbers_and_how_to_open(tmp_path):
    folder = save(sliced_model(), tmp_path / "sliced")
    card = (folder / "README.md").read_text()
    for said in ("24, 16, 29, 32", "6 windows", "Perplexity 12.3 on a text.", "trust_remote_code=True"):
        assert said in card
    assert "sliced on the part" not in card
    assert "{" not in card


def test_modelling_files_need_torch_and_transformers_only():
    for path in (ROOT / "slicing").glob("modeling_*.py"):
        source = path.read_text()
        assert "import analysis" not in source
        assert "from analysis" not in source
        assert "from slicing" not in source


def test_modelling_files_name_every_file_that_they_need():
    """transformers 4 fetches no other, and then knows nothing of what an older version is told."""
    beside = {
        path.stem: set(re.findall(r"^from \.(\w+) import", path.read_text(), re.MULTILINE))
        for path in (ROOT / "slicing").glob("modeling_*.py")
    }
    for names in beside.values():
        assert names >= {deeper for name in names for deeper in beside[name]}


@pytest.mark.parametrize("kind", ["sliced", "bridged", "narrow"])
def test_older_transformers_are_told_in_one_sentence(kind, monkeypatch):
    monkeypatch.delattr("transformers.configuration_utils.SubConfigSpec")
    for name in (kind, "bridged"):  # of which the narrow ones make use
        monkeypatch.delitem(sys.modules, f"slicing.modeling_{name}", raising=False)
    said = (
        r"^This (sliced )?model needs transformers 5\.23 or later, and here is transformers [\d.]+: run .*\.$"
    )
    with pytest.raises(ImportError, match=said):
        importlib.import_module(f"slicing.modeling_{kind}")


def test_sliced_folder_without_trust_says_what_is_missing(tmp_path):
    folder = save(sliced_model(), tmp_path / "sliced")
    script = ALONE + (
        "from transformers import AutoConfig\n"
        f"try: AutoConfig.from_pretrained({str(folder)!r}, trust_remote_code=False)\n"
        "except ValueError as error: print(error)\n"
    )
    answer = alone(script, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "trust_remote_code=True" in answer.stdout
