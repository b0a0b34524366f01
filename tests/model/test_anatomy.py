"""A loaded model tells its shape, gives the stock logits, and is known by what it computes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    logging,
)

from patchlight.errors import InputError
from patchlight.model.anatomy import Model
from patchlight.model.families import FAMILIES, Family
from patchlight.model.load import random_init

logging.set_verbosity_error()

SMALL = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA = SMALL | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


OPT = SMALL | {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
CWM = LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}  # llama by another name


def make(kind: str, family: Family | None = None, **settings: object) -> Model:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).double()
    for parameter in hf.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return Model(hf, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a"))), kind, family)


@pytest.fixture(scope="module")
def llama() -> Model:
    return make("llama", **LLAMA)


def test_the_shape_is_told(llama):
    assert (llama.n_layers, llama.n_heads, llama.n_kv_heads, llama.head_dim, llama.width) == (3, 4, 2, 4, 16)
    assert (llama.dtype, llama.device.type, llama.parallel) == (torch.float64, "cpu", False)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", LLAMA),
        ("gemma2", LLAMA | {"head_dim": 4, "final_logit_softcapping": 2.0}),
        ("granite", LLAMA | {"logits_scaling": 3.0}),
        ("phi", LLAMA),
    ],
)
def test_answer_logits_and_logits_are_those_of_the_stock_model(kind, settings):
    model, ids = make(kind, **settings), torch.tensor([[1, 5, 3], [2, 2, 9]])
    with torch.inference_mode():
        expected = model.hf(input_ids=ids).logits[:, -1]
        normed = model.hf.base_model(input_ids=ids).last_hidden_state[:, -1]
        torch.testing.assert_close(model.logits(normed), expected, rtol=1e-12, atol=1e-12)
        tokens = torch.tensor([[4, 7], [0, 19]])
        answers = model.answer_logits(normed, tokens)
        torch.testing.assert_close(answers, expected.gather(1, tokens), rtol=1e-12, atol=1e-12)


def test_the_digest_is_that_of_what_is_computed(llama):
    same = Model(copy.deepcopy(llama.hf), llama.tokenizer, "another name")
    other = Model(copy.deepcopy(llama.hf), llama.tokenizer, llama.name)
    with torch.no_grad():
        next(other.hf.parameters()).view(-1)[3] += 1e-9
    assert same.digest == llama.digest != other.digest


def test_an_unknown_family_says_how_to_add_it():
    with pytest.raises(InputError, match="model-unknown-family") as refused:
        make("cwm", **CWM)
    assert "FAMILIES" in refused.value.fix


def test_a_family_is_registered_or_given_without_touching_the_package(monkeypatch):
    given = make("cwm", **CWM, family=FAMILIES["llama"])
    assert random_init(given, 0).family == given.family
    monkeypatch.setitem(FAMILIES, "cwm", FAMILIES["llama"])
    assert make("cwm", **CWM).family == given.family
    assert given.n_layers == 3


@pytest.mark.parametrize(
    ("settings", "heads"),
    [
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 2),
        ({"multi_query": True}, 1),
        ({"multi_query": False, "alibi": True}, 4),
    ],
)
def test_falcon_tells_its_key_and_value_heads(settings, heads):
    model = make("falcon", **SMALL, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, **settings)
    assert model.n_kv_heads == heads


def test_a_variant_that_the_entry_does_not_cover_is_refused():
    with pytest.raises(InputError, match="do_layer_norm_before"):
        make("opt", **LLAMA | {"ffn_dim": 24, "word_embed_proj_dim": 16, "do_layer_norm_before": False})


def test_a_projection_between_the_final_norm_and_the_head_is_refused():
    with pytest.raises(InputError, match="the output head reads 8 numbers a token, the residual stream has 16"):
        make("opt", **OPT, word_embed_proj_dim=8)


def test_an_encoder_decoder_is_refused(llama):
    hf = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(InputError, match="model-not-causal"):
        Model(hf, llama.tokenizer, "t5")


def test_a_component_that_is_not_where_the_table_says_is_named(llama):
    hf = copy.deepcopy(llama.hf)
    hf.model.layers[0].mlp = torch.nn.Identity()
    with pytest.raises(InputError, match=r"no mlp_proj at 'mlp\.down_proj'"):
        Model(hf, llama.tokenizer, "llama without an MLP")


def test_the_guide_names_every_type():
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "models.md").read_text(encoding="utf-8")
    assert [kind for kind in FAMILIES if f"`{kind}`" not in guide] == []
