"""Windows of layers and words against plain hooked forwards that replace all of a window together."""

from __future__ import annotations

import numpy as np
import pytest

from patchlight import TokenPair, patch, sweep, sweep_windows
from patchlight.errors import InputError

PAIR = TokenPair((3, 14, 15, 9, 6), (3, 34, 15, 8, 6), (50,), (51,))
SHORT = TokenPair((5, 6, 7), (5, 16, 7), (50,), (51,))


@pytest.mark.parametrize("component", ["resid_pre", "mlp_out", "attn_out"])
@pytest.mark.parametrize(("layers", "positions"), [(1, 2), (2, 1), (2, 3)])
def test_a_window_is_its_places_replaced_together_beside_their_sum(layers, positions, component, tiny):
    model = tiny("gpt2", layers=3)
    found = sweep_windows(model, [PAIR, SHORT], layers=layers, positions=positions, component=component)
    assert found.joint.values.shape == (2, 4 - layers, 6 - positions)
    alone = sweep(model, [PAIR, SHORT], component=component)
    moved = alone.values - alone.corrupted[:, None, None]
    gaps = (alone.clean - alone.corrupted)[:, None, None]
    sums = found.sum_of_singles(floor=-np.inf) * gaps
    for pair, length in ((0, 5), (1, 3)):
        for layer, start in np.ndindex(4 - layers, length - positions + 1):
            box = f"blocks.{layer}-{layer + layers - 1}.{component}@{start}-{start + positions - 1}"
            by_name = patch(model, [(PAIR, SHORT)[pair]], [box])
            np.testing.assert_allclose(found.joint.values[pair, layer, start], by_name.values[0, 0], rtol=1e-9)
            assert found.structural[pair, layer, start] == by_name.structural[0, 0]
            expected = moved[pair, layer : layer + layers, start : start + positions].sum()
            np.testing.assert_allclose(sums[pair, layer, start], expected, rtol=1e-8)
    assert np.isnan(found.joint.values[1, :, 4 - positions :]).all()


def test_a_window_over_all_that_differs_is_marked_and_one_over_less_is_not(tiny, oracle_together):
    found = sweep_windows(tiny("gpt2"), [PAIR], component="resid_pre", positions=3)
    restored = np.isclose(found.joint.values, found.joint.clean[:, None, None], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.structural, restored)
    assert found.structural[0, 0].tolist() == [False, True, False]


@pytest.mark.parametrize(("layers", "positions"), [(1, 0), (1, 4), (3, 1), (0, 1)])
def test_a_window_that_does_not_fit_is_refused(layers, positions, tiny):
    with pytest.raises(InputError, match="trace-window"):
        sweep_windows(tiny("gpt2"), [PAIR, SHORT], layers=layers, positions=positions)
