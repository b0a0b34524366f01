"""Small random models of every family, and the oracle on them as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from patchlight.model.anatomy import Model
from patchlight.records import Pair
from tests.trace.oracle import (
    attention_written_out,
    forced_logits,
    hook,
    logits_with_all,
    oracle_module,
    oracle_values,
    oracle_with_all,
    projections_replaced,
)

WORDS = 60
SMALL = {"vocab_size": WORDS + 1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA = SMALL | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
MANY = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}  # as many as query heads
WINDOW = {"sliding_window": 3}
SCALED_QUERIES = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "eager"}  # the grouped product has no float64
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", SMALL | {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}),
    "gpt_bigcode": ("gpt_bigcode", SMALL | {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}),
    "gpt_neo": (
        "gpt_neo",
        MANY | {"num_layers": 2, "num_heads": 4, "window_size": 3},  # and layers of both kinds, by turns
    ),
    "codegen": ("codegen", SMALL | {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "rotary_dim": 4}),
    "gptj": ("gptj", SMALL | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "rotary_dim": 4}),
    "gpt_neox": ("gpt_neox", MANY),
    "gpt_neox-serial": ("gpt_neox", MANY | {"use_parallel_residual": False}),
    "opt": ("opt", MANY | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "biogpt": ("biogpt", MANY),
    "bloom": ("bloom", SMALL | {"hidden_size": 16, "n_layer": 2, "n_head": 4}),
    "falcon": ("falcon", LLAMA | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": ("falcon", MANY | {"alibi": True, "parallel_attn": False, "multi_query": False}),
    "falcon-7b": ("falcon", LLAMA | {"multi_query": True}),
    "mpt": ("mpt", SMALL | {"d_model": 16, "n_layers": 2, "n_heads": 4, "max_seq_len": 32}),
    "llama": ("llama", LLAMA),
    "llama-tied": ("llama", LLAMA | {"tie_word_embeddings": True, "attention_bias": True}),
    "mistral": ("mistral", LLAMA | WINDOW),
    "ministral3": ("ministral3", LLAMA | {"rope_parameters": SCALED_QUERIES}),
    "qwen2": ("qwen2", LLAMA | WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("qwen3", LLAMA | {"head_dim": 6}),
    "gemma": ("gemma", LLAMA | {"head_dim": 8}),
    "gemma2": ("gemma2", LLAMA | WINDOW | {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("gemma3_text", LLAMA | WINDOW | {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "olmo": ("olmo", LLAMA | {"clip_qkv": 0.5}),
    "olmo2": ("olmo2", LLAMA),
    "olmo3": ("olmo3", LLAMA | WINDOW),
    "exaone4": ("exaone4", LLAMA | WINDOW),
    "cohere": ("cohere", LLAMA | {"logit_scale": 0.25}),
    "cohere2": ("cohere2", LLAMA | WINDOW | {"logit_scale": 0.25}),
    "stablelm": ("stablelm", LLAMA),
    "stablelm-parallel": ("stablelm", LLAMA | {"use_parallel_residual": True}),
    "glm": ("glm", LLAMA | {"head_dim": 4}),
    "glm4": ("glm4", LLAMA | {"head_dim": 4}),
    "granite": ("granite", LLAMA | {"residual_multiplier": 0.4, "logits_scaling": 3.0, "attention_multiplier": 0.3}),
    "phi": ("phi", LLAMA),
    "phi3": ("phi3", LLAMA),
    "starcoder2": ("starcoder2", LLAMA | WINDOW),
    "smollm3": ("smollm3", LLAMA | {"no_rope_layer_interval": 2}),
    "helium": ("helium", LLAMA | {"head_dim": 4}),
    "nemotron": ("nemotron", LLAMA | {"head_dim": 4}),
    "arcee": ("arcee", LLAMA),
    "seed_oss": ("seed_oss", LLAMA | {"head_dim": 4}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", LLAMA | {"head_dim": 4}),
    "ernie4_5": ("ernie4_5", LLAMA),
    "phimoe": ("phimoe", LLAMA | EXPERTS | {"num_local_experts": 4}),
    "olmoe": ("olmoe", LLAMA | EXPERTS | {"num_experts": 4}),
    "granitemoe": (
        "granitemoe",
        LLAMA | EXPERTS | {"num_local_experts": 4, "residual_multiplier": 0.4, "logits_scaling": 3.0},
    ),
    "mixtral": ("mixtral", LLAMA | EXPERTS | {"num_local_experts": 4}),
    "qwen2_moe": (
        "qwen2_moe",
        LLAMA | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12},
    ),
    "gpt_oss": ("gpt_oss", LLAMA | WINDOW | EXPERTS | {"num_local_experts": 4, "head_dim": 4}),
    "qwen3_moe": ("qwen3_moe", LLAMA | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 12}),
}


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{number}": number for number in range(WORDS)} | {"<unk>": WORDS}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def build(name: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, layers: int = 2) -> Model:
    """A model of a family with weights large enough that every part matters."""
    kind, settings = CONFIGS[name]
    settings = settings | {setting: layers for setting in LAYERS if setting in settings}
    if kind == "gpt_neo":
        settings["attention_types"] = [[(["global", "local"] * layers)[:layers], 1]]
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).to(dtype)
    for parameter in hf.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.25)
    return Model(hf, tokenizer(), name)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Model]:
    return cache(lambda name, dtype=torch.float64, seed=0, layers=2: build(name, dtype=dtype, seed=seed, layers=layers))


def text(ids: list[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


def make_pair(clean: list[int], corrupted: list[int], fact: str = "") -> Pair:
    return Pair(clean=text(clean), corrupted=text(corrupted), correct=" w50", wrong=" w51", fact=fact)


@pytest.fixture(scope="session")
def pair_of() -> Callable[..., Pair]:
    return make_pair


@pytest.fixture(scope="session")
def plain_hook() -> Callable[..., Any]:
    """Puts a hook at a component of the stock model."""
    return lambda model, component, layer, act: hook(*oracle_module(model, component, layer), act)


@pytest.fixture(scope="session")
def oracle() -> Callable[..., np.ndarray]:
    return oracle_values


@pytest.fixture(params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    """Each small model by its name."""
    return str(request.param)


@pytest.fixture(scope="session")
def oracle_logits() -> Callable[..., torch.Tensor]:
    return logits_with_all


@pytest.fixture(scope="session")
def oracle_together() -> Callable[..., float]:
    return oracle_with_all


@pytest.fixture(scope="session")
def oracle_forced() -> Callable[..., torch.Tensor]:
    return forced_logits


@pytest.fixture(scope="session")
def written_out() -> Callable[..., np.ndarray]:
    return attention_written_out


@pytest.fixture(scope="session")
def projected() -> Callable[..., np.ndarray | None]:
    return projections_replaced


@pytest.fixture
def kinds() -> set[str]:
    """The model types that have a small model."""
    return {kind for kind, _ in CONFIGS.values()}
