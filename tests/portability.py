"""What we write, read by transformers 4: ``make portability``.

transformers 4.57 and its own dependencies are installed into ``build/portability``, in front of the packages
that are here. Folders are written by this version, and each is opened there. Logits must be the same, tokens
equal, and a folder that needs our modelling file must say which version that needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__, logging

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "portability"
OLD = BUILD / "transformers-4.57"
PACKAGES = ("transformers==4.57.*", "tokenizers>=0.22,<0.23", "huggingface_hub>=0.34,<1.0")
TOLERANCE = 1e-4
TEXTS = ["The union of two sets holds what is in either.", "  two  spaces,\n\tand a tab", "日本語 naïve 🙂"]

# Variants of rotary positions for a tiny model, by a name.
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONG = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 4.0, 5.0]}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_theta": 5e5}),
    "llama, linear": ("llama", {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}),
    "llama, dynamic": ("llama", {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 5e5}),
    "llama, yarn": ("llama", {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5}),
    "llama, llama3": ("llama", {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}),
    "phi3, longrope": ("phi3", {"rope_type": "longrope", "rope_theta": 5e5, **LONG}),
    "phi, part of a head": ("phi", {"rope_theta": 5e5, "partial_rotary_factor": 0.25}),
    "gpt_neox": ("gpt_neox", {"rope_theta": 5e5, "partial_rotary_factor": 0.5}),
    "qwen3_moe": ("qwen3_moe", {"rope_theta": 5e5}),
    "gemma3, two bases": (
        "gemma3_text",
        {
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
        },
    ),
}


def write(folder: Path) -> None:
    """Folders of every kind, each with what this version makes of it in ``expected.pt``."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from conftest import byte_tokenizer, tiny_model

    from analysis.portable import make_portable
    from analysis.read_shape import read_shape
    from analysis.sources.model import ModelSource
    from analysis.sources.opening import dequantise, open_dense
    from slicing.depth.layout import Layout
    from slicing.depth.reduce import ReducedModel, reduce_model
    from slicing.export import find_export
    from slicing.inner.cut import UnitCut, as_narrow_model
    from slicing.inner.widths import InnerWidths
    from slicing.schedule import SlicingSchedule
    from slicing.slicer import slice_model
    from slicing.store import save_reduced, save_sliced

    for name, (family, rope) in TINY.items():
        rope = rope if "full_attention" in rope else {"rope_type": "default", **rope}
        changes: dict[str, Any] = {"rope_parameters": rope}
        if family == "gemma3_text":
            changes |= {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
            changes |= {"num_hidden_layers": 4}
        if family == "phi3":
            changes["original_max_position_embeddings"] = 16
        model, tokenizer = tiny_model(family, **changes), byte_tokenizer()
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        make_portable(folder / name, tokenizer)
        tokens = torch.randint(3, 300, (2, 64), generator=torch.Generator().manual_seed(1))
        _expect(folder / name, model, tokenizer, tokens)

    dequantise(source := ModelSource.parse("demo", device="cpu"))
    model, tokenizer = open_dense(source)
    ids = tokenizer((ROOT / "README.md").read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    windows = ids[: 10 * 256].view(10, 256)
    fitted, judged = windows[:6], windows[6:]
    model.save_pretrained(folder / "demo, dense")
    tokenizer.save_pretrained(folder / "demo, dense")
    make_portable(folder / "demo, dense", tokenizer)
    _expect(folder / "demo, dense", model, tokenizer, judged)
    for name, closing in (("demo, removed", "none"), ("demo, removed with a matrix", "linear")):
        reduced = reduce_model(model, Layout.without(30, {20, 21, 22}), fitted, closing)
        words = {"made_from": "demo", "method": "by hand", "calibration": "README"}
        save_reduced(reduced, tokenizer, folder / name, dense_parameters=134_515_008, **words)
        _expect(folder / name, reduced.model, tokenizer, judged)
    channels = [[(), [UnitCut("channels", np.arange(1024 + 16 * block))]] for block in range(30)]
    ranks = [[UnitCut("value_pairs", np.arange(192).reshape(3, 64)[:, :48].ravel())], ()]
    for name, cuts in (
        ("demo, widths", channels),
        ("demo, widths and ranks", [*channels[:29], ranks]),
        ("demo, without sub-layers", [*channels[:20], [None, ()], [(), None], *channels[22:]]),
    ):
        reduced = ReducedModel(
            as_narrow_model(_cut(model, cuts)), Layout.whole(30), inner=InnerWidths.whole(read_shape(model))
        )
        save_reduced(reduced, tokenizer, folder / name, dense_parameters=134_515_008, **words)
        _expect(folder / name, reduced.model, tokenizer, judged)
        if "ranks" not in name:
            exported = folder / f"{name}, as DeciLM"
            find_export("deci").write(reduced.model, tokenizer, exported, made_from="demo")
            _expect(exported, reduced.model, tokenizer, judged)
    for name, span in (("demo, sliced in one basis", 30), ("demo, sliced per layer", 0)):
        schedule = SlicingSchedule(hidden_size=576, widths=(*(520,) * 30, 576), embedding="shared", span=span)
        sliced = slice_model(model, schedule, fitted)
        save_sliced(sliced, tokenizer, folder / name, made_from="demo", calibration="README")
        _expect(folder / name, sliced.model, tokenizer, judged)


def _cut(model: Any, cuts: list[Any]) -> Any:
    from slicing.depth.layout import Layout
    from slicing.depth.operator import reduce_blocks
    from slicing.inner.cut import cut_model

    made = reduce_blocks(model, Layout.whole(len(cuts)), check=False)
    cut_model(made, cuts)
    return made


def _expect(folder: Path, model: Any, tokenizer: Any, windows: Tensor) -> None:
    known = {"windows": windows, "logits": _logits(model, windows), "tokens": tokenizer(TEXTS).input_ids}
    torch.save(known, folder.with_name(folder.name + ".pt"))


def read(folder: Path) -> bool:
    """Open what ``write`` wrote, say of each what came of it, and whether all is well."""
    verdicts = [_reads(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    return all(verdicts)


def _reads(folder: Path) -> bool:
    known = torch.load(folder.with_name(folder.name + ".pt"))
    exported = (
        folder / "modeling_decilm.py"
    ).is_file()  # which needs no newer version, and is not registered
    own = any(folder.glob("modeling_*.py")) and __version__ < "5" and not exported
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=own or exported)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=own or exported)
    except Exception as error:  # whatever it is, it is told
        said = str(error).splitlines()[0]
        well = own and isinstance(error, ImportError) and "needs transformers 5.23 or later" in said
        _say(folder, "says so" if well else "FAILS", said)
        return well
    found = _logits(model, known["windows"])
    error = float((found - known["logits"]).norm() / known["logits"].norm())
    same = tokenizer(TEXTS).input_ids == known["tokens"]
    well = error < TOLERANCE and same
    losses = f"perplexity {_perplexity(found, known):.4f}, here {_perplexity(known['logits'], known):.4f}"
    told = f"logits off by {error:.1e}, tokens {'equal' if same else 'differ'}, {losses}"
    _say(folder, "ok" if well else "DIFFERS", told)
    return well


def _say(folder: Path, verdict: str, told: str) -> None:
    print(f"{folder.name:28} {verdict:8} {told}", flush=True)  # noqa: T201


def _perplexity(logits: Tensor, known: dict[str, Any]) -> float:
    predicted, following = logits[:, :-1].flatten(0, 1), known["windows"][:, 1:].flatten()
    return float(torch.nn.functional.cross_entropy(predicted, following).exp())


@torch.no_grad()
def _logits(model: Any, windows: Tensor) -> Tensor:
    return model.eval()(windows, use_cache=False).logits


def install_old() -> None:
    """Install the old version beside the packages that are here, unless it is there."""
    if not OLD.is_dir():
        words = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(OLD), *PACKAGES]
        subprocess.run([sys.executable, *words], check=True)


def main() -> int:
    """Install the old version, write the folders, and open them there and here."""
    install_old()
    with TemporaryDirectory(dir=BUILD) as folder:
        write(Path(folder))
        code = 0
        for path in ([str(OLD)], []):
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])}
            words = [sys.executable, __file__, "--read", folder]
            code |= subprocess.run(words, env=environment, check=False).returncode
    return code


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    if "--read" in sys.argv:
        if __version__ >= "5":
            import slicing  # noqa: F401 (which makes our own folders known)
        print(f"\nRead by transformers {__version__}")  # noqa: T201
        sys.exit(not read(Path(sys.argv[-1])))
    sys.exit(main())
