"""The table of architectures: where each component of a decoder block lives, by Hugging Face model type.

Paths are attribute paths; those of a block begin at the block. Adding an architecture is an entry in `FAMILIES`, here
or in a program of your own, and no code: `patchlight doctor --model` then proves on the loaded model that the entry
is right, or says which identity fails.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Family:
    """Where the components of one architecture are.

    `attn_out` and `mlp_out` are the modules whose outputs are added to the residual stream (a norm, where the block
    normalises after the sublayer). `head_out` is the input of `attn_proj`, one slice per head; `mlp_hidden` is the
    input of `mlp_proj`, None where a mixture of experts has no single hidden layer.
    `parallel` says that the MLP reads the block's input, so that there is no `resid_mid`; a string names the
    setting of the model's configuration that decides it. The last four name settings, too.
    """

    layers: str
    embed: str
    final_norm: str
    attn_proj: str
    attn_out: str
    mlp_proj: str | None
    mlp_out: str
    interface: bool = True  # attention goes through transformers' attention interface
    float32_attention: bool = False  # scores are computed in float32 whatever the model's type
    parallel: bool | str = False
    residual_scale: str | None = None  # sublayer outputs are multiplied by it before they are added
    logit_scale: str | None = None  # logits are multiplied by it
    logit_divisor: str | None = None
    logit_softcap: str | None = None
    required: tuple[tuple[str, bool], ...] = ()  # settings without which this entry does not hold


GPT2 = Family(
    layers="transformer.h",
    embed="transformer.wte",
    final_norm="transformer.ln_f",
    attn_proj="attn.c_proj",
    attn_out="attn.c_proj",
    mlp_proj="mlp.c_proj",
    mlp_out="mlp.c_proj",
)
LLAMA = Family(
    layers="model.layers",
    embed="model.embed_tokens",
    final_norm="model.norm",
    attn_proj="self_attn.o_proj",
    attn_out="self_attn.o_proj",
    mlp_proj="mlp.down_proj",
    mlp_out="mlp.down_proj",
)
SANDWICH = replace(LLAMA, attn_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm")
EXPERTS = replace(LLAMA, mlp_proj=None, mlp_out="mlp")
GPTJ = replace(
    GPT2,
    attn_proj="attn.out_proj",
    attn_out="attn.out_proj",
    mlp_proj="mlp.fc_out",
    mlp_out="mlp.fc_out",
    parallel=True,
)
OPT = Family(
    layers="model.decoder.layers",
    embed="model.decoder.embed_tokens",
    final_norm="model.decoder.final_layer_norm",
    attn_proj="self_attn.out_proj",
    attn_out="self_attn.out_proj",
    mlp_proj="fc2",
    mlp_out="fc2",
    required=(("do_layer_norm_before", True),),
)
BLOOM = Family(
    layers="transformer.h",
    embed="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    attn_proj="self_attention.dense",
    attn_out="self_attention.dense",
    mlp_proj="mlp.dense_4h_to_h",
    mlp_out="mlp.dense_4h_to_h",
    interface=False,
    float32_attention=True,
    required=(("apply_residual_connection_post_layernorm", False),),
)

FAMILIES: dict[str, Family] = {
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": replace(
        GPT2,
        attn_proj="attn.attention.out_proj",
        attn_out="attn.attention.out_proj",
        interface=False,
        float32_attention=True,
    ),
    "gptj": GPTJ,
    "codegen": GPTJ,
    "gpt_neox": Family(
        layers="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        attn_proj="attention.dense",
        attn_out="attention.dense",
        mlp_proj="mlp.dense_4h_to_h",
        mlp_out="mlp.dense_4h_to_h",
        parallel="use_parallel_residual",
    ),
    "opt": OPT,
    "biogpt": replace(
        OPT, layers="biogpt.layers", embed="biogpt.embed_tokens", final_norm="biogpt.layer_norm", required=()
    ),
    "bloom": BLOOM,
    "falcon": replace(BLOOM, float32_attention=False, parallel="parallel_attn", required=()),
    "mpt": replace(
        BLOOM,
        layers="transformer.blocks",
        embed="transformer.wte",
        final_norm="transformer.norm_f",
        attn_proj="attn.out_proj",
        attn_out="attn.out_proj",
        mlp_proj="ffn.down_proj",
        mlp_out="ffn.down_proj",
        required=(),
    ),
    "llama": LLAMA,
    "mistral": LLAMA,
    "ministral3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": replace(SANDWICH, float32_attention=True, logit_softcap="final_logit_softcapping"),
    "gemma3_text": replace(
        SANDWICH, logit_softcap="final_logit_softcapping", required=(("use_bidirectional_attention", False),)
    ),
    "olmo": LLAMA,
    "olmo2": SANDWICH,
    "olmo3": SANDWICH,
    "exaone4": SANDWICH,
    "granite": replace(LLAMA, residual_scale="residual_multiplier", logit_divisor="logits_scaling"),
    "cohere": replace(LLAMA, parallel=True, logit_scale="logit_scale"),
    "cohere2": replace(LLAMA, parallel=True, logit_scale="logit_scale"),
    "stablelm": replace(LLAMA, parallel="use_parallel_residual"),
    "glm": LLAMA,
    "glm4": replace(LLAMA, attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"),
    "phi": replace(
        LLAMA,
        final_norm="model.final_layernorm",
        attn_proj="self_attn.dense",
        attn_out="self_attn.dense",
        mlp_proj="mlp.fc2",
        mlp_out="mlp.fc2",
        parallel=True,
    ),
    "phi3": LLAMA,
    "starcoder2": replace(LLAMA, mlp_proj="mlp.c_proj", mlp_out="mlp.c_proj"),
    "smollm3": LLAMA,
    "helium": LLAMA,
    "nemotron": LLAMA,
    "arcee": LLAMA,
    "seed_oss": LLAMA,
    "hunyuan_v1_dense": LLAMA,
    "ernie4_5": LLAMA,
    "mixtral": EXPERTS,
    "phimoe": EXPERTS,
    "olmoe": EXPERTS,
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "gpt_oss": EXPERTS,
    "granitemoe": replace(
        EXPERTS, mlp_out="block_sparse_moe", residual_scale="residual_multiplier", logit_divisor="logits_scaling"
    ),
}


def two_sided(config: Any) -> bool:
    """Whether a model of this configuration sees later tokens too: an encoder, or an encoder with a decoder.

    GPT-NeoX leaves `is_decoder` false, as encoders do: of types in the table it says nothing.
    """
    encoder = not getattr(config, "is_decoder", True) and config.model_type not in FAMILIES
    return encoder or bool(getattr(config, "is_encoder_decoder", False))
