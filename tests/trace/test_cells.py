"""Positions, layers and neurons that are replaced together, against plain hooks for every site of a cell at once."""

from __future__ import annotations

import numpy as np
import pytest

from patchlight.errors import InputError
from patchlight.records import Site
from patchlight.trace.sweep import sweep

CLEAN, CORRUPTED = [3, 14, 15, 9, 6, 2], [3, 34, 15, 8, 6, 2]
SHORT_CLEAN, SHORT_CORRUPTED = [7, 1, 8], [7, 21, 8]


def together(model, oracle_together, sites: list[Site], clean=CLEAN, corrupted=CORRUPTED) -> float:
    return oracle_together(model, clean, corrupted, sites)


@pytest.mark.parametrize("component", ["resid_pre", "attn_out", "mlp_out", "mlp_hidden"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mpt"])
def test_all_positions_are_replaced_together(name, component, tiny, pair_of, oracle_together):
    model, pairs = tiny(name), [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)]
    effects = sweep(model, pairs, component=component, positions="all")
    assert (effects.values.shape, effects.columns) == ((2, 2, 1), ("all",))
    for layer in range(2):
        expected = [
            together(model, oracle_together, [Site(component, layer)], *prompts)
            for prompts in ((CLEAN, CORRUPTED), (SHORT_CLEAN, SHORT_CORRUPTED))
        ]
        np.testing.assert_allclose(effects.values[:, layer, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("component", ["mlp_out", "head_out"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_positions_of_a_role_are_replaced_together(name, component, tiny, pair_of, oracle_together):
    model, clean, corrupted = tiny(name), [3, 14, 15, 9, 6, 2], [3, 34, 15, 16, 36, 2]
    effects = sweep(
        model, [pair_of(clean, corrupted), pair_of([7, 1], [7, 21])], component=component, positions="roles"
    )
    assert effects.columns == ("before", "subject_first", "subject_mid", "subject_last", "last")
    heads = range(4) if component == "head_out" else [None]
    for column, positions in enumerate([[0], [1], [2, 3], [4], [5]]):
        for layer in range(2):
            for head in heads:
                sites = [Site(component, layer, head, position) for position in positions]
                found = effects.values[0, layer, column] if head is None else effects.values[0, layer, head, column]
                expected = together(model, oracle_together, sites, clean, corrupted)
                np.testing.assert_allclose(found, expected, rtol=1e-9)
    absent = np.isnan(effects.values[1])
    assert absent[..., 1:4].all()
    assert not absent[..., [0, 4]].any()


def test_a_window_replaces_neighbouring_layers(tiny, pair_of, oracle_together):
    model = tiny("gpt2")
    effects = sweep(model, [pair_of(CLEAN, CORRUPTED)], component="attn_out", window=2)
    assert (effects.values.shape, effects.window) == ((1, 1, 6), 2)
    for position in range(6):
        sites = [Site("attn_out", layer, None, position) for layer in range(2)]
        np.testing.assert_allclose(effects.values[0, 0, position], together(model, oracle_together, sites), rtol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_hidden_neurons_are_replaced_in_groups(name, tiny, pair_of, oracle_together):
    model, width = tiny(name), {"gpt2": 64, "llama": 24}[name]
    effects = sweep(model, [pair_of(CLEAN, CORRUPTED)], component="mlp_hidden", groups=4)
    assert effects.values.shape == (1, 2, 4, 6)
    for group in range(4):
        for position in (1, 4, 5):
            neurons = range(group * width // 4, (group + 1) * width // 4)
            sites = [Site("mlp_hidden", 0, neuron, position) for neuron in neurons]
            found = effects.values[0, 0, group, position]
            np.testing.assert_allclose(found, together(model, oracle_together, sites), rtol=1e-9)
    assert sorted(effects.to_frame()["group"].unique()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"window": 0}, "trace-window"),
        ({"window": 3}, "trace-window"),
        ({"component": "embed", "window": 2}, "trace-window"),
        ({"component": "mlp_hidden", "groups": 5}, "trace-groups"),
        ({"component": "mlp_hidden", "groups": 0}, "trace-groups"),
        ({"component": "mlp_out", "groups": 2}, "trace-groups"),
        ({"positions": "some"}, "trace-unknown-positions"),
    ],
)
def test_cuts_that_do_not_fit_are_refused(settings, code, tiny, pair_of):
    with pytest.raises(InputError, match=code):
        sweep(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], **settings)


def test_roles_that_were_patched_together_are_tabled_and_drawn(tiny, pair_of):
    pairs = [pair_of(CLEAN, CORRUPTED, "one"), pair_of(SHORT_CLEAN, SHORT_CORRUPTED, "two")]
    effects = sweep(tiny("gpt2"), pairs, positions="roles")
    roles, values = effects.by_role()
    assert roles == effects.columns
    assert values is effects.values
    table = effects.to_frame()
    assert not {"position", "token"} & set(table.columns)
    assert set(table[table.fact == "two"].role) == {"before", "subject_last", "last"}
    assert len(table) == 2 * (6 + 3)
    for pair in (None, 1):
        assert "subject end" in effects.plot(pair).svg
    assert "whole prompt" in sweep(tiny("gpt2"), pairs, positions="all").plot().svg
