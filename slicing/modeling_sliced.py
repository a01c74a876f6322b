"""Sliced causal language models for transformers, in a file that travels with the weights.

Written by slicescope. A sliced model is a dense model of transformers whose residual stream changes its
basis and its width from sub-layer to sub-layer (SliceGPT, arXiv 2401.15024; a width of its own for every
block, arXiv 2411.03513). Only the parts that read or write the stream are made anew here, in their new
shapes; positions, masks, attention, cache and head stay those of the dense model's class.

Needs torch and transformers 5.23 or later, and the files beside it, nothing else.
"""

from __future__ import annotations

import inspect
import json
from collections import OrderedDict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, __version__
from transformers.pytorch_utils import Conv1D

try:
    from transformers import PreTrainedConfig
    from transformers.configuration_utils import SubConfigSpec
    from transformers.modeling_layers import GradientCheckpointingLayer
except ImportError as error:
    raise ImportError(
        f"This sliced model needs transformers 5.23 or later, and here is transformers {__version__}: run "
        "'pip install --upgrade transformers' and open it again."
    ) from error

from .modeling_decoder import Decoder
from .modeling_states import Resizable, run_observed


class SlicedConfig(PreTrainedConfig):
    """The dense model's configuration, and what slicing made of it."""

    model_type = "sliced"
    sub_configs_defaults: ClassVar = {"text_config": SubConfigSpec(AutoConfig, model_type="llama")}

    text_config: Any = None
    """The configuration of the dense model; its class runs the sliced one."""
    anatomy: dict | None = None
    """Which parts of a block read the stream and which write it, by attribute name."""
    widths: list | None = None
    """(L + 1,): the width entering each block, then the dense width that enters the head."""
    embedding: str = "untied"
    """``shared``: one table serves embedding and head, with a rotation after the look-up."""
    span: int = 0
    """So many blocks in a row share one basis of the stream; 0: every sub-layer has its own."""
    norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False

    def __getattr__(self, name: str) -> Any:
        # What tools ask of any configuration (vocabulary, context, heads) is the dense model's answer.
        if name.startswith("_") or "text_config" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["text_config"], name)


class UnitRMSNorm(nn.Module):
    """RMS norm without a gain. Divides by the *dense* width, so that slicing does not change the scale.

    It also stands in for a layer norm, whose stream is centred by the parts that write it.
    """

    def __init__(self, hidden_size: int, epsilon: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        """Normalise (..., W) in fp32 or better, and return it in its own dtype."""
        precise = states.to(torch.promote_types(states.dtype, torch.float32))
        mean_square = precise.square().sum(-1, keepdim=True) / self.hidden_size
        return (precise * torch.rsqrt(mean_square + self.epsilon)).to(states.dtype)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"hidden_size={self.hidden_size}, epsilon={self.epsilon}"


class SlicedEmbedding(nn.Embedding):
    """Token rows in the first basis.

    Shared form: the dense table (V, D), which the head uses too, and a rotation (D, W) after the
    look-up. Untied form: a table (V, W) of its own and no rotation.
    """

    def __init__(self, dense: nn.Module, width: int, shared: bool) -> None:
        table: Tensor = dense.weight  # type: ignore[assignment]
        # Without numbers of its own, which would be drawn at random first.
        with torch.device("meta"):
            super().__init__(table.shape[0], table.shape[1] if shared else width)
        # The square root of D for Gemma; in the untied form it is part of the table.
        self.scale = float(getattr(dense, "scalar_embed_scale", 1.0)) if shared else 1.0
        self.weight = empty(table, self.num_embeddings, self.embedding_dim)
        self.rotation = empty(table, table.shape[1], width) if shared else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as torch calls it)
        """(B, T) token ids -> (B, T, W)."""
        rows = functional.embedding(input, self.weight)
        if self.scale != 1.0:
            # Rounded to the weight's dtype first, as transformers does for Gemma.
            rows = rows * torch.tensor(self.scale, dtype=rows.dtype, device=rows.device)
        return rows if self.rotation is None else rows @ self.rotation


class Widen(nn.Module):
    """Pads the stream with zeros to the dense width; the first block cuts them off again.

    For decoders that take the shape of their output from what enters the blocks.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, D)."""
        return functional.pad(states, (0, self.hidden_size - states.shape[-1]))


