"""Rows: the activations that sites replace."""

from __future__ import annotations

import pytest

from patchlight.errors import InputError
from patchlight.records import Site
from patchlight.trace.rows import ALL, COMPONENTS, Rows
from patchlight.trace.sites import read_site


def patches(*rows: str, length: int = 3) -> list[tuple[int, str, int, int, int]]:
    made = Rows.of([0] * len(rows), [[read_site(name) for name in row.split()] for row in rows], length)
    columns = (made.row, made.component, made.layer, made.unit, made.position)
    return [
        (row, COMPONENTS[component], *place)
        for row, component, *place in zip(*(column.tolist() for column in columns), strict=True)
    ]


def test_a_site_of_one_activation_is_one_patch():
    assert patches("blocks.4.head_out.1@2") == [(0, "head_out", 4, 1, 2)]


def test_windows_groups_and_spans_are_replaced_together():
    expected = [(0, "head_out", layer, head, at) for layer in (3, 4) for head in (0, 2) for at in (1, 2)]
    assert patches("blocks.3-4.head_out.0+2@1-2") == expected


def test_no_unit_and_no_position_mean_all_of_them():
    assert patches("blocks.1.mlp_out") == [(0, "mlp_out", 1, ALL, at) for at in range(3)]


def test_the_residual_stream_has_one_name():
    assert patches("embed@0 blocks.0-1.resid_post@0") == [(0, "resid_pre", layer, ALL, 0) for layer in range(3)]


def test_each_row_has_its_own_sites():
    assert patches("blocks.0.mlp_out@0 blocks.2.attn_out@1", "embed@2") == [
        (0, "mlp_out", 0, ALL, 0),
        (0, "attn_out", 2, ALL, 1),
        (1, "resid_pre", 0, ALL, 2),
    ]


@pytest.mark.parametrize("position", [3, range(2, 4), "last"])
def test_positions_that_are_not_indices_in_the_prompt_are_refused(position):
    with pytest.raises(InputError, match="trace-no-position"):
        Rows.of([0], [[Site("mlp_out", 0, None, position)]], 3)


@pytest.mark.parametrize("site", [Site("mlp_out"), Site("embed", 3), Site("attn_out", 0, 1), Site("mlp", 0)])
def test_sites_that_no_model_has_are_refused_not_guessed(site):
    with pytest.raises(InputError, match="trace-site-name"):
        Rows.of([0], [[site]], 3)
