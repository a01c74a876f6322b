"""Blocks are removed from every type of transformers whose configuration can say which are left."""

from __future__ import annotations

import pytest
from every_family import NOT_TRIED, causal_types, tiny

from analysis.anatomy import blocks
from analysis.errors import UnsupportedError
from analysis.support import NOT_YET_PROFILED, reason_in
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks

REFUSED = """
    bart beam bigbird_pegasus blenderbot blenderbot-small diffllama gemma4 gemma4_text inkling2_text jamba
    marian mbart mvp openai-gpt pegasus plbart prophetnet reformer rwkv whisper xlstm zamba zamba2 zaya
"""
"""Types whose blocks depend on their number, or that take more than their blocks from a decoder's loop."""
TYPES = [each for each in causal_types() if each not in NOT_TRIED and not reason_in(NOT_YET_PROFILED, each)]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_block_is_removed_or_refused_in_one_sentence(model_type):
    model = tiny(model_type)
    layout = Layout.without(len(blocks(model)), {1})
    if model_type in REFUSED.split():
        with pytest.raises(UnsupportedError, match=r"does not say which of its blocks are left .*\.$"):
            reduce_blocks(model, layout)
        return
    reduced = reduce_blocks(model, layout)  # checked on a few tokens against the dense model
    assert len(blocks(reduced)) == len(blocks(model)) - 1
