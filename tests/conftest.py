"""Tiny random models of every supported family, and a tokenizer without a network."""

from __future__ import annotations

import gc
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Also for the processes that tests start: two that compute at once would wait for each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from analysis.anatomy import anatomy_of, blocks
from analysis.hooks import entering_states
from analysis.shape import ModelShape, SublayerShape

torch.set_num_threads(1)  # tiny models gain nothing from more threads, and lose much on a busy machine
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # a slow moment of the machine is no failure of a property

COMMON: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "llama untied, biases, long heads": {
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 12,
        "tie_word_embeddings": False,
    },
    "mistral": {"sliding_window": 8, "tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8, "tie_word_embeddings": True},
    "smollm3": {"tie_word_embeddings": True, "no_rope_layer_interval": 2},
    "phi3": {"tie_word_embeddings": False, "sliding_window": None},
    "gemma": {"head_dim": 8, "tie_word_embeddings": True},
    "granite": {
        "tie_word_embeddings": True,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "starcoder2": {"tie_word_embeddings": True, "sliding_window": None},
    "opt": {"tie_word_embeddings": True, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": {"tie_word_embeddings": True, "n_inner": 48},
    "phi": {"tie_word_embeddings": False},
    "gpt_neox": {"tie_word_embeddings": False},
    "gpt_neox, sequential": {
        "model_type": "gpt_neox",
        "use_parallel_residual": False,
        "tie_word_embeddings": False,
    },
    "falcon": {"tie_word_embeddings": True, "alibi": False},
    "falcon, two norms": {
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "bias": True,
        "tie_word_embeddings": True,
    },
    "falcon, sequential": {
        "model_type": "falcon",
        "parallel_attn": False,
        "multi_query": False,
        "bias": True,
        "alibi": True,
        "tie_word_embeddings": False,
    },
    "gptj": {"tie_word_embeddings": False, "rotary_dim": 4, "n_inner": 48},
    "cohere": {"tie_word_embeddings": True},
    "olmo": {"tie_word_embeddings": False},
    "stablelm": {"tie_word_embeddings": False},
    "stablelm, parallel": {
        "model_type": "stablelm",
        "use_parallel_residual": True,
        "qk_layernorm": True,
        "tie_word_embeddings": False,
    },
    "mixtral": {"tie_word_embeddings": False, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "tie_word_embeddings": False,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "mlp_only_layers": [1],
    },
    "qwen3_moe": {
        "tie_word_embeddings": False,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "head_dim": 8,
    },
    "olmoe": {"tie_word_embeddings": False, "num_experts": 4, "num_experts_per_tok": 2},
}


# SmolLM2-135M: 9 query heads and 3 key-value heads of 64, inner width 1,536.
DEMO_SHAPE = ModelShape(
    architecture="llama",
    hidden_size=576,
    vocab_size=49152,
    tied=True,
    blocks=(
        (
            SublayerShape(kind="attention", reader_rows=960, writer_columns=576),
            SublayerShape(kind="mlp", reader_rows=3072, writer_columns=1536),
        ),
    )
    * 30,
)


def tiny_model(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A random model of the family whose norms have gains worth folding."""
    settings = {**COMMON, "model_type": family, **FAMILIES.get(family, {}), **changes}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(0)
    # Batched products of experts know no fp64.
    experts = {"experts_implementation": "eager"} if hasattr(config, "num_experts_per_tok") else {}
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, **experts).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name or ".ln_" in name:
            parameter.add_(torch.randn_like(parameter) * 0.2)
        elif name.endswith("bias"):
            parameter.normal_(std=0.1)
        else:
            parameter.mul_(4.0)  # larger than initialised, so that blocks do something to the stream
    for module in model.modules():
        if type(module).__name__.endswith(("RMSNorm", "CohereLayerNorm", "OlmoLayerNorm")):
            _make_exact(type(module))
    return model


_INEXACT: dict[type, Any] = {}


def _make_exact(kind: Any) -> None:
    """Keep a norm of transformers from its detour through fp32 where the model is in fp64."""
    if kind in _INEXACT:
        return
    original = _INEXACT[kind] = kind.forward

    def forward(norm: Any, states: torch.Tensor) -> torch.Tensor:
        if states.dtype is not torch.float64:
            return original(norm, states)
        if kind.__name__ == "OlmoLayerNorm":
            return torch.nn.functional.layer_norm(states, norm.normalized_shape, eps=1e-5)
        if kind.__name__ == "CohereLayerNorm":
            states = states - states.mean(-1, keepdim=True)
        offset = 1.0 if kind.__name__ == "GemmaRMSNorm" else 0.0
        epsilon = getattr(norm, "variance_epsilon", None) or norm.eps
        scaled = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + epsilon)
        return scaled * (norm.weight + offset)

    kind.forward = forward


def all_states(model: Any, windows: torch.Tensor) -> list[torch.Tensor]:
    """Every residual state, kept in fp64: the blocks are called one by one, without any hook."""
    returns_tuple = anatomy_of(model.config).returns_tuple
    states, contexts = entering_states(model, windows, returns_tuple)
    kept = [states.double()]
    with torch.no_grad():
        for block, context in zip(blocks(model), contexts, strict=True):
            states = block(states, **context)
            states = states[0] if returns_tuple else states
            kept.append(states.double())
    return kept


LATE = 2
"""How many other files are between two that need a browser."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that need a browser over the first of the others.

    They take longest, so that none should be left at the end, like those beside this file, which test all at
    once. They wait while others compute; but several of them at a time wait for each other.
    """
    files = sorted(dict.fromkeys(item.path for item in items), key=lambda path: len(path.parts))
    browser = {item.path for item in items if "browser" in item.keywords}
    long = iter([path for path in files if path in browser])
    order: list[Path] = []
    for number, path in enumerate(path for path in files if path not in browser):
        if number % LATE == 0:
            order += [each for each in [next(long, None)] if each]
        order.append(path)
    places = {path: place for place, path in enumerate([*order, *long])}
    items.sort(key=lambda item: places[item.path])


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def windows() -> torch.Tensor:
    """(6, 16) token ids of the tiny vocabulary."""
    return torch.randint(3, 300, (6, 16), generator=torch.Generator().manual_seed(1))


def byte_tokenizer(
    pad: str = "<pad>", bos: str = "<s>", eos: str = "</s>", first: tuple[str, ...] = ("<pad>", "<s>", "</s>")
) -> PreTrainedTokenizerFast:
    """One token per byte, so that every count in a test can be done by hand, behind the ``first``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate((*first, *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=bos, eos_token=eos, padding_side="left"
    )


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte behind the first tokens of Gemma's vocabulary."""
    return byte_tokenizer(bos="<bos>", eos="<eos>", first=("<pad>", "<eos>", "<bos>", "<unk>"))


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A dense model folder as ``save_pretrained`` writes it."""
    folder = tmp_path / "tiny"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def kept_browser() -> Iterator[Any]:
    from serving import kept_chromium

    with kept_chromium() as taken:
        yield taken


@pytest.fixture(scope="module")
def browser(kept_browser: Any) -> Iterator[Any]:
    """A browser without a screen, for the tests of a file; the same for all files of a process."""
    with kept_browser() as browser:
        yield browser


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Leave no page of a test open, where it has any."""
    if serving := sys.modules.get("serving"):
        with serving.closing():
            yield
    else:
        yield


@pytest.fixture(scope="session")
def kept_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server without runs of its own: it shows those that ship with slicescope."""
    from serving import serving

    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="module")
def shipped_server(kept_server: Any) -> Iterator[Any]:
    """A server for the tests of a file that only look; the same for all files of a process."""
    yield kept_server
    assert kept_server.work() == []  # others would find it there
    assert "Traceback" not in kept_server.log.read_text()


@pytest.fixture(scope="module")
def address(shipped_server: Any) -> str:
    return shipped_server.address


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Let the collector pass by what was imported, which lives to the end.

    Memory is collected behind every trial. To walk a million objects of modules took most of a trial's time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_arithmetic() -> Iterator[None]:
    """Products are in float32 on every processor, whatever instructions it has, so that numbers compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        yield


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs go to a folder of the test; the converted demo model is shared between tests."""
    if "demo" not in request.keywords:
        monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "home"))
    yield
