"""Slicing all blocks in one basis: the result is an ordinary checkpoint of the dense model's own class with a
smaller hidden size, which every tool opens.

The sliced model of one width everywhere is the same function: here it becomes a plain one. Nothing is scaled
in the configuration. A norm of width W divides by the root mean square over W numbers, and the dense one by
that over D, so the stream is stored times sqrt(W / D): then the norm's own divisor, with its own epsilon, is
the dense one. Norms of queries and keys, which know the same epsilon, stay as they are.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from analysis.anatomy import anatomy_of, blocks, core_of, embedding_scale, final_norm, norm_gain
from analysis.errors import UnsupportedError, one_line
from analysis.late import inference_mode, no_grad, torch
from analysis.shape import ModelShape
from slicing.assembly import by_rows, lies_together, present_ends, share_with, spread_like
from slicing.depth.operator import adopt, set_parameter
from slicing.guard import probe_logits, why_unlike
from slicing.late import modeling_sliced

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from slicing.modeling_sliced import SlicedForCausalLM


def stream_scale(width: int, hidden_size: int) -> float:
    """The factor sqrt(W / D) by which a plain model of ``width`` W stores the stream of a dense one of D."""
    return (width / hidden_size) ** 0.5


def second_table(shape: ModelShape) -> tuple[str, ...]:
    """Say what the second table costs a model of this ``shape``, where its head is its embedding table."""
    if not shape.tied:
        return ()
    vocab = shape.vocab_size
    return (
        "The head of this model is its embedding table, and a plain model in one basis has two tables, which "
        f"costs {vocab:,} parameters for every dimension that stays, {vocab * shape.hidden_size:,} for all.",
    )


def width_step(model: PreTrainedModel) -> int:
    """The number that hidden sizes of this model's class must be multiples of.

    Raises ``UnsupportedError`` where no smaller one is possible.
    """
    config: Any = model.config
    if config.hidden_size % config.num_attention_heads:
        blank_plain(model, config.hidden_size - 1)
        return 1
    try:
        blank_plain(model, config.hidden_size - 1)
    except UnsupportedError:
        blank_plain(model, config.hidden_size - config.num_attention_heads)
        return config.num_attention_heads
    return 1


def blank_plain(model: PreTrainedModel, width: int) -> PreTrainedModel:
    """A model of the dense one's class with hidden size ``width``, without numbers (on the meta device).

    Raises ``UnsupportedError`` for families whose norms take off the mean, and for those whose
    configuration cannot say a hidden size alone.
    """
    if anatomy_of(model.config).centred:
        raise _unfit(
            model, "its layer norms take off a mean over the stream, which is not that of the cut one"
        )
    try:
        with torch.device("meta"):
            made = type(model)(_config(model.config, width))
    except Exception as error:  # whatever the family's own code says of a configuration it cannot build
        raise _unfit(model, one_line(error)) from error
    if misfit := _misfit(model, made, width):
        raise _unfit(model, f"the shape of '{misfit}' depends on it")
    if model.generation_config is not None:
        made.generation_config = copy.deepcopy(model.generation_config)
    return made.eval()


def _config(config: Any, width: int) -> Any:
    made = copy.deepcopy(config)
    if getattr(made, "head_dim", None) is None:  # else heads would become narrower with the stream
        made.head_dim = made.hidden_size // made.num_attention_heads
    made.hidden_size = width
    made.tie_word_embeddings = False
    made.validate()
    return made


def _misfit(model: PreTrainedModel, made: PreTrainedModel, width: int) -> str | None:
    """The name of a tensor whose shape is not that of the dense model's with one D, or none, become W."""
    hidden: int = model.config.hidden_size  # type: ignore[assignment]
    dense: dict[str, Tensor] = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    dense |= model.state_dict()
    for name, tensor in (*made.named_buffers(), *made.state_dict().items()):
        if name not in dense:
            return name
        was, now = tuple(dense[name].shape), tuple(tensor.shape)
        narrower = [
            (*was[:place], width, *was[place + 1 :]) for place, size in enumerate(was) if size == hidden
        ]
        if now != was and now not in narrower:
            return name
    return None


