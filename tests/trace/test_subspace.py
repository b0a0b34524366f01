"""Subspaces: patches against plain hooks, directions against numpy, learned directions against gradients and truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.trace.das import Training
from patchlight.trace.directions import Subspace, by_chance
from patchlight.trace.patch import patch
from patchlight.trace.sites import read_site
from patchlight.trace.subspace import find_subspaces, patch_subspaces
from tests.trace.oracle import activation, patched

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
FAMILIES = ("gpt2", "llama", "gemma2", "granite", "bloom", "opt", "gpt_neox")
SITES = ("blocks.1.resid_pre@2", "blocks.0.attn_out@3", "blocks.0.mlp_out@2", "blocks.1.mlp_hidden@4",
         "blocks.0.head_out.2@3", "embed@1", "blocks.0.resid_post@4")  # fmt: skip


def width_of(model, site):
    name = read_site(site).component
    if name == "head_out":
        return model.head_dim
    return activation(model, CLEAN, name, 0).shape[-1] if name == "mlp_hidden" else model.width


def by_hand(model, site, basis, clean, corrupted):
    """The metric after one plain hook that adds the projected difference, P = B^T B."""
    place = read_site(site)
    name, layer = ("resid_pre" if place.component == "embed" else place.component), place.layer or 0
    donor, own = (activation(model, ids, name, layer) for ids in (clean, corrupted))
    part = (
        slice(place.unit * model.head_dim, (place.unit + 1) * model.head_dim) if place.unit is not None else slice(None)
    )
    made = own.clone()
    made[:, part] += (donor - own)[:, part] @ (basis.T @ basis)
    return patched(model, corrupted, name, layer, place.position, made, part)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_subspace_is_a_plain_forward_with_the_projected_difference(name, tiny, pair_of):
    model, pairs = tiny(name), [pair_of(CLEAN, CORRUPTED), pair_of([5, 14, 2, 9, 6], [5, 34, 2, 8, 6])]
    for site in SITES:
        spaces = [by_chance(width_of(model, site), size, seed=size) for size in (1, 3)]
        found = patch_subspaces(model, pairs, site, spaces)
        expected = by_hand(model, site, spaces[1].basis, CLEAN, CORRUPTED)
        assert found.values[0, 1] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(found.whole, patch(model, pairs, [site]).values[:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("site", ["blocks.0.q.1@2", "blocks.0.v.1@1", "blocks.1.resid_mid@subject"])
def test_every_direction_together_is_the_whole_vector(site, direction, tiny, pair_of):
    model, pairs = tiny("llama"), [pair_of(CLEAN, CORRUPTED)]
    width = model.head_dim if ".resid" not in site else model.width
    found = patch_subspaces(model, pairs, site, [by_chance(width, width, 0)], direction=direction)
    np.testing.assert_allclose(found.values[:, 0], found.whole, rtol=1e-9)


def test_directions_are_those_of_numpy(tiny, pair_of):
    model = tiny("gpt2")
    ends = [([3, 14, 15, 9 + k, 6], [3, 34 - k, 15, 8, 6]) for k in range(6)]
    pairs = [pair_of(*each, fact=str(k)) for k, each in enumerate(ends)]
    site = "blocks.0.resid_post@3"
    apart = np.array(
        [(activation(model, c, "resid_post", 0) - activation(model, d, "resid_post", 0))[3].numpy() for c, d in ends]
    )
    mean, pca = find_subspaces(model, pairs, site, methods=("mean-difference", "pca"), dimensions=(1, 3))[::2]
    np.testing.assert_allclose(mean.basis[0], apart.mean(0) / np.linalg.norm(apart.mean(0)), rtol=1e-9)
    right = np.linalg.svd(apart)[2][:3]
    np.testing.assert_allclose(pca.basis.T @ pca.basis, right.T @ right, atol=1e-9)


def test_a_learned_direction_lowers_the_loss_and_the_model_keeps_no_gradient(tiny, pair_of):
    model = tiny("llama")
    pairs = [pair_of([3, 14 + k, 15, 9, 6], [3, 34 - k, 15, 9, 6], fact=str(k)) for k in range(8)]
    site, training = "blocks.0.mlp_out@subject_last", Training(epochs=25, kept_aside=0.0)
    (learned,) = find_subspaces(model, pairs, site, methods=("das",), dimensions=(2,), training=training)
    torch.testing.assert_close(learned.basis @ learned.basis.T, torch.eye(2, dtype=torch.float64))
    chance = [by_chance(model.width, 2, seed) for seed in range(8)]
    clean = patch_subspaces(model, pairs, site, [learned, *chance])
    back = patch_subspaces(model, pairs, site, [learned, *chance], direction="noise")
    losses = np.logaddexp(0, -clean.values).mean(0) + np.logaddexp(0, back.values).mean(0)
    assert losses[0] < losses[1:].min()
    assert all(parameter.grad is None for parameter in model.hf.parameters())


@pytest.mark.parametrize("site", ["blocks.0.pattern.1@2", "blocks.0.head_out@2", "blocks.0-1.mlp_out@2"])
def test_a_site_without_directions_is_refused(site, tiny, pair_of):
    with pytest.raises(InputError) as error:
        patch_subspaces(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], site, [])
    assert error.value.code == "trace-subspace-site"


def test_a_subspace_of_another_width_is_refused(tiny, pair_of):
    with pytest.raises(InputError, match="width 5"):
        patch_subspaces(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], "embed@1", [Subspace("mine", torch.eye(5))])
