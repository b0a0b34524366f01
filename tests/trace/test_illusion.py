"""The illusion audit on a model whose dormant path was built by hand, and the readers against weights written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.model.planted.dormant import GENUINE, QUIET, SITE, UNREAD, direction, dormant
from patchlight.trace.directions import Subspace
from patchlight.trace.illusion import audit
from patchlight.trace.readers import read_directions
from patchlight.trace.sites import read_site
from patchlight.trace.subspace import find_subspaces


def test_it_fires_on_a_dormant_path_and_not_on_a_genuine_direction():
    model, pairs = dormant()
    genuine, asleep = (Subspace("made", direction(*neurons)) for neurons in ((GENUINE,), (UNREAD, QUIET)))
    found = audit(model, pairs, SITE, [genuine, asleep])
    np.testing.assert_allclose(found.gaps, 2.0)
    np.testing.assert_allclose(found.shares, [[1.0, 1.0, 0.0], [0.5, 0.0, 0.0]], atol=1e-12)
    assert found.dormant.tolist() == [False, True]
    np.testing.assert_allclose(found.read_share, [1.0, 0.5], atol=1e-12)
    assert (found.readable, found.width) == (2, 3)


def test_a_direction_without_effect_is_not_called_dormant():
    model, pairs = dormant()
    found = audit(model, pairs, SITE, [Subspace("made", direction(UNREAD))])
    assert not found.dormant[0]


def test_a_method_that_sees_only_differences_takes_the_unread_neuron_along():
    model, pairs = dormant()
    (mean,) = find_subspaces(model, pairs, SITE, methods=("mean-difference",), dimensions=(1,))
    np.testing.assert_allclose(mean.basis, direction(GENUINE, UNREAD), atol=1e-12)


def projector(rows):
    return rows.T @ rows


def test_the_readers_of_a_hidden_layer_are_its_projection(tiny):
    model = tiny("gpt2")
    read = read_directions(model, read_site("blocks.1.mlp_hidden@1"))
    weight = model.hf.transformer.h[1].mlp.c_proj.weight  # [hidden, width]
    torch.testing.assert_close(projector(read), weight @ torch.linalg.pinv(weight))


def test_nothing_reads_the_mean_of_a_stream_behind_layer_norms(tiny):
    model = tiny("gpt2")
    read = read_directions(model, read_site("blocks.0.resid_post@1"))
    mean = torch.ones(model.width, dtype=torch.float64) / model.width**0.5
    torch.testing.assert_close(projector(read), torch.eye(model.width, dtype=torch.float64) - torch.outer(mean, mean))
    assert len(read_directions(tiny("llama"), read_site("blocks.0.resid_post@1"))) == model.width


def test_only_later_readers_count(tiny):
    """In front of the head alone, what is read is what the head can tell apart."""
    model = tiny("llama")
    weight = model.hf.lm_head.weight
    kept = weight.clone()
    try:
        weight.data[3:] = 0.0
        read = read_directions(model, read_site("blocks.1.mlp_out@1"))
        seen = kept[:3] * model.final_norm.weight
        torch.testing.assert_close(projector(read), torch.linalg.pinv(seen) @ seen)
        assert len(read_directions(model, read_site("blocks.1.attn_out@1"))) == model.width
    finally:
        weight.data.copy_(kept)


def test_queries_have_no_weights_that_read_them(tiny, pair_of):
    model = tiny("llama")
    with pytest.raises(InputError) as error:
        read_directions(model, read_site("blocks.0.q.1@2"))
    assert error.value.code == "trace-no-reader"
