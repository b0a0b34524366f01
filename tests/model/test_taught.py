"""Planted models are what they claim: weight patching finds what was taught where it was taught, and nowhere else."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.model.planted.taught import LAYERS, Planted, never_taught, taught_at, taught_everywhere
from patchlight.pairs.screen import screen
from patchlight.trace.weights import patch_weights

at, everywhere, never = cache(taught_at), cache(taught_everywhere), cache(never_taught)


def shares(planted: Planted, direction: str = "denoise") -> dict[str, float]:
    """The share of the mean gap between the models that each module carries."""
    effects = patch_weights(planted.base, planted.planted, planted.pairs, direction=direction)
    moved = (
        effects.values - effects.base[:, None] if direction == "denoise" else effects.tuned[:, None] - effects.values
    )
    return dict(zip(effects.names, moved.mean(0) / (effects.tuned - effects.base).mean(), strict=True))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("layer", [0, 5])
def test_weight_patching_finds_the_layer_that_was_taught(layer: int, direction: str) -> None:
    planted = at(layer)
    found = shares(planted, direction)
    assert found.pop("all weights") == pytest.approx(1)
    assert planted.truth.weights == (f"weights.blocks.{layer}.mlp",)
    assert found.pop(planted.truth.weights[0]) >= 0.95
    assert max(map(abs, found.values())) <= 0.05


def test_the_planted_model_knows_the_facts_and_the_model_before_does_not() -> None:
    planted = at(LAYERS - 1)
    assert len(planted.truth.taught) >= 48
    assert {pair.fact for pair in planted.pairs} == set(planted.truth.taught)
    knows, before = (screen(model, planted.pairs).kept for model in (planted.planted, planted.base))
    assert len(knows) == len(planted.pairs)
    assert len(before) < len(planted.pairs) / 2


def test_facts_taught_everywhere_are_carried_by_no_single_module() -> None:
    planted = everywhere()
    for direction in ("denoise", "noise"):
        found = shares(planted, direction)
        assert found.pop("all weights") == pytest.approx(1)
        assert max(found.values()) < 0.5
        assert all(found[name] > 0.02 for name in planted.truth.weights)


def test_facts_never_taught_are_not_known() -> None:
    planted = never()
    assert planted.truth.weights == ()
    effects = patch_weights(planted.base, planted.planted, planted.pairs, ["weights.blocks.0.mlp"])
    assert abs(np.mean(effects.tuned - effects.base)) < 1
    assert not set(planted.truth.taught) & {pair.fact for pair in planted.pairs}
    assert len(screen(planted.planted, planted.pairs).kept) < len(planted.pairs) / 2


def test_the_same_seed_gives_the_same_weights_and_the_base_model_is_left_as_it_was() -> None:
    first, again = at(5), taught_at(5)
    for one, other in zip(first.planted.hf.parameters(), again.planted.hf.parameters(), strict=True):
        assert torch.equal(one, other)
    assert first.base is again.base
    assert not any(weight.requires_grad for weight in first.base.hf.parameters())


def test_a_layer_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="planted-no-layer"):
        taught_at(LAYERS)