@no_grad
def fill_plain_ends(
    model: PreTrainedModel, sliced: SlicedForCausalLM, writing: Tensor, reading: Tensor
) -> None:
    """Give a sliced model of one width all that is not in its blocks.

    The embedding writes in ``writing`` (D, W), and the head, which takes up the final norm's gain, reads in
    ``reading`` (D, W).
    """
    anatomy = anatomy_of(model.config)
    dense, inner = model.get_submodule(anatomy.decoder), sliced.inner.get_submodule(anatomy.decoder)
    plain = blank_plain(model, writing.shape[1])
    with present_ends(model):
        table, embedding = getattr(dense, anatomy.embedding), getattr(inner, anatomy.embedding)
        # Gemma multiplies by the root of the hidden size, the new one then.
        embedding.scale = embedding_scale(getattr(plain.get_submodule(anatomy.decoder), anatomy.embedding))
        into = writing * (embedding_scale(table) / embedding.scale)
        made = by_rows(table.weight, into.shape[1], lambda rows, _: rows.to(into) @ into)
        set_parameter(embedding, "weight", made)
        head, new_head = getattr(model, anatomy.head), getattr(sliced.inner, anatomy.head)
        share_with(new_head, head, but={"weight"})
        gain = norm_gain(getattr(dense, anatomy.final_norm), anatomy, head.weight)
        outof = gain.to(reading).unsqueeze(1) * reading
        made = by_rows(head.weight, outof.shape[1], lambda rows, _: rows.to(outof) @ outof)
        set_parameter(new_head, "weight", made)
        for name, child in dense.named_children():
            if name not in (anatomy.embedding, anatomy.blocks, anatomy.final_norm):
                share_with(getattr(inner, name), child)
        inner._buffers.update(dense._buffers)


@no_grad
def as_plain(model: PreTrainedModel, sliced: SlicedForCausalLM) -> PreTrainedModel:
    """The sliced model of one width as a plain one, which shares its tensors, and what is left alone with the
    dense ``model``.

    Raises ``UnsupportedError`` where its logits on a few tokens are not those of the sliced one, as for a
    family that uses its hidden size in a way of its own.
    """
    anatomy = anatomy_of(model.config)
    made = blank_plain(model, sliced.config.widths[0])
    adopt(made, model)
    dense, inner = made.get_submodule(anatomy.decoder), sliced.inner.get_submodule(anatomy.decoder)
    dtype = final_norm(model).weight.dtype  # type: ignore[union-attr]
    for plain, block in zip(blocks(made), blocks(sliced), strict=True):
        for branches, sublayer in zip(anatomy.sublayers, block.sublayers, strict=True):  # type: ignore[arg-type]
            for branch, core in zip(branches, sublayer.cores, strict=True):
                _unit(getattr(plain, branch.norm), core, dtype, anatomy.gain_offset)
                writers = {name for name, *_ in modeling_sliced.parameters_named(core, branch.writers)}
                writers |= {name.removesuffix("weight") + "bias" for name in writers}
                for name, parameter in core.named_parameters():
                    own = parameter
                    if name in writers and anatomy.branch_scale != 1.0:  # the block scales by it itself
                        own = parameter / anatomy.branch_scale
                    set_parameter(core_of(plain, branch), name, own)
    _unit(final_norm(made), sliced, dtype, anatomy.gain_offset)
    table: Any = getattr(dense, anatomy.embedding)
    if "embed_scale" in table._buffers:  # Gemma keeps the root of the hidden size here
        table.embed_scale = torch.full_like(table.embed_scale, embedding_scale(table))
    ends = (dense, inner, anatomy.embedding), (made, sliced.inner, anatomy.head)
    for there, here, name in ends:
        for key, parameter in getattr(here, name).named_parameters():
            set_parameter(getattr(there, name), key, parameter)
    head = getattr(made, anatomy.head)
    if (factor := _logits_divisor(made) / _logits_divisor(model)) != 1.0:
        set_parameter(head, "weight", head.weight * factor)
    if lies_together(sliced):
        _check(model, made, sliced)
    spread_like(model, made)
    return made


def _unit(norm: Any, like: nn.Module, dtype: Any, gain_offset: float) -> None:
    """Make a norm multiply by 1: its gain is part of what reads it. It goes where ``like`` is."""
    device = next(like.parameters()).device
    gain = torch.full(norm.weight.shape, 1.0 - gain_offset, dtype=dtype, device=device)
    set_parameter(norm, "weight", gain)


def _logits_divisor(model: Any) -> float:
    """Return what logits are divided by: a setting (Granite), or one of the hidden size (MiniCPM3)."""
    return float(getattr(model.config, "logits_scaling", 1.0))


@inference_mode
def _check(model: PreTrainedModel, made: PreTrainedModel, sliced: SlicedForCausalLM) -> None:
    if reason := why_unlike(probe_logits(made), probe_logits(sliced), model.dtype):
        raise _unfit(model, reason)


def _unfit(model: PreTrainedModel, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"The configuration of '{model.config.model_type}' cannot say another hidden size alone ({reason}), "
        "so one basis makes no plain model of it: slice it without 'plain'."
    )
