"""Small models that are made in a moment, and what a refusal must say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from patchlight.errors import PatchlightError
from patchlight.model.anatomy import Model
from patchlight.model.load import load_model
from patchlight.model.scratch import new_gpt2, train_tokenizer

TEXT = "The capital of France is Paris, and the drug blocks the sodium channel."
TOKENIZER = train_tokenizer([TEXT] * 8, 290)


def tiny_gpt2() -> Model:
    return new_gpt2(TOKENIZER, layers=2, width=16, heads=2, context=64, seed=0)


def tiny_llama() -> Model:
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return Model(transformers.LlamaForCausalLM(config), TOKENIZER, "tiny llama")


def logits(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(**model.tokenizer(TEXT, return_tensors="pt")).logits


def refusal(source: str | Path, **options: object) -> PatchlightError:
    with pytest.raises(PatchlightError) as refused:
        load_model(source, **options)
    assert refused.value.fix, "an error says what to do"
    return refused.value
