"""The shapes of a causal language model, as plain numbers: enough to count parameters and FLOPs.

Knows nothing about torch or weights, so a schedule can be priced while a slider moves.
Reading the shapes off a model is ``analysis.anatomy.read_shape``.
"""

from __future__ import annotations

from analysis.values import Value


class SublayerShape(Value):
    """One sub-layer (attention or MLP): what reads the residual stream, what writes it."""

    kind: str
    """``attention`` or ``mlp``."""
    reader_rows: int
    """Output features of all readers together; each row is as long as the stream is wide."""
    writer_columns: int
    """Input features of the writer; each column is as long as the stream is wide."""
    reader_bias: int = 0
    """Parameters in reader biases (not touched by slicing)."""
    writer_bias: bool = False
    """Whether the writer has a bias, which is as long as the stream is wide."""
    inner: int = 0
    """Parameters that see no residual stream, such as query and key norms."""


class ModelShape(Value):
    """A causal language model with RMS norms in front of its sub-layers."""

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

    @property
    def block_count(self) -> int:
        """L."""
        return len(self.blocks)

    @property
    def parameters(self) -> int:
        """Parameters of the dense model; a shared table counts once."""
        width, vocab = self.hidden_size, self.vocab_size
        total = vocab * width * (1 if self.tied else 2) + width + (vocab if self.head_bias else 0)
        for sublayer in self.sublayers:
            total += (sublayer.reader_rows + sublayer.writer_columns + 1) * width  # + 1: the norm's gain
            total += sublayer.reader_bias + sublayer.inner + (width if sublayer.writer_bias else 0)
        return total

    @property
    def flops_per_token(self) -> int:
        """FLOPs of the linear maps for one token, a multiply-add counted as two.

        Attention scores and values are left out: they grow with the context, and slicing the residual
        stream does not change them.
        """
        rows = sum(s.reader_rows + s.writer_columns for s in self.sublayers)
        return 2 * self.hidden_size * (rows + self.vocab_size)

    @property
    def sublayers(self) -> tuple[SublayerShape, ...]:
        """All sub-layers in the order in which they are applied."""
        return tuple(sublayer for block in self.blocks for sublayer in block)
