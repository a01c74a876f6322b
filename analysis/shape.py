"""The shapes of a causal language model, as plain numbers: parameters, FLOPs and bytes follow from them.

A changed model has a shape too, so that its price is known before a weight moves. Knows nothing about torch.
Reading the shapes off a model is ``analysis.read_shape``.
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import SerializerFunctionWrapHandler, model_serializer

from analysis.units import Kind
from analysis.values import Value

CACHED_TOKENS = 4096
"""Tokens of the text whose keys and values are told where nobody asks for another length."""


class _Counts(Value):
    """Written without the counts that are at their defaults: a model of 80 blocks has thousands."""

    @model_serializer(mode="wrap")
    def _brief(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return {name: value for name, value in write(self).items() if getattr(self, name) != defaults[name]}


class UnitShape(_Counts):
    """The units of one kind in a sub-layer, and what each of them holds; see ``analysis.units``."""

    kind: Kind
    count: int
    reader_rows: int
    """Rows of one unit in the maps that read the stream."""
    writer_columns: int
    """Columns of one unit in the maps that write it."""
    inner: int = 0
    """Parameters of one unit that see no residual stream, such as its biases."""
    parts: int = 1
    """The units fall into so many equal parts, and each must keep equally many of its own."""


class SublayerShape(_Counts):
    """One sub-layer (attention or MLP): what reads the residual stream, what writes it."""

    kind: str
    """``attention``, ``mlp``, or ``parallel`` for both in one."""
    reader_rows: int
    """Output features of all readers together; each row is as long as the stream is wide."""
    writer_columns: int
    """Input features of the writer; each column is as long as the stream is wide."""
    reader_bias: int = 0
    """Parameters in reader biases (not touched by slicing)."""
    new_bias: int = 0
    """Parameters in the biases that readers get when a layer norm's shift is folded into them."""
    writer_bias: int = 0
    """Biases of writers, each as long as the stream is wide."""
    inner: int = 0
    """Parameters that see no residual stream, such as query and key norms."""
    inner_products: int = 0
    """Of these, the weights of linear maps, such as those from a latent to the heads."""
    norm: int = 1
    """Vectors, as long as the stream is wide, that the norms hold: a gain, and a shift with layer norms."""
    idle_reader_rows: int = 0
    """Of the reader rows, those of experts that one token leaves alone."""
    idle_writer_columns: int = 0
    """The same of the writer columns."""
    entering: int | None = None
    """Width of the stream that it reads; ``None`` where that is the hidden size."""
    leaving: int | None = None
    """Width of the stream that it writes; ``None`` where that is the hidden size."""
    turns: bool = False
    """Whether the stream passes it through a matrix (entering, leaving)."""
    cached: int = 0
    """Numbers that attention keeps of one token: its keys and values."""
    window: int | None = None
    """Attention sees so many tokens at most, its own among them; ``None`` for all."""
    units: tuple[UnitShape, ...] = ()
    """What can be taken out of it, by kind; more than one of a kind where it has several MLPs."""

    @property
    def busy_reader_rows(self) -> int:
        """Reader rows that one token uses."""
        return self.reader_rows - self.idle_reader_rows

    @property
    def busy_writer_columns(self) -> int:
        """Writer columns that one token uses."""
        return self.writer_columns - self.idle_writer_columns

    def parameters(self, width: int) -> int:
        """Parameters of the sub-layer in a model of hidden size ``width``."""
        entering, leaving = self.widths(width)
        return (
            (self.reader_rows + self.norm) * entering
            + (self.writer_columns + self.writer_bias) * leaving
            + self.reader_bias
            + self.inner
            + self.turns * entering * leaving
        )

    def products(self, width: int) -> int:
        """Multiply-adds of its linear maps for one token, in a model of hidden size ``width``."""
        entering, leaving = self.widths(width)
        through = self.turns * entering * leaving + self.inner_products
        return self.busy_reader_rows * entering + self.busy_writer_columns * leaving + through

    def remembered(self, tokens: int) -> int:
        """Return how many of so many tokens have their keys and values cached for the next one."""
        return tokens if self.window is None else min(tokens, self.window - 1)

    def widths(self, width: int) -> tuple[int, int]:
        """Widths of the stream that enters and leaves, in a model of hidden size ``width``."""
        return self.entering or width, self.leaving or width


def bridge() -> SublayerShape:
    """A matrix (D, D) that the stream passes through, in the place of blocks."""
    return SublayerShape(kind="bridge", reader_rows=0, writer_columns=0, norm=0, turns=True)


class ModelShape(Value):
    """A causal language model with a norm in front of every sub-layer, or what became of one."""

    architecture: str
    """``config.model_type``."""
    hidden_size: int
    """D, the width of the residual stream."""
    vocab_size: int
    """V, rows of the embedding table."""
    tied: bool
    """Whether the head is the embedding table."""
    blocks: tuple[tuple[SublayerShape, ...], ...]
    head_bias: bool = False
    positions: int = 0
    """Rows of the table of learned positions."""
    final_norm: int = 1
    """Vectors, as long as the stream is wide, that the final norm holds."""
    final_shift: bool = False
    """Whether one of them is a shift, which slicing in the untied form turns into a bias of the head."""
    rotated: bool = False
    """Whether a matrix (D, W) leads from the embedding table to a stream of width W."""

    @property
    def block_count(self) -> int:
        """L."""
        return len(self.blocks)

    @property
    def embedding_width(self) -> int:
        """Width of the stream that enters the first block."""
        return self.sublayers[0].widths(self.hidden_size)[0]

    @property
    def parameters(self) -> int:
        """Parameters of the model; a shared table counts once."""
        width, vocab, first = self.hidden_size, self.vocab_size, self.embedding_width
        total = width * (vocab + self.final_norm) + first * self.positions
        total += 0 if self.tied else vocab * first
        total += width * first if self.rotated else 0
        total += vocab if self.head_bias else 0
        return total + sum(self.block_parameters(block) for block in range(self.block_count))

    def block_parameters(self, block: int) -> int:
        """Parameters of one block."""
        return sum(each.parameters(self.hidden_size) for each in self.blocks[block])

    @property
    def flops_per_token(self) -> int:
        """FLOPs of the linear maps for one token, a multiply-add counted as two.

        Attention scores and values are left out: they grow with the context, and slicing the residual
        stream does not change them.
        """
        products = self.hidden_size * (self.vocab_size + self.rotated * self.embedding_width)
        return 2 * (products + sum(each.products(self.hidden_size) for each in self.sublayers))

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the weights, in memory and on disk, where each takes ``itemsize`` bytes."""
        return self.parameters * itemsize

    def cache_bytes(self, tokens: int, itemsize: int) -> int:
        """Bytes of the keys and values of one text of so many tokens, as transformers keeps them."""
        return itemsize * sum(each.cached * each.remembered(tokens) for each in self.sublayers)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of units that can be taken out of some of its blocks."""
        there = {each.kind for sublayer in self.sublayers for each in sublayer.units}
        return tuple(kind for kind in get_args(Kind) if kind in there)

    @property
    def sublayers(self) -> tuple[SublayerShape, ...]:
        """All sub-layers in the order in which they are applied."""
        return tuple(sublayer for block in self.blocks for sublayer in block)
