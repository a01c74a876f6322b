"""The two forms of exports, read from their definition alone, by one pass over tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

Weights = Callable[[str], Tensor | None]


def of_folder(folder: Path, tokens: Tensor) -> Tensor:
    """Logits (B, T, V) of a DeciLM folder; every tensor in it is used."""
    config = json.loads((folder / "config.json").read_text())
    held, used = load_file(folder / "model.safetensors"), set()

    def weight(name: str) -> Tensor | None:
        used.add(name)
        return held.get(name)

    heads, size = config["num_attention_heads"], config["head_dim"]
    states = held["model.embed_tokens.weight"][tokens]
    used.add("model.embed_tokens.weight")
    assert len(config["block_configs"]) == config["num_hidden_layers"]
    for place, said in enumerate(config["block_configs"]):
        block = f"model.layers.{place}"
        if not said["attention"]["no_op"]:
            groups = heads // said["attention"]["n_heads_in_group"]
            normed = norm(states, weight(f"{block}.input_layernorm.weight"), config["rms_norm_eps"])
            names = [f"{block}.self_attn.{name}_proj" for name in "qkvo"]
            turn = halves(tokens.shape[1], size, config["rope_theta"])
            states = states + attention(normed, weight, names, heads, groups, turn)
        if not said["ffn"]["no_op"]:
            normed = norm(states, weight(f"{block}.post_attention_layernorm.weight"), config["rms_norm_eps"])
            names = [f"{block}.mlp.{name}_proj" for name in ("gate", "up", "down")]
            assert len(held[f"{names[0]}.weight"]) == width_said(said["ffn"], config["hidden_size"])
            states = states + mlp(normed, weight, names)
    states = norm(states, weight("model.norm.weight"), config["rms_norm_eps"])
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    logits = linear(states, held[f"{head}.weight"])
    used.add(f"{head}.weight")
    assert used >= set(held)
    return logits


def width_said(ffn: dict[str, Any], hidden_size: int) -> int:
    """As vLLM computes it: from a factor, in multiples of 256, where one is said."""
    if "ffn_mult" not in ffn:
        return ffn["intermediate_size"]
    width = int(2 * ffn["ffn_mult"] * hidden_size / 3)
    return width if width % 256 == 0 else width + 256 - width % 256


def of_file(path: Path, tokens: Tensor) -> Tensor:
    """Logits (B, T, V) of a GGUF file as llama.cpp computes them; every tensor in it is used."""
    reader = gguf.GGUFReader(path)
    kind = reader.fields["general.architecture"].contents()
    held = {
        each.name: torch.tensor(gguf.quants.dequantize(each.data, each.tensor_type))
        for each in reader.tensors
    }
    used = set()

    def weight(name: str) -> Tensor | None:
        used.add(name)
        return held.get(name)

    def said(name: str, place: int = 0) -> Any:
        value = reader.fields[f"{kind}.{name}"].contents()
        return value[place] if isinstance(value, list) else value

    epsilon, size = said("attention.layer_norm_rms_epsilon"), said("attention.key_length")
    factors = held.get("rope_freqs.weight", torch.ones(size // 2))
    used.add("rope_freqs.weight")
    if f"{kind}.rope.scaling.type" in reader.fields:
        assert said("rope.scaling.type") == "linear"
        factors = factors * said("rope.scaling.factor")
    turn = neighbours(tokens.shape[1], size, said("rope.freq_base"), factors)
    states = held["token_embd.weight"][tokens]
    used.add("token_embd.weight")
    for place in range(said("block_count")):
        block, heads = f"blk.{place}", said("attention.head_count", place)
        into = states
        if heads:
            normed = norm(states, weight(f"{block}.attn_norm.weight"), epsilon)
            names = [f"{block}.attn_{name}" for name in ("q", "k", "v", "output")]
            groups = said("attention.head_count_kv", place)
            into = states + attention(normed, weight, names, heads, groups, turn)
        width = said("feed_forward_length", place)
        if not width:
            continue  # with the attention in front of it
        normed = norm(into, weight(f"{block}.ffn_norm.weight"), epsilon)
        names = [f"{block}.ffn_{name}" for name in ("gate", "up", "down")]
        assert len(held[f"{names[0]}.weight"]) == width
        states = into + mlp(normed, weight, names)
    states = norm(states, weight("output_norm.weight"), epsilon)
    used.add("output.weight")
    assert used >= set(held)
    return linear(states, held.get("output.weight", held["token_embd.weight"]))


def norm(states: Tensor, gain: Tensor | None, epsilon: float) -> Tensor:
    assert gain is not None
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + epsilon) * gain


def mlp(states: Tensor, weight: Weights, names: list[str]) -> Tensor:
    gate, up, down = ((weight(f"{name}.weight"), weight(f"{name}.bias")) for name in names)
    return linear(silu(linear(states, *gate)) * linear(states, *up), *down)  # type: ignore[arg-type]


def attention(
    states: Tensor,
    weight: Weights,
    names: list[str],
    heads: int,
    groups: int,
    turn: Callable[[Tensor], Tensor],
) -> Tensor:
    maps: list[Any] = [(weight(f"{name}.weight"), weight(f"{name}.bias")) for name in names]
    queries, keys, values = (
        linear(states, *each).unflatten(-1, (count, -1)).transpose(1, 2)
        for each, count in zip(maps, (heads, groups, groups), strict=False)
    )
    keys, values = (each.repeat_interleave(heads // groups, dim=1) for each in (turn(keys), values))
    found = scaled_dot_product_attention(turn(queries), keys, values, is_causal=True)
    return linear(found.transpose(1, 2).flatten(2), *maps[3])


def halves(length: int, size: int, base: float) -> Callable[[Tensor], Tensor]:
    """Turn every coordinate of the first half of a head with its own of the second."""
    cosine, sine = _angles(length, size, base, torch.ones(size // 2))

    def turn(states: Tensor) -> Tensor:
        first, second = states.chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    return turn


def neighbours(length: int, size: int, base: float, factors: Tensor) -> Callable[[Tensor], Tensor]:
    """Turn every even coordinate of a head with the one behind it."""
    cosine, sine = _angles(length, size, base, factors)

    def turn(states: Tensor) -> Tensor:
        first, second = states[..., ::2], states[..., 1::2]
        return torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1).flatten(
            -2
        )

    return turn


def _angles(length: int, size: int, base: float, factors: Tensor) -> tuple[Tensor, Tensor]:
    speed = base ** -(torch.arange(0, size, 2) / size) / factors
    angles = torch.arange(length)[:, None] * speed
    return angles.cos(), angles.sin()