class SlicedMixture(nn.Module):
    """A mixture of experts that may write another width than it reads: its router, experts, shared ones."""

    def __init__(self, dense: Any) -> None:
        super().__init__()
        for name in ("gate", "router", "experts", "shared_expert", "shared_experts", "shared_expert_gate"):
            setattr(self, name, getattr(dense, name, None))

    def forward(self, states: Tensor) -> Tensor:
        """(..., W_in) -> (..., W_out)."""
        tokens = states.flatten(0, -2)
        router: Any = self.gate or self.router
        experts: Any = self.experts
        shared: Any = self.shared_expert or self.shared_experts
        _, weights, chosen = router(tokens)
        written = tokens.new_zeros(len(tokens), experts.down_proj.shape[1])
        for expert in chosen.unique().tolist():
            rows, places = torch.where(chosen == expert)
            gate, up = functional.linear(tokens[rows], experts.gate_up_proj[expert]).chunk(2, dim=-1)
            output = functional.linear(experts.act_fn(gate) * up, experts.down_proj[expert])
            written.index_add_(0, rows, (output * weights[rows, places, None]).to(written.dtype))
        if shared is not None:
            gate: Any = self.shared_expert_gate
            share = 1.0 if gate is None else gate(tokens).sigmoid()
            written = written + share * shared(tokens)
        return written.view(*states.shape[:-1], -1)


class SlicedSublayer(nn.Module):
    """``x @ shortcut + core(norm(x))``: the shortcut takes the stream from its old basis to the new one.

    Where the basis stays, there is none: the stream is cut, or padded with zeros, to the new width. In a
    parallel block the attention and the MLP are two cores of one sub-layer.
    """

    def __init__(
        self, block: nn.Module, branches: Any, config: Any, entering: int, leaving: int, turns: bool
    ) -> None:
        super().__init__()
        like = next(block.parameters())
        self.norm = UnitRMSNorm(config.widths[-1], config.norm_epsilon)
        self.cores = nn.ModuleList()
        self.accepts: list[set[str] | None] = []
        self.kinds = [branch.kind for branch in branches]
        for branch in branches:
            core = dense_core(block, branch)
            if hasattr(core, "experts") and (hasattr(core, "gate") or hasattr(core, "router")):
                core = SlicedMixture(core)
            has_shift = getattr(getattr(block, branch.norm), "bias", None) is not None
            _resize(core, branch, entering, leaving, has_shift)
            self.cores.append(core)
            self.accepts.append(_accepted(core) if branch.kind == "attention" else set())
        self.entering, self.leaving = entering, leaving
        self.shortcut = empty(like, entering, leaving) if turns else None

    def carried(self, states: Tensor) -> Tensor:
        """The stream without what the cores add, (..., W_in) -> (..., W_out)."""
        if self.shortcut is None:
            return functional.pad(states, (0, self.leaving - states.shape[-1]))  # or cut, where that is less
        return states @ self.shortcut.to(states.dtype)

    def added(self, states: Tensor, context: dict[str, Any]) -> Tensor:
        """What the cores add to the stream; ``context`` (positions, mask, cache) is attention's."""
        normed = self.norm(states)
        total: Tensor | None = None
        for core, accepts in zip(self.cores, self.accepts, strict=True):
            known = context if accepts is None else {k: v for k, v in context.items() if k in accepts}
            output = core(normed, **known)
            output = output[0] if isinstance(output, tuple) else output
            total = output if total is None else total + output
        assert total is not None
        return total

    def attentions(self) -> Iterator[nn.Module]:
        """The cores that are attention."""
        return (core for core, kind in zip(self.cores, self.kinds, strict=True) if kind == "attention")

    def forward(self, states: Tensor, context: dict[str, Any]) -> Tensor:
        """(B, T, W_in) -> (B, T, W_out)."""
        return self.carried(states) + self.added(states, context)


