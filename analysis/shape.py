"""The shapes of a causal language model, as plain numbers: enough to count parameters and FLOPs.

Knows nothing about torch or weights, so a schedule can be priced while a slider moves.
Reading the shapes off a model is ``analysis.anatomy.read_shape``.
"""

from __future__ import annotations

from analysis.values import Value


class SublayerShape(Value):
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

    @property
    def busy_reader_rows(self) -> int:
        """Reader rows that one token uses."""
        return self.reader_rows - self.idle_reader_rows

    @property
    def busy_writer_columns(self) -> int:
        """Writer columns that one token uses."""
        return self.writer_columns - self.idle_writer_columns


class ModelShape(Value):
    """A causal language model with a norm in front of every sub-layer."""

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

    @property
    def block_count(self) -> int:
        """L."""
        return len(self.blocks)

    @property
    def parameters(self) -> int:
        """Parameters of the dense model; a shared table counts once."""
        width, vocab = self.hidden_size, self.vocab_size
        total = (vocab * (1 if self.tied else 2) + self.positions + self.final_norm) * width
        total += vocab if self.head_bias else 0
        return total + sum(self.block_parameters(block) for block in range(self.block_count))

    def block_parameters(self, block: int) -> int:
        """Parameters of one block."""
        return sum(
            (each.reader_rows + each.writer_columns + each.norm + each.writer_bias) * self.hidden_size
            + each.reader_bias
            + each.inner
            for each in self.blocks[block]
        )

    @property
    def flops_per_token(self) -> int:
        """FLOPs of the linear maps for one token, a multiply-add counted as two.

        Attention scores and values are left out: they grow with the context, and slicing the residual
        stream does not change them.
        """
        rows = sum(s.busy_reader_rows + s.busy_writer_columns for s in self.sublayers)
        inner = sum(s.inner_products for s in self.sublayers)
        return 2 * (self.hidden_size * (rows + self.vocab_size) + inner)

    @property
    def sublayers(self) -> tuple[SublayerShape, ...]:
        """All sub-layers in the order in which they are applied."""
        return tuple(sublayer for block in self.blocks for sublayer in block)
