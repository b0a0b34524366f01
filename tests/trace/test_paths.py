"""Path patching against a naive frozen forward with plain hooks on the stock model, and against what is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.trace.paths import paths
from tests.trace.path_oracle import path_value

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
FAMILIES = ("gpt2", "llama", "gemma2", "gpt_neox", "qwen3", "granite", "opt", "bloom", "mpt", "falcon-7b", "cohere")
CACHED = ("bloom", "mpt", "falcon-7b")  # their queries cannot be reached


def receivers_of(name, layer):
    heads = [f"blocks.{layer}.{part}.1" for part in ("q", "k", "v") if not (part == "q" and name in CACHED)]
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