class SlicedBlock(GradientCheckpointingLayer):
    """A decoder block: its sliced sub-layers, one after the other."""

    def __init__(self, block: nn.Module, config: Any, index: int, turns: bool) -> None:
        super().__init__()
        anatomy = _names(config)
        entering, leaving = config.widths[index : index + 2]
        *first, last = anatomy.sublayers
        within = config.span == 0
        self.entering = entering
        self.sublayers = nn.ModuleList()
        for branches in first:
            self.sublayers.append(SlicedSublayer(block, branches, config, entering, entering, within))
        self.sublayers.append(SlicedSublayer(block, last, config, entering, leaving, turns))
        self.arguments = argument_names(block)
        self.returns_tuple = anatomy.returns_tuple

    def forward(self, hidden_states: Tensor, *args: Any, **context: Any) -> Any:
        """(B, T, W_in) -> (B, T, W_out), called by the transformers decoder like its own blocks."""
        context.update(zip(self.arguments, args, strict=False))
        hidden_states = hidden_states[..., : self.entering]  # all of it, unless ``Widen`` came before
        for sublayer in self.sublayers:
            hidden_states = sublayer(hidden_states, context)
        return (hidden_states, None) if self.returns_tuple else hidden_states


class SlicedForCausalLM(Resizable, GenerationMixin):
    """A sliced causal language model: runs, generates, saves and loads like any model of transformers."""

    config_class = SlicedConfig
    base_model_prefix = "inner"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SlicedBlock"]  # noqa: RUF012 (as transformers declares it)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        dense = AutoModelForCausalLM.from_config(config.text_config, dtype=config.text_config.dtype)
        self.inner = _slice(dense, config)
        if config.embedding == "shared":
            anatomy = _names(config)
            table = f"inner.{anatomy.decoder}.{anatomy.embedding}.weight"
            self._tied_weights_keys = {f"inner.{anatomy.head}.weight": table}
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """As the dense model's class; see there.

        Hidden states and ``inputs_embeds`` have the width and the basis of their places: what leaves the
        embedding, and what leaves each block, (B, T, W). ``labels`` are shifted inside, as always.
        """
        arguments = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
            **kwargs,
        }
        return run_observed(self, *self.observed(), arguments)

    def observed(self) -> tuple[Any, Any, list[nn.Module]]:
        """The decoder, its blocks and their attentions, whose outputs can be asked for."""
        decoder = self.get_decoder()
        blocks = getattr(decoder, _names(self.config).blocks)
        attentions = [
            each for block in blocks for sublayer in block.sublayers for each in sublayer.attentions()
        ]
        return decoder, blocks, attentions

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """As the dense model's class."""
        return self.inner.prepare_inputs_for_generation(*args, **kwargs)

    def get_decoder(self) -> Any:
        """The model without its head."""
        return self.inner.get_decoder()

    def get_input_embeddings(self) -> Any:
        """The sliced embedding."""
        anatomy = _names(self.config)
        return getattr(self.get_decoder(), anatomy.embedding)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding in."""
        setattr(self.get_decoder(), _names(self.config).embedding, value)

    def get_output_embeddings(self) -> Any:
        """The head."""
        return getattr(self.inner, _names(self.config).head)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another head on."""
        setattr(self.inner, _names(self.config).head, new_embeddings)


class SlicedDecoder(Decoder):
    """A sliced model without its head."""

    config_class = SlicedConfig
    causal = SlicedForCausalLM


def _slice(dense: Any, config: Any) -> Any:
    """Give a dense model the parts of a sliced one, without their numbers; changes it in place."""
    anatomy, widths = _names(config), config.widths
    shared = config.embedding == "shared"
    # Nothing may tie the head to the embedding by the dense model's rules.
    dense.config.tie_word_embeddings = False
    dense._tied_weights_keys, dense.all_tied_weights_keys = None, {}
    inner = dense.get_submodule(anatomy.decoder)
    setattr(inner, anatomy.embedding, SlicedEmbedding(getattr(inner, anatomy.embedding), widths[0], shared))
    if anatomy.positions is not None:
        positions = getattr(inner, anatomy.positions)
        positions.weight = empty(positions.weight, len(positions.weight), widths[0])
        positions.embedding_dim = widths[0]
    if anatomy.widened is not None:
        setattr(inner, anatomy.widened, Widen(widths[-1]))
    blocks = getattr(inner, anatomy.blocks)
    for index, block in enumerate(blocks):
        blocks[index] = SlicedBlock(block, config, index, _turns(index, len(blocks), config))
    norm, head = getattr(inner, anatomy.final_norm), getattr(dense, anatomy.head)
    if not shared:  # the norm's gain and shift are part of the head
        if getattr(norm, "bias", None) is not None and head.bias is None:
            head.bias = empty(head.weight, head.weight.shape[0])
        setattr(inner, anatomy.final_norm, UnitRMSNorm(widths[-1], config.norm_epsilon))
    return dense


