"""Rows that replace several activations, and those inside attention, against the stock model with plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlight.errors import InputError
from patchlight.records import Site
from patchlight.trace.capture import capture
from patchlight.trace.engine import replay
from patchlight.trace.metrics import measure
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import sweep

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
TOGETHER = ["resid_pre", "attn_out", "mlp_hidden", "mlp_out", "head_out"]


def replayed(model, rows: list[list[Site]], memory: int = 1 << 20, *, bare: bool = False) -> np.ndarray:
    inside = ["k", "v"] if bare else ["q", "k", "v", "head_out"]
    recipient = capture(model, torch.tensor([CORRUPTED]), {*inside, "attn_out", "mlp_out"})
    donor = capture(model, torch.tensor([CLEAN]), {*TOGETHER, *(["resid_mid"] if not model.parallel else [])})
    normed = replay(model, recipient, donor, Rows.of([0] * len(rows), rows, len(CLEAN)), memory=memory)
    return measure(model, "logit_diff", normed[:, -1], torch.tensor([[50, 51]] * len(rows))).numpy()


def sites(layers: int) -> st.SearchStrategy[Site]:
    return st.builds(
        lambda component, layer, unit, position: Site(
            component, layer, unit if component in ("head_out", "mlp_hidden") else None, position
        ),
        st.sampled_from(TOGETHER),
        st.integers(0, layers - 1),
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), st.integers(0, len(CLEAN) - 1)),
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "bloom"])
@given(rows=st.lists(st.lists(sites(2), min_size=1, max_size=4), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_several_sites_together_equal_several_plain_hooks(name, rows, tiny, oracle_together):
    model = tiny(name)
    expected = [oracle_together(model, CLEAN, CORRUPTED, row) for row in rows]
    np.testing.assert_allclose(replayed(model, rows), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(replayed(model, rows, bare=True), expected, rtol=1e-9, atol=1e-11)


def test_rows_do_not_depend_on_their_company(tiny):
    rows = [[Site("mlp_out", 0, None, at), Site("resid_pre", 1, None, 4)] for at in range(5)]
    alone = np.concatenate([replayed(tiny("llama"), [row]) for row in rows])
    np.testing.assert_allclose(replayed(tiny("llama"), rows), alone, rtol=1e-12)
    np.testing.assert_allclose(replayed(tiny("llama"), rows, memory=1), alone, rtol=1e-12)


@pytest.mark.parametrize("component", ["q", "k", "v", "pattern"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_inside_of_attention_equals_attention_written_out(name, component, tiny, pair_of, written_out):
    model = tiny(name)
    values = sweep(model, [pair_of(CLEAN, CORRUPTED)], component=component).values[0]
    assert values.shape == (2, model.n_kv_heads if component in "kv" else model.n_heads, 5)
    expected = written_out(model, CLEAN, CORRUPTED, component)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_the_inside_of_attention_equals_its_projections_replaced_in_every_family(
    component, family, tiny, pair_of, projected
):
    model = tiny(family)
    expected = projected(model, CLEAN, CORRUPTED, component)
    if expected is None:
        assert family in ("codegen", "gpt_bigcode", "olmo2", "olmo3", "olmoe")  # conftest says why
        return
    values = sweep(model, [pair_of(CLEAN, CORRUPTED)], component=component).values[0]
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-11)


def test_the_pattern_in_every_family_moves_what_it_should(family, tiny, pair_of):
    model = tiny(family)
    effects = sweep(model, [pair_of(CLEAN, CORRUPTED)], component="pattern")
    moved = np.abs(effects.values - effects.corrupted[0]) > 1e-12
    assert not moved[..., 0].any()
    assert moved[0, -1, :, 4].any() or moved[0, 0, :, 1].any()


def test_a_recipient_that_took_over_the_beginning_of_another_run_is_refused(tiny):
    model = tiny("llama")
    donor = capture(model, torch.tensor([CLEAN]), {"k", "v"})
    recipient = capture(model, torch.tensor([CORRUPTED]), {"k", "v"}, before=donor)
    with pytest.raises(InputError, match="trace-recipient-cut"):
        replay(model, recipient, donor, Rows.of([0], [[Site("resid_pre", 1, None, 3)]], len(CLEAN)), memory=1 << 20)


def test_a_position_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="trace-no-position"):
        Rows.of([0], [[Site("resid_pre", 0, None, 5)]], 5)


def test_rows_that_cannot_change_anything_give_the_recipient_exactly(tiny):
    model = tiny("gpt2")
    rows = [[Site("mlp_out", 1, None, 0)], [Site("resid_pre", 0, None, 2)], [Site("mlp_out", 1, None, 3)]]
    recipient = capture(model, torch.tensor([CORRUPTED]), ())
    base = measure(model, "logit_diff", recipient.final[:, -1], torch.tensor([[50, 51]])).numpy()
    np.testing.assert_array_equal(replayed(model, rows), base.repeat(3))
