"""The count of needed operations against a model in which it is watched what really changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.speed.flops import Shape, for_place, forward, needed, shape_of
from benchmarks.speed.work import Place, places, random_prompts

TOKENS, LAYERS, HEADS = 6, 3, 2
SETTINGS = {
    "gpt2": {"n_embd": 8, "n_layer": LAYERS, "n_head": HEADS, "n_positions": TOKENS},
    "llama": {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
    },
}


def model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=20, bos_token_id=0, eos_token_id=0, **SETTINGS[kind])
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    for parameter in hf.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return hf


def watched(hf: torch.nn.Module, ids: torch.Tensor, place: Place | None, given: dict) -> dict:
    """What enters each part of a GPT-2 block, `[position, width]`, with `place` replaced by what `given` has there."""
    seen, handles = {}, []

    def replaced(name: str, layer: int, tensor: torch.Tensor) -> torch.Tensor:
        if place is None or (name, layer) != (place.component, place.layer):
            return tensor
        tensor = tensor.clone()
        at = slice(None) if place.position is None else place.position
        width = tensor.shape[-1] // HEADS
        part = slice(None) if place.head is None else slice(place.head * width, (place.head + 1) * width)
        tensor[0, at, part] = given[name, layer][at, part]
        return tensor

    def entry(name: str, layer: int, component: str | None):
        def before(_, args):
            tensor = replaced(component, layer, args[0]) if component else args[0]
            seen[name, layer] = seen[component, layer] = tensor[0].clone()
            return (tensor, *args[1:])

        return before

    def leaving(component: str, layer: int):
        def after(_, __, output):
            tensor = replaced(component, layer, output[0] if isinstance(output, tuple) else output)
            seen[component, layer] = tensor[0].clone()
            return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

        return after

    for layer, block in enumerate(hf.transformer.h):
        handles += [
            block.register_forward_pre_hook(entry("block", layer, "resid_pre")),
            block.attn.c_proj.register_forward_pre_hook(entry("projection", layer, "head_out")),
            block.mlp.register_forward_pre_hook(entry("mlp", layer, None)),
            block.attn.register_forward_hook(leaving("attn_out", layer)),
            block.mlp.register_forward_hook(leaving("mlp_out", layer)),
        ]
    with torch.no_grad():
        seen["end", 0] = hf(ids, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return seen


def operations(shape: Shape, place: Place, before: dict, after: dict) -> int:
    """Adds up, from what changed, the products whose input changed and whose output is read."""
    changed = {key: ((after[key] - before[key]).abs().amax(-1) > 1e-12).tolist() for key in before}
    total = 2 * shape.width if changed["end", 0][-1] else 0
    for layer in range(shape.layers):
        read = [layer < shape.layers - 1 or at == TOKENS - 1 for at in range(TOKENS)]
        for at in range(TOKENS):
            total += shape.keys_values * changed["block", layer][at]
            total += shape.query * (changed["block", layer][at] and read[at])
            if changed["projection", layer][at] and read[at]:
                replaced_here = place.component == "head_out" and place.layer == layer
                total += shape.query // shape.heads if replaced_here else shape.query + shape.attention(at + 1)
            total += shape.mlp * (changed["mlp", layer][at] and read[at])
    return total


def every_place() -> Iterator[Place]:
    for workload in ("W1", "W2", "W3"):
        yield from places(workload, LAYERS, HEADS, TOKENS)


@pytest.mark.parametrize("differing", [range(TOKENS), [1, 3], [TOKENS - 1], [2]])
def test_needed_is_what_changes_and_is_read(differing: Sequence[int]) -> None:
    hf = model("gpt2")
    shape = shape_of(hf.config)
    prompts = random_prompts(1, TOKENS, differing, 20)
    donor = watched(hf, torch.tensor(prompts.donor), None, {})
    recipient = watched(hf, torch.tensor(prompts.recipient), None, {})
    for place in every_place():
        patched = watched(hf, torch.tensor(prompts.recipient), place, donor)
        assert for_place(shape, place, TOKENS, differing) == operations(shape, place, recipient, patched), place


def test_equal_prompts_need_the_recipients_run_alone() -> None:
    shape = shape_of(model("gpt2").config)
    last_differs = needed(shape, [], 1, TOKENS, [TOKENS - 1])
    assert needed(shape, list(every_place()), 1, TOKENS, []) < last_differs


def test_pairs_count_alike() -> None:
    shape = shape_of(model("llama").config)
    some = list(every_place())
    assert needed(shape, some, 5, TOKENS, [1, 3]) == 5 * needed(shape, some, 1, TOKENS, [1, 3])


@pytest.mark.parametrize("kind", SETTINGS)
def test_forward_is_what_torch_counts(kind: str) -> None:
    hf = model(kind)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hf(torch.zeros(3, TOKENS, dtype=torch.long), use_cache=False)
    assert 3 * forward(shape_of(hf.config), TOKENS) == counter.get_total_flops()
