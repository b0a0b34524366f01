"""Path patching against a naive frozen forward with plain hooks on the stock model, and against what is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.trace.direct import held_norm
from patchlight.trace.paths import paths
from tests.trace.path_oracle import path_value

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
FAMILIES = ("gpt2", "llama", "gemma2", "gpt_neox", "qwen3", "granite", "opt", "cohere")
FAMILIES += ("gpt_neo", "bloom", "mpt", "falcon", "falcon-7b", "falcon-alibi")  # whose attention is of their own


def receivers_of(name, layer):
    heads = [f"blocks.{layer}.{part}.1" for part in ("q", "k", "v")]
    heads = [head.replace(".1", ".0") if name == "falcon-7b" and ".q" not in head else head for head in heads]
    return [*heads, f"blocks.{layer}.mlp_out", "logits"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sender", ["blocks.0.head_out.2", "blocks.0.mlp_out", "embed", "blocks.1.attn_out"])
def test_each_path_equals_a_frozen_forward_with_plain_hooks(name, sender, tiny, pair_of):
    model = tiny(name, torch.float64, 0, 3)
    receivers = [*receivers_of(name, 2), *receivers_of(name, 0)[-2:-1]]
    found = paths(model, [pair_of(CLEAN, CORRUPTED)], senders=sender, receivers=receivers)
    for index, receiver in enumerate(receivers):
        expected = path_value(model, CLEAN, CORRUPTED, sender, [receiver])
        value = found.values[0, 0, index]
        if expected is None:
            assert np.isnan(value), receiver
        else:
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-10, err_msg=receiver)


JOINT = [["blocks.1.q.0", "blocks.2.k.1", "blocks.2.mlp_out"], ["blocks.1.v", "blocks.2.v.1"]]


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox", "bloom"])
def test_receivers_that_read_at_once_keep_what_they_made(name, tiny, pair_of):
    model = tiny(name, torch.float64, 0, 3)
    found = paths(model, [pair_of(CLEAN, CORRUPTED)], senders="blocks.0.mlp_out", receivers=JOINT)
    apart = ["blocks.1.v.0", "blocks.1.v.1"] if name == "gemma2" else [f"blocks.1.v.{head}" for head in range(4)]
    for index, receivers in enumerate([JOINT[0], [*apart, "blocks.2.v.1"]]):
        expected = path_value(model, CLEAN, CORRUPTED, "blocks.0.mlp_out", receivers)
        np.testing.assert_allclose(found.values[0, 0, index], expected, rtol=1e-9, atol=1e-10)


def test_all_heads_at_once_in_a_small_memory_and_the_other_direction_give_the_same_as_each_alone(tiny, pair_of):
    model, pairs = tiny("llama", torch.float64, 0, 3), [pair_of(CLEAN, CORRUPTED), pair_of([7, 1, 8], [7, 11, 8])]
    receivers = ["q", "v", "mlp_out", "logits"]
    whole = paths(model, pairs, senders="head_out", receivers=receivers, direction="noise")
    small = paths(model, pairs, senders="head_out", receivers=receivers, direction="noise", memory=1 << 16)
    np.testing.assert_allclose(small.values, whole.values, rtol=1e-12)
    assert whole.values.shape == (2, 3 * 4, 3 * 4 + 3 * 2 + 3 + 1)
    for sender, receiver in ((1, 5), (5, 9), (6, 20), (11, 21)):
        names = str(whole.senders[sender]), [whole.names[receiver]]
        expected = path_value(model, CORRUPTED, CLEAN, *names)
        np.testing.assert_allclose(whole.values[0, sender, receiver], expected, rtol=1e-9, atol=1e-10)
    assert len(whole.to_frame()) == np.isfinite(whole.values).sum()


def test_positions_of_both_ends_bound_what_is_carried(tiny, pair_of):
    """The parts of a change at single positions add up where the reader takes each by itself, as values do."""
    model = tiny("gpt2", torch.float64, 0, 3)
    pair = [pair_of(CLEAN, CORRUPTED)]
    last = paths(
        model, pair, senders="blocks.0.mlp_out@last", receivers=["blocks.2.q.1@last", "blocks.2.q.1", "logits"]
    )
    every = paths(model, pair, senders="blocks.0.mlp_out", receivers=["blocks.2.q.1@last", "blocks.2.v.1@1", "logits"])
    # In the last layer only the last position asks, and only it is read.
    np.testing.assert_allclose(last.values[0, 0, [0, 1, 2]], every.values[0, 0, [0, 0, 2]], rtol=1e-12)
    apart = paths(model, pair, senders="blocks.0.mlp_out@1", receivers=["blocks.2.v.1", "blocks.2.v.1@2-4"])
    np.testing.assert_allclose(apart.values[0, 0], [every.values[0, 0, 1], apart.corrupted[0]], rtol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo", "nemotron"])
def test_a_held_norm_is_linear_and_keeps_the_scale_of_the_recipient(name, tiny):
    model = tiny(name)
    near = {"rtol": 1e-9, "atol": 1e-9} if name in ("gpt2", "nemotron") else {"rtol": 1e-4, "atol": 1e-5}  # in float32
    stream, one, other = torch.randn(3, 7, model.width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = model.normed(stream)
    held = held_norm(model, stream, 0.3 * one - 2 * other) - own
    parts = 0.3 * (held_norm(model, stream, one) - own) - 2 * (held_norm(model, stream, other) - own)
    torch.testing.assert_close(held, parts, **near)
    torch.testing.assert_close(held_norm(model, stream, torch.zeros_like(stream)), own, **near)
    # Along the stream itself the scale is all that differs: twice the stream is twice what the norm made of it.
    bias = model.normed(torch.zeros_like(stream))
    torch.testing.assert_close(held_norm(model, stream, stream) - bias, 2 * (own - bias), **near)


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ({"senders": "blocks.0.q.1"}, "trace-unknown-component"),
        ({"receivers": "blocks.0.head_out.1"}, "trace-unknown-component"),
        ({"senders": "blocks.0-1.mlp_out"}, "trace-path-layers"),
        ({"senders": "blocks.9.mlp_out"}, "trace-no-layer"),
        ({"senders": []}, "trace-path-ends"),
        ({"receivers": [[]]}, "trace-path-ends"),
        ({"final_norm": "frozen"}, "trace-unknown-final-norm"),
    ],
)
def test_ends_that_are_none_are_refused(ends, code, tiny, pair_of):
    with pytest.raises(InputError, match=code):
        paths(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], **ends)
