"""Which families cannot be sliced, and why; which cannot be profiled either.

Types are ``config.model_type``. ``tests/analysis/test_support.py`` tries every type of transformers, and
docs/models.md has the outcome. The families that can be sliced are ``ANATOMIES`` in ``analysis.families``.
"""

from __future__ import annotations

NEVER_SLICED: dict[str, str] = {
    "it norms the stream itself after its sub-layers, and no rotation passes through the gain of a norm": """
        bert bert-generation big_bird camembert data2vec-text electra ernie minimax openai-gpt rembert
        roberta roc_bert roformer xlm-roberta xmod
    """,
    "it norms what its sub-layers write, and no rotation passes through the gain of a norm": """
        afmoe axk1 beam exaone4 flex_olmo gemma2 gemma3 gemma3_text gemma4 gemma4_text gemma4_unified
        gemma4_unified_text glm4 hyperclovax kolibri1 lfm3 olmo2 olmo3
    """,
    "it treats every coordinate of the stream by itself (scales, gates, convolutions), and a rotation mixes "
    "them": """
        axk2 doge inkling_text rwkv zaya
    """,
    "it rounds its weights to three values as it runs, and rotated weights would be rounded to others": """
        bitnet
    """,
}
"""Families that a rotation of the stream would break: the reason, and the types it holds for."""

NOT_YET_SLICED: dict[str, str] = {
    "its mixture of experts is built in a way that slicing does not handle": """
        aria_text cohere2_moe dbrx deepseek_v32 glm_moe_dsa gpt_oss granitemoeshared hunyuan_v1_moe hy_v3
        jetmoe laguna llama4 llama4_text minimax_m2 minimax_m3_vl_text phimoe
    """,
    "some of its blocks carry a state along the tokens (state space, linear attention, convolution)": """
        bailing_hybrid bamba falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear lfm2 lfm2_moe mamba
        mamba2 nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next
        recurrent_gemma xlstm zamba zamba2
    """,
    "it is the decoder of an encoder-decoder, with cross-attention to another stream": """
        bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet trocr
        whisper
    """,
    "it reads images or sound too, and they enter the stream past the embedding": """
        emu3 emu3_text_model fuyu git got_ocr2 moss_transcribe_diarize phi4_multimodal
    """,
    "its stream starts or ends in more than one table (computed positions, several embeddings, a head of "
    "several layers)": """
        biogpt cpmant ctrl megatron-bert moshi xglm xlm-roberta-xl
    """,
    "it norms the stream between the embedding and the first block": """
        bloom modernbert-decoder nanochat roberta-prelayernorm
    """,
    "it carries several streams": """
        inkling2_text qwen4_exp qwen4_exp_text reformer
    """,
    "its blocks have different configurations": """
        dots3_note dots3_note_text
    """,
    "its blocks add to the stream in a way that slicing does not handle": """
        gpt_neox_japanese mpt
    """,
}
"""Families that slicescope has no way to slice so far."""

NOT_YET_PROFILED: dict[str, str] = {
    "it carries several streams side by side": """
        deepseek_v4 gemma3n gemma3n_text hy_v4
    """,
    "its blocks are not one list of modules that run one after the other": """
        blt hrm_text longcat_flash xlm
    """,
    "it does not run on token ids alone": """
        gemma4_assistant gemma4_unified_assistant musicgen musicgen_melody
    """,
    "some of its blocks run on images only": """
        mllama mllama_text_model
    """,
    "its states have the tokens in front of the windows": """
        xlnet
    """,
}
"""Families that can be neither sliced nor profiled so far."""


def reason_in(table: dict[str, str], model_type: str) -> str | None:
    """The reason the table gives for a type, as half a sentence."""
    return next((reason for reason, types in table.items() if model_type in types.split()), None)


def why_unsupported(model_type: str) -> str:
    """One sentence for who wants to slice a type that cannot be sliced, or that nobody has heard of."""
    subject, still = f"The architecture '{model_type}' cannot be", "its redundancy can still be profiled."
    if reason := reason_in(NEVER_SLICED, model_type):
        return f"{subject} sliced: {reason}; {still}"
    if reason := reason_in(NOT_YET_PROFILED, model_type):
        return f"{subject} sliced or profiled yet: {reason}."
    unknown = "slicescope does not know which parts of it read and write the stream"
    return f"{subject} sliced yet: {reason_in(NOT_YET_SLICED, model_type) or unknown}; {still}"
