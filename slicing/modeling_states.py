"""What our models have in common: hidden states and attentions that are collected as transformers does, and
a vocabulary of another size; travels with the weights.

Written by slicescope. transformers finds what it returns by the classes of blocks and attention, which ours
are not, and knows nothing of the model inside ours. Needs torch and transformers, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


def run_observed(
    model: Any,
    decoder: nn.Module,
    blocks: Any,
    attentions: Iterable[nn.Module],
    arguments: dict[str, Any],
    part: nn.Module | None = None,
) -> Any:
    """Run ``model.inner``, and put the hidden states and attentions that are asked for into its output.

    ``part`` is what is run where that is less than ``model.inner``, such as the decoder alone.

    Hidden states are the stream in front of the first block and behind every block, the last one behind the
    final norm. ``output_hidden_states`` is a flag, or the places of those that are wanted. Where
    ``attentions`` names no modules, those of the output are left as they are.
    """
    places, weighted = (
        _asked(model, arguments, f"output_{name}") for name in ("hidden_states", "attentions")
    )
    modules = list(attentions) if weighted else []
    if weighted:
        arguments["output_attentions"] = True
    run = model.inner if part is None else part
    if places is False and not modules:
        return run(**arguments)
    as_dict = arguments.pop("return_dict", None)
    as_dict = model.config.return_dict if as_dict is None else as_dict
    states: list[Tensor] = []
    last: list[Tensor] = []
    weights: list[Tensor | None] = []

    def enter(block: nn.Module, given: Any, named: dict[str, Any]) -> None:
        stream = given[0] if given else named["hidden_states"]
        states.append(stream[..., : getattr(block, "entering", None)])  # what ``Widen`` added is none of it

    hooks = [
        blocks[0].register_forward_pre_hook(enter, with_kwargs=True),
        *(each.register_forward_hook(lambda _, __, made: states.append(_first(made))) for each in blocks),
        decoder.register_forward_hook(lambda _, __, made: last.append(made[0])),
        *(each.register_forward_hook(lambda _, __, made: weights.append(made[1])) for each in modules),
    ]
    try:
        output = run(**arguments)
    finally:
        for hook in hooks:
            hook.remove()
    found = {field.name: getattr(output, field.name) for field in fields(output)}
    if places is not False:
        every = (*states[:-1], last[-1] if last else states[-1])
        found["hidden_states"] = _chosen(every, places)
    if weights and all(each is not None for each in weights):  # only some ways of computing it tell them
        found["attentions"] = tuple(weights)
    output = type(output)(**found)
    return output if as_dict else output.to_tuple()


def _asked(model: Any, arguments: dict[str, Any], name: str) -> Any:
    """Decide whether an output is wanted: the call decides, or else the configuration, or else it is not."""
    given = arguments.pop(name, None)
    given = getattr(model.config, name, None) if given is None else given
    return False if given is None else given


def _first(made: Any) -> Tensor:
    return made[0] if isinstance(made, tuple) else made


def _chosen(states: tuple[Tensor, ...], places: Any) -> tuple[Tensor | None, ...]:
    """All states, or ``None`` in the stead of those whose places were not named."""
    if places is True:
        return states
    wanted = {place % len(states) for place in ([places] if isinstance(places, int) else places)}
    return tuple(state if place in wanted else None for place, state in enumerate(states))


class Resizable(PreTrainedModel):
    """A model around another one, ``inner``, whose vocabulary is both their vocabulary."""

    def resize_token_embeddings(self, *args: Any, **named: Any) -> nn.Embedding:
        """As transformers. The table becomes this model's own, for it may be that of a dense model too.

        Raises ``ValueError`` where the weights are spread over devices or on disk.
        """
        table: Any = self.get_input_embeddings()
        if table.weight.is_meta:
            raise ValueError(
                "The vocabulary cannot be resized while accelerate keeps the embedding elsewhere: open the "
                "model on one device, resize it there, and save it."
            )
        table.weight = nn.Parameter(table.weight.detach(), table.weight.requires_grad)
        found = super().resize_token_embeddings(*args, **named)
        self.tie_weights()
        size = found.weight.shape[0]
        for model in self.modules():  # the loss asks the model inside how many tokens there are
            if isinstance(model, PreTrainedModel):
                model.config.get_text_config().vocab_size = size
                if hasattr(model, "vocab_size"):
                    model.vocab_size = size
        return found
