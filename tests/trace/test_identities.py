"""The identities hold on stock models of every family, and name what a broken model breaks."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from patchlight.errors import GateFailed, InputError
from patchlight.model.anatomy import Model
from patchlight.model.families import FAMILIES
from patchlight.trace.identities import prove

SHAPE = ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers")
SHAPE += ("num_attention_heads", "num_key_value_heads", "num_experts", "num_experts_per_tok")
PAIRS = [([3, 14, 15, 9, 6], [3, 34, 15, 8, 6]), ([7, 1, 8], [7, 1, 28])]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_family_holds_its_identities(family, dtype, tiny):
    identities = prove(tiny(family, dtype))
    assert [each.name for each in identities if not each.held] == []


def test_given_pairs_are_what_is_proven_on(tiny, pair_of):
    assert all(each.held for each in prove(tiny("gpt2"), [pair_of(*pair) for pair in PAIRS]))
    with pytest.raises(InputError, match="identity-no-pairs"):
        prove(tiny("gpt2"), [])


class Leaking(torch.nn.Module):
    """A sublayer that also reads the mean of all tokens, later ones too."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        return self.inner(stream) + stream.mean(dim=1, keepdim=True)


def test_a_model_that_looks_ahead_is_named(tiny):
    model = copy.deepcopy(tiny("gpt2"))
    model.layers[0].ln_2 = Leaking(model.layers[0].ln_2)
    broken = [each.name for each in prove(model) if not each.held]
    assert "nothing differs before the first token that differs" in broken


def test_a_block_that_does_not_add_up_is_named(tiny):
    model = copy.deepcopy(tiny("gpt2"))
    model.layers[1].register_forward_hook(lambda _, args, output: output + args[0])
    assert next(each.name for each in prove(model) if not each.held) == "residual sums hold"


def test_an_attention_whose_output_is_not_its_pattern_over_its_values_is_named(tiny, monkeypatch):
    """Heads and sublayers can be patched exactly all the same, but not what lies inside attention."""
    model = copy.deepcopy(tiny("llama"))
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def with_an_offset(*given, **rest):
        mixed, weights = usual(*given, **rest)
        return mixed + 0.5, weights

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", with_an_offset)
    assert [each.name for each in prove(model) if not each.held] == ["self-patch changes nothing"]


def test_a_gate_on_what_attention_gives_is_named(tiny):
    """AFMoE hands attention its mask by name, and gates its output by a projection that a replay does not run."""
    small = tiny("qwen3_moe")
    settings = {name: getattr(small.config, name) for name in SHAPE} | {"head_dim": 4, "sliding_window": 3}
    config = AutoConfig.for_model("afmoe", **settings, experts_implementation="eager")
    like = replace(FAMILIES["mixtral"], attn_out="post_attention_layernorm", mlp_out="post_mlp_layernorm")
    model = Model(AutoModelForCausalLM.from_config(config).double(), small.tokenizer, "gated", like)
    held = {each.name: each.held for each in prove(model)}
    assert held["residual sums hold"]
    assert not held["replay from every depth equals the full run"]


def test_an_entry_with_which_the_model_cannot_run_is_refused_with_what_it_said(tiny):
    model = copy.deepcopy(tiny("llama"))
    model.family = replace(model.family, mlp_out="mlp.up_proj")
    with pytest.raises(GateFailed, match=r"identities cannot be run: \w+Error: .*identity-not-run"):
        prove(model)


def test_every_entry_of_the_table_is_proven_on_a_small_model(kinds):
    assert set(FAMILIES) == kinds
