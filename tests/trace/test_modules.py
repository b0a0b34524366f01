from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from patchlight.errors import InputError
from patchlight.records import TokenPair
from patchlight.trace.modules import (
    by_printed_name,
    first_feed_forward,
    is_full_cut,
    of_type,
    output_head,
    patch_modules,
    projections,
    tokens_alone,
)

PAIR = TokenPair((3, 7, 9, 4, 5), (3, 8, 9, 6, 5), (50, 51), (52,))
FAMILIES = ("gpt2", "llama", "gemma2", "gpt_neox", "opt", "bloom")


def score(logits) -> float:
    return float(logits[0, -1, [50, 51]].mean() - logits[0, -1, 52])


@torch.no_grad()
def by_hand(model, name: str) -> tuple[float, float, float]:
    """Metric of the clean run, of the corrupted run, and after one module's output is replaced: stock hooks only."""
    module, kept = model.hf.get_submodule(name), []
    handle = module.register_forward_hook(lambda _, __, output: kept.append(output))
    clean = score(model.hf(torch.tensor([PAIR.clean_ids])).logits)
    handle.remove()
    corrupted = score(model.hf(torch.tensor([PAIR.corrupted_ids])).logits)
    handle = module.register_forward_hook(lambda *_: kept[0])
    patched = score(model.hf(torch.tensor([PAIR.corrupted_ids])).logits)
    handle.remove()
    return clean, corrupted, patched


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_is_patched_as_by_hand(tiny, family):
    model = tiny(family)
    names = [first_feed_forward(model), *projections(model), output_head(model)]
    found = patch_modules(model, PAIR, names)
    for name, patched in zip(names, found.patched, strict=True):
        assert (found.clean, found.corrupted, patched) == pytest.approx(by_hand(model, name), abs=1e-9), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_cut_restores_everything_in_a_model_that_was_taught_nothing(tiny, family):
    model = tiny(family)
    blocks = [name for name, module in model.hf.named_modules() if any(module is block for block in model.layers)]
    for name in (output_head(model), *(blocks if family == "llama" else ())):
        assert is_full_cut(model, name, PAIR)
        clean, _, patched = by_hand(model, name)
        assert patched == pytest.approx(clean, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_module_inside_a_block_is_a_full_cut(tiny, family):
    model = tiny(family)
    assert not any(is_full_cut(model, name, PAIR) for name in projections(model))


def test_gpt2_is_conv1d_but_for_the_head_and_its_48_modules_print_as_four(tiny):
    model = tiny("gpt2", layers=12)
    assert of_type(model, nn.Linear) == ["lm_head"]
    assert len(of_type(model, Conv1D)) == 48
    keys = by_printed_name(model, projections(model))
    assert sorted(keys) == [
        "Conv1D(nf=16, nx=16)",
        "Conv1D(nf=16, nx=64)",
        "Conv1D(nf=48, nx=16)",
        "Conv1D(nf=64, nx=16)",
    ]
    assert [names[-1].split(".")[2] for names in keys.values()] == ["11"] * 4


def test_a_table_keyed_by_what_modules_print_keeps_what_by_printed_name_says(tiny):
    model = tiny("gpt2")
    table = {}
    for name in projections(model):
        table[str(model.hf.get_submodule(name))] = name
    assert table == {key: names[-1] for key, names in by_printed_name(model, projections(model)).items()}


def test_architectures_without_conv1d_have_linear_layers_in_its_place(tiny):
    model = tiny("llama")
    assert projections(model) == [name for name in of_type(model, nn.Linear) if name != "lm_head"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_read_by_themselves_bring_all_that_an_embedding_brings(tiny, family):
    model = tiny(family)
    name = next(name for name, module in model.hf.named_modules() if module is model.embed)
    found = patch_modules(model, PAIR, [name])
    assert is_full_cut(model, name, PAIR)
    assert tokens_alone(model, PAIR, [name]) == pytest.approx(found.clean - found.corrupted, abs=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_tokens_alone_equals_runs_of_single_tokens(tiny, family):
    model = tiny(family)
    name = projections(model)[-1]
    module, brought = model.hf.get_submodule(name), []
    for ids in (PAIR.clean_ids, PAIR.corrupted_ids):
        kept = []
        handle = module.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
        for position, token in enumerate(ids):
            model.hf(torch.tensor([[token]]), position_ids=torch.tensor([[position]]))
        handle.remove()
        handle = module.register_forward_hook(lambda *_, kept=kept: torch.cat(kept, kept[0].ndim - 2))
        brought.append(score(model.hf(torch.tensor([PAIR.corrupted_ids])).logits))
        handle.remove()
    assert tokens_alone(model, PAIR, [name])[0] == pytest.approx(brought[0] - brought[1], abs=1e-9)


def test_prompts_of_different_lengths_are_refused(tiny):
    pair = TokenPair((1, 2, 3), (1, 2), (50,), (51,))
    with pytest.raises(InputError) as caught:
        patch_modules(tiny("gpt2"), pair, ["lm_head"])
    assert caught.value.code == "trace-module-lengths"


def test_a_module_that_gives_more_than_one_tensor_is_refused(tiny):
    with pytest.raises(InputError) as caught:
        patch_modules(tiny("gpt2"), PAIR, ["transformer.h.0.attn"])
    assert caught.value.code == "trace-module-output"


def test_hooks_are_gone_afterwards(tiny):
    model = tiny("gpt2")
    patch_modules(model, PAIR, projections(model))
    assert not any(module._forward_hooks for module in model.hf.modules())
