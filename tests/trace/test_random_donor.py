"""A random donor of equal norm: the change it makes, against plain hooks, and that only the seed decides it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import align
from patchlight.trace.capture import Run
from patchlight.trace.random_donor import RandomDonor
from patchlight.trace.sweep import sweep
from tests.trace.oracle import activation, patched

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
DONOR = RandomDonor(7)


def pushes(model, pair, component, given, received):
    """What the random donor gives `[layer][position, width]`, made from activations that plain hooks saw."""
    runs = [
        Run(
            torch.tensor([ids]),
            torch.empty(1, 1, model.width),
            {component: [activation(model, ids, component, layer)[None] for layer in range(model.n_layers)]},
            [],
        )
        for ids in (received, given)
    ]
    made = DONOR.run(model, [align(model.tokenizer, pair)], *runs, {component})
    return [tensor[0] for tensor in made.sites[component]], [[each[0] for each in run.sites[component]] for run in runs]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("component", ["resid_pre", "attn_out", "resid_mid", "mlp_out", "head_out"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom"])
def test_each_cell_is_a_plain_forward_with_a_push_of_equal_norm(name, component, direction, tiny, pair_of):
    model, pair = tiny(name), pair_of(CLEAN, CORRUPTED)
    effects = sweep(model, [pair], component=component, direction=direction, donors=DONOR)
    given, received = (CLEAN, CORRUPTED) if direction == "denoise" else (CORRUPTED, CLEAN)
    made, (before, usual) = pushes(model, pair, component, given, received)
    width = model.head_dim if component == "head_out" else model.width
    parts = [slice(start, start + width) for start in range(0, model.width, width)]
    for layer, put in enumerate(made):
        sizes = [(each - before[layer]).unflatten(-1, (-1, width)).norm(dim=-1) for each in (put, usual[layer])]
        torch.testing.assert_close(*sizes, rtol=1e-9, atol=1e-11)
        reached, reaching = component, put
        if component == "resid_mid":  # reached through what attention adds to the block's input
            reached, reaching = "attn_out", put - activation(model, received, "resid_pre", layer)
        expected = [
            [patched(model, received, reached, layer, at, reaching, part) for at in range(len(CLEAN))] for part in parts
        ]
        np.testing.assert_allclose(np.atleast_2d(effects.values[0, layer]), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_it_moves_the_heads_that_a_real_donor_moves_and_no_others(component, tiny, pair_of):
    model = tiny("llama")
    usual = sweep(model, [pair_of(CLEAN, CORRUPTED)], component=component)
    effects = sweep(model, [pair_of(CLEAN, CORRUPTED)], component=component, donors=DONOR)
    moved, really = (np.abs(each.values - each.corrupted[:, None, None, None]) > 1e-9 for each in (effects, usual))
    np.testing.assert_array_equal(moved, really)
    assert np.abs(effects.values - usual.values).max() > 1e-3


def test_directions_are_the_seeds_and_the_baselines_stay(tiny, pair_of):
    model, pair, other = tiny("gpt2"), pair_of(CLEAN, CORRUPTED), pair_of([7, 1, 8, 2], [7, 1, 28, 2])
    alone = sweep(model, [pair], component="mlp_out", donors=DONOR)
    beside = sweep(model, [other, pair, other], component="mlp_out", donors=DONOR, memory=1 << 14)
    np.testing.assert_allclose(beside.values[1], alone.values[0], rtol=1e-9, atol=1e-11)
    assert not np.allclose(sweep(model, [pair], component="mlp_out", donors=RandomDonor(8)).values, alone.values)
    usual = sweep(model, [pair], component="mlp_out")
    assert (alone.clean, alone.corrupted) == (usual.clean, usual.corrupted)


def test_the_directions_are_uniform_on_the_sphere(tiny, pair_of):
    model, width = tiny("gpt2"), 16
    alignments = [align(model.tokenizer, pair_of([a, b], [b, a])) for a in range(50) for b in range(50) if a != b]
    prompts = torch.zeros(len(alignments), 2, dtype=torch.long)
    still, moved = (
        Run(prompts, torch.empty(0), {"mlp_out": [torch.full((len(prompts), 2, width), value)]}, [])
        for value in (0.0, 0.75)
    )
    drawn = DONOR.run(model, alignments, still, moved, {"mlp_out"}).sites["mlp_out"][0].flatten(0, 1).double() / 3
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(len(drawn), dtype=torch.float64), rtol=1e-6, atol=0)
    assert drawn.mean(0).abs().max() < 4 / np.sqrt(width * len(drawn))
    assert (drawn.square().mean(0) * width - 1).abs().max() < 0.1


@pytest.mark.parametrize("component", ["pattern", "mlp_hidden", "logits"])
def test_what_has_no_direction_is_refused(component, tiny, pair_of):
    with pytest.raises(InputError, match="trace-random-donor-component"):
        sweep(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], component=component, donors=DONOR)
