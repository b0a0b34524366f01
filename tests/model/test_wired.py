"""Circuits that hold many facts: what was written by hand is what patching measures, where no noise is added."""

from __future__ import annotations

import numpy as np
import pytest

from patchlight.model.planted import wired
from patchlight.model.planted.wired import WIRED, Wired, attention, mlp
from patchlight.trace.patch import patch
from patchlight.trace.sweep import sweep

SEED = 5


@pytest.fixture(params=WIRED)
def circuit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wired:
    monkeypatch.setattr(wired, "DRIFTS", (0.0,))
    return WIRED[request.param](SEED)


def moved(circuit: Wired, sites: list[str], direction: str) -> np.ndarray:
    """The share of the gap that a set moves, for each pair."""
    found = patch(circuit.model, circuit.pairs, [sites], direction=direction)
    gap = found.clean - found.corrupted
    start = found.values[:, 0] - found.corrupted if direction == "denoise" else found.clean - found.values[:, 0]
    return np.asarray(start / gap)


def test_each_set_that_is_enough_gives_back_everything_and_its_loss_costs_everything(circuit: Wired) -> None:
    for sites in circuit.enough:
        for direction in ("denoise", "noise"):
            np.testing.assert_allclose(moved(circuit, sorted(sites), direction), 1, atol=1e-9)


def test_no_place_outside_the_circuit_does_anything(circuit: Wired) -> None:
    if circuit.word != "localised":
        pytest.skip("a circuit whose truth names no place")
    name = {"attn_out": attention, "mlp_out": mlp}
    roles = {1: "subject_first", 2: "subject_last", 3: "last"}
    for component, named in name.items():
        found = sweep(circuit.model, circuit.pairs, component=component)
        change = np.abs(found.values - found.corrupted[:, None, None]).max(axis=0) > 1e-9
        assert {named(int(layer), roles[int(at)]) for layer, at in np.argwhere(change)} <= circuit.works


def test_and_needs_both_heads_while_one_head_of_or_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wired, "DRIFTS", (0.0,))
    for name, alone, lost in (("and", 0, 1), ("or", 1, 0), ("redundant", 1, 0)):
        circuit = WIRED[name](SEED)
        for head in circuit.enough[0]:
            np.testing.assert_allclose(moved(circuit, [head], "denoise"), alone, atol=1e-9)
            np.testing.assert_allclose(moved(circuit, [head], "noise"), lost, atol=1e-9)


def test_the_spread_circuit_has_equal_parts_in_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wired, "DRIFTS", (0.0,))
    circuit = WIRED["spread"](SEED)
    for layer in range(circuit.model.n_layers):
        np.testing.assert_allclose(moved(circuit, [mlp(layer)], "denoise"), 1.1 / circuit.model.n_layers, atol=1e-9)
        np.testing.assert_allclose(moved(circuit, [attention(layer)], "noise"), 1 / circuit.model.n_layers, atol=1e-9)


def test_halves_share_no_fact_and_every_fact_has_two_templates() -> None:
    pairs = WIRED["single"](SEED).pairs
    of_half = {half: {each for pair in pairs if pair.half == half for each in (pair.fact, pair.partner)}
               for half in ("discovery", "confirmation")}  # fmt: skip
    assert not of_half["discovery"] & of_half["confirmation"]
    assert len({(pair.fact, pair.template) for pair in pairs}) == 2 * len({pair.fact for pair in pairs})
