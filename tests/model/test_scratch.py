"""Models from scratch: a tokenizer that loses nothing, a GPT-2 that its seed decides."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlight.model.load import load_model, save_model
from patchlight.model.scratch import END_OF_TEXT, new_gpt2, train_tokenizer

torch.set_num_threads(1)

TEXTS = ["Carbamazepine blocks the sodium channel.", "Valproate raises the level of GABA."] * 20
TOKENIZER = train_tokenizer(TEXTS, 320)


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    special = TOKENIZER.eos_token_id
    assert TOKENIZER.decode(ids) == text
    assert END_OF_TEXT in text or special not in ids


def test_frequent_words_become_single_tokens_and_nothing_is_put_in_front() -> None:
    assert TOKENIZER.tokenize(TEXTS[0])[-2:] == ["Ġchannel", "."]
    assert len(TOKENIZER(" sodium")["input_ids"]) == 1
    assert 257 < len(TOKENIZER) <= 320


def test_a_new_model_is_decided_by_its_seed_and_loads_again(tmp_path: Path) -> None:
    first, same, other = (new_gpt2(TOKENIZER, layers=2, width=16, heads=2, context=24, seed=seed) for seed in (1, 1, 2))
    assert (first.n_layers, first.width, first.n_heads, first.context) == (2, 16, 2, 24)
    assert first.digest == same.digest != other.digest
    save_model(first, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.digest == first.digest
    assert loaded.tokenizer(TEXTS)["input_ids"] == TOKENIZER(TEXTS)["input_ids"]
    assert loaded.tokenizer.eos_token == END_OF_TEXT
