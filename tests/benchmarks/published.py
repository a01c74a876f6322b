"""SliceGPT as its paper tells it (2401.15024, section 3), plainly: what the engine is measured against.

Written from the paper, with nothing of ``slicing``: a layer is run over the calibration sequences one by
one, a hook catches the input of its second norm, all activations are kept, every PCA is in fp64 over the
full width (temporary shortcuts lead back to it), and the rotated head is a matrix of its own. For Llama
models only. One thing is added that 2411.03513 brought: every layer may have a width of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

DAMPING = 0.01
"""Added to the diagonal before the eigenproblem, as a share of its mean; moves no eigenvector."""


@torch.no_grad()
def slice_published(model: Any, windows: Tensor, widths: Sequence[int]) -> Any:
    """Slice a Llama model in place to ``widths`` (L + 1,), calibrated on ``windows`` (N, T); returns it."""
    fuse_norms(model)
    dtype, decoder = model.dtype, model.model
    inputs, arguments = first_layer_inputs(model, windows)

    q = principal_basis(inputs)
    set_weight(decoder.embed_tokens, decoder.embed_tokens.weight.double() @ q[:, : widths[0]], dtype)
    for index, layer in enumerate(decoder.layers):
        width, following = widths[index], widths[index + 1]
        attention, mlp = layer.attention, layer.mlp

        rotate_inputs((attention.q_proj, attention.k_proj, attention.v_proj), q[:, :width])
        leading = q[:, :width].to(dtype)
        inputs = [states @ leading for states in inputs]
        layer.attention_shortcut = q[:, :width].T.to(dtype)  # back to the full basis, for the time being
        middles, _ = run_layer(layer, inputs, arguments)

        p = principal_basis(middles)
        layer.attention_shortcut = (q[:, :width].T @ p[:, :width]).to(dtype)
        rotate_output(attention.o_proj, p[:, :width])
        rotate_inputs((mlp.gate_proj, mlp.up_proj), p[:, :width])
        layer.mlp_shortcut = p[:, :width].T.to(dtype)
        _, outputs = run_layer(layer, inputs, arguments)

        q = principal_basis(outputs)
        layer.mlp_shortcut = (p[:, :width].T @ q[:, :following]).to(dtype)
        rotate_output(mlp.down_proj, q[:, :following])
        inputs = outputs
    rotate_inputs((model.lm_head,), q)
    return model


class UnitNorm(nn.Module):
    """RMSNorm without a gain; the mean is over the dense width, whatever is left of it."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.width, self.epsilon = width, epsilon

    def forward(self, states: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        energy = states.square().sum(-1, keepdim=True) / self.width
        return states * torch.rsqrt(energy + self.epsilon)


class ShortcutLayer(nn.Module):
    """A Llama layer whose residual connections pass through a matrix each, once they have one."""

    def __init__(self, layer: Any, width: int, epsilon: float) -> None:
        super().__init__()
        self.attention, self.mlp = layer.self_attn, layer.mlp
        self.attention_norm, self.mlp_norm = UnitNorm(width, epsilon), UnitNorm(width, epsilon)
        self.attention_shortcut: Tensor | None = None
        self.mlp_shortcut: Tensor | None = None

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        """(B, T, W) -> (B, T, W')."""
        attended, _ = self.attention(self.attention_norm(hidden_states), **arguments)
        middle = along(hidden_states, self.attention_shortcut) + attended
        return along(middle, self.mlp_shortcut) + self.mlp(self.mlp_norm(middle))


def along(states: Tensor, shortcut: Tensor | None) -> Tensor:
    """The states at the other end of a residual connection."""
    return states if shortcut is None else states @ shortcut


def fuse_norms(model: Any) -> None:
    """Move the gain of every norm into the matrices that read it; the head becomes a matrix of its own."""
    width, epsilon = model.config.hidden_size, model.config.rms_norm_eps
    table = model.lm_head.weight  # that of the embedding, too, where the two are tied
    model.lm_head = nn.Linear(width, len(table), bias=False, device="meta")
    scale_inputs(model.model.norm, model.lm_head, table)
    model.model.norm = UnitNorm(width, epsilon)
    for index, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj):
            scale_inputs(layer.input_layernorm, reader, reader.weight)
        for reader in (mlp.gate_proj, mlp.up_proj):
            scale_inputs(layer.post_attention_layernorm, reader, reader.weight)
        model.model.layers[index] = ShortcutLayer(layer, width, epsilon)


def scale_inputs(norm: Any, reader: nn.Linear, weight: Tensor) -> None:
    """Give ``reader`` its ``weight`` (rows, D) with the gain of ``norm`` (D,) in it."""
    set_weight(reader, weight.double() * norm.weight.double(), weight.dtype)


class Caught(Exception):
    """The first layer was reached."""


def first_layer_inputs(model: Any, windows: Tensor) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """What the decoder hands its first layer, for every sequence: states (1, T, D) and other arguments."""
    inputs: list[Tensor] = []
    arguments: list[dict[str, Any]] = []

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(args[0])
        arguments.append(kwargs)
        raise Caught

    handle = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for sequence in windows.split(1):
        try:
            model.model(sequence, use_cache=False)
        except Caught:
            continue
    handle.remove()
    return inputs, arguments


def run_layer(
    layer: ShortcutLayer, inputs: list[Tensor], arguments: list[dict[str, Any]]
) -> tuple[list[Tensor], list[Tensor]]:
    """The layer over all sequences, one by one: what enters its second norm, and what leaves it."""
    middles: list[Tensor] = []
    handle = layer.mlp_norm.register_forward_pre_hook(lambda _, args: middles.append(args[0]))
    outputs = [layer(states, **others) for states, others in zip(inputs, arguments, strict=True)]
    handle.remove()
    return middles, outputs


def principal_basis(activations: list[Tensor]) -> Tensor:
    """Eigenvectors of the sum of X^T X over the sequences, (D, D), by decreasing eigenvalue; fp64."""
    width = activations[0].shape[-1]
    total = torch.zeros(width, width, dtype=torch.float64)
    for states in activations:
        rows = states.double().flatten(0, -2)
        total += rows.T @ rows
    total.diagonal().add_(DAMPING * total.diagonal().mean())
    _, vectors = torch.linalg.eigh(total)
    return vectors.flip(-1)


def rotate_inputs(readers: Sequence[nn.Linear], basis: Tensor) -> None:
    """Make linear maps read the stream in ``basis`` (D, W)."""
    for reader in readers:
        set_weight(reader, reader.weight.double() @ basis, reader.weight.dtype)


def rotate_output(writer: nn.Linear, basis: Tensor) -> None:
    """Make a linear map write the stream in ``basis`` (D, W)."""
    set_weight(writer, basis.T @ writer.weight.double(), writer.weight.dtype)


def set_weight(module: Any, values: Tensor, dtype: torch.dtype) -> None:
    """Give a module a weight of its own."""
    module.weight = nn.Parameter(values.to(dtype), requires_grad=False)