def _turns(block: int, count: int, config: Any) -> bool:
    """Whether the stream leaves a block in another basis; the head's is that of blocks that cut nothing."""
    span, after = config.span, block + 1
    if span == 0:
        return True
    if after < count and after % span:
        return False
    first = block - block % span
    around = config.widths[first : min(after + span, count)] if after < count else config.widths[first:count]
    return min(around) < config.widths[-1]


def _names(config: Any) -> Any:
    """The anatomy as attributes."""
    return json.loads(json.dumps(config.anatomy), object_hook=lambda entry: SimpleNamespace(**entry))


def dense_core(block: nn.Module, branch: Any) -> nn.Module:
    """The attention or MLP module of a dense block; several names are modules that follow one another."""
    names = branch.core.split()
    if len(names) == 1:
        return getattr(block, names[0])
    return nn.Sequential(OrderedDict((name, getattr(block, name)) for name in names))


def argument_names(block: nn.Module) -> list[str]:
    """The names of what a decoder hands its blocks by position, after the states."""
    return list(inspect.signature(type(block).forward).parameters)[2:]


def parameters_named(
    core: nn.Module, names: list[str] | tuple[str, ...]
) -> Iterator[tuple[str, nn.Module, str]]:
    """(full name, module, attribute) of those parameters that exist; a module's name means its weight."""
    for name in names:
        path, _, last = name.rpartition(".")
        holder: Any = core
        for step in path.split(".") if path else ():
            holder = getattr(holder, step, None)
        found = getattr(holder, last, None)
        if isinstance(found, nn.Parameter):
            yield name, holder, last
        elif isinstance(found, nn.Module):
            yield f"{name}.weight", found, "weight"


def _resize(core: nn.Module, branch: Any, entering: int, leaving: int, has_shift: bool) -> None:
    """Give readers and writers their sliced shapes, without numbers.

    A reader (..., rows, D) becomes (..., rows, W), a writer (..., D, columns) becomes (..., W, columns).
    """
    for name, module in list(core.named_modules()):
        if isinstance(module, Conv1D):
            core.set_submodule(name, as_linear(module))
    for _, holder, attribute in parameters_named(core, branch.readers):
        weight = getattr(holder, attribute)
        setattr(holder, attribute, empty(weight, *weight.shape[:-1], entering))
        _note(holder, in_features=entering, hidden_dim=entering)
        if has_shift and isinstance(holder, nn.Linear) and holder.bias is None:
            holder.bias = empty(weight, weight.shape[0])
    for _, holder, attribute in parameters_named(core, branch.writers):
        weight = getattr(holder, attribute)
        setattr(holder, attribute, empty(weight, *weight.shape[:-2], leaving, weight.shape[-1]))
        _note(holder, out_features=leaving)
        if getattr(holder, "bias", None) is not None:
            holder.bias = empty(weight, leaving)


def as_linear(conv: Conv1D) -> nn.Linear:
    """GPT-2's transposed linear as a plain one, without its numbers."""
    columns, rows = conv.weight.shape
    return nn.Linear(columns, rows, device=conv.weight.device, dtype=conv.weight.dtype)


def empty(like: Tensor, *shape: int) -> nn.Parameter:
    """A parameter without numbers."""
    return nn.Parameter(like.new_empty(shape))


def _note(holder: nn.Module, **sizes: int) -> None:
    for name, size in sizes.items():
        if hasattr(holder, name):
            setattr(holder, name, size)


def _accepted(core: nn.Module) -> set[str] | None:
    """The names an attention takes, or ``None`` for all."""
    parameters = inspect.signature(core.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}
