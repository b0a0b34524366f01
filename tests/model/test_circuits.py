"""Circuits built by hand: what the engine measures is what the formulas say, and nothing else has any effect."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from patchlight.model.planted.circuits import CIRCUITS
from patchlight.trace.identities import prove
from patchlight.trace.mediation import effects
from patchlight.trace.patch import patch
from patchlight.trace.paths import paths
from patchlight.trace.repair import backups, self_repair
from patchlight.trace.sweep import sweep

made = cache(lambda name: CIRCUITS[name]())


@pytest.fixture(params=CIRCUITS)
def circuit(request):
    return made(request.param)


def test_every_effect_is_the_one_derived_by_hand(circuit):
    for direction in ("denoise", "noise"):
        known = [each for each in circuit.effects if each.direction == direction]
        found = effects(circuit.model, circuit.pairs, [each.site for each in known], direction=direction)
        np.testing.assert_allclose(found.clean - found.corrupted, circuit.gaps, atol=1e-12)
        assert found.identity_error < 1e-9
        for name in ("total", "direct", "indirect"):
            expected = np.outer(circuit.gaps, [getattr(each, name) for each in known])
            np.testing.assert_allclose(found.effect(name), expected, atol=1e-9, err_msg=f"{circuit.name} {name}")
        np.testing.assert_allclose(found.effect("direct_held"), found.effect("direct"), atol=1e-9)
        np.testing.assert_allclose(found.effect("interaction"), 0, atol=1e-9)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_no_other_head_or_mlp_has_any_effect(circuit, direction):
    known = {each.site for each in circuit.effects if each.direction == direction and each.total}
    for component in ("head_out", "mlp_out"):
        found = sweep(circuit.model, circuit.pairs, component=component, direction=direction)
        hit = np.argwhere((np.abs(found.values - baseline(found)) > 1e-9).any(axis=0))
        assert {name_of(component, *place) for place in hit} == {site for site in known if component in site}


def baseline(found):
    start = found.corrupted if found.direction == "denoise" else found.clean
    return start.reshape(-1, *[1] * (found.values.ndim - 1))


def name_of(component, layer, *place):
    *unit, position = place
    return f"blocks.{layer}.{component}{''.join(f'.{each}' for each in unit)}@{'last' if position == 3 else position}"


def test_sets_act_together_as_derived(circuit):
    for sites, direction, total in circuit.together:
        found = patch(circuit.model, circuit.pairs, [list(sites)], direction=direction)
        start = found.corrupted if direction == "denoise" else found.clean
        np.testing.assert_allclose(found.values[:, 0] - start, np.array(circuit.gaps) * total, atol=1e-9)


def test_the_identities_hold_on_handmade_models(circuit):
    assert all(identity.held for identity in prove(circuit.model, circuit.pairs))


def test_paths_show_who_speaks_to_whom_in_the_chain():
    chain = made("chain")
    found = paths(
        chain.model,
        chain.pairs,
        senders=["blocks.0.head_out.0", "blocks.0.head_out.1", "blocks.1.head_out.0"],
        receivers=["blocks.1.q.0", "blocks.1.k.0", "blocks.1.v.0", "blocks.1.mlp_out", "logits"],
    )
    expected = [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [np.nan, np.nan, np.nan, 0, 1]]
    np.testing.assert_allclose(found.recovery(), np.tile(expected, (len(chain.pairs), 1, 1)), atol=1e-9)


def test_the_backup_of_a_redundant_copy_is_found_by_joint_knockout():
    circuit = made("redundant")
    more = backups(
        circuit.model, circuit.pairs, "blocks.0.head_out.0@last", ["blocks.0.head_out.1@last", "blocks.0.mlp_out@0"]
    )
    np.testing.assert_allclose(more, np.outer(circuit.gaps, [1, 0]), atol=1e-9)


def test_the_mlp_that_cancels_a_head_makes_up_for_its_loss():
    circuit = made("cancelling")
    found = self_repair(circuit.model, circuit.pairs, "blocks.0.head_out.0@last")
    np.testing.assert_allclose(found.predicted[:, 0], np.multiply(circuit.gaps, -2), atol=1e-9)
    np.testing.assert_allclose(found.measured, 0, atol=1e-9)
    ((component, reaction),) = found.compensating(0)
    assert str(component) == "blocks.0.mlp_out"
    assert reaction == pytest.approx(2 * np.mean(circuit.gaps))
