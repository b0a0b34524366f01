"""A captured run holds what the stock model computes, however little of it had to be run again."""

from __future__ import annotations

import pytest
import torch

from patchlight.errors import InputError
from patchlight.trace.capture import capture

CLEAN, CORRUPTED = [[3, 14, 15, 9, 6, 5], [2, 7, 18, 28, 1, 8]], [[3, 14, 15, 8, 6, 5], [2, 7, 18, 4, 1, 9]]
POSITION = {"q": 2, "k": 2, "v": 2, "pattern": 2}


def components(model) -> list[str]:
    between = [] if model.parallel else ["resid_mid"]
    return ["q", "k", "v", "pattern", "head_out", "attn_out", "mlp_out", *between]


@pytest.mark.parametrize("read", [1, 2, 4])
def test_a_run_behind_what_is_shared_is_the_whole_run(read, family, tiny):
    model = tiny(family)
    clean, corrupted = torch.tensor(CLEAN), torch.tensor(CORRUPTED)
    before = capture(model, corrupted, ("k", "v", "mlp_out"), read=read)
    whole = capture(model, clean, components(model), read=read)
    part = capture(model, clean, components(model), read=read, before=before)
    start = min(3, 6 - read)
    torch.testing.assert_close(part.final, whole.final, rtol=1e-9, atol=1e-9)
    for name, tensors in whole.sites.items():
        for ours, theirs in zip(part.sites[name], tensors, strict=True):
            axis = POSITION.get(name, 1)
            behind = [each.narrow(axis, start, 6 - start) for each in (ours, theirs)]
            torch.testing.assert_close(*behind, rtol=1e-7, atol=1e-7)
            in_front = ours.narrow(axis, 0, start)
            assert bool(
                in_front.isfinite().all() if name in ("k", "v", "resid_pre", "mlp_out") else in_front.isnan().all()
            )


def test_prompts_that_differ_at_once_are_run_whole(tiny):
    model = tiny("llama")
    clean = torch.tensor(CLEAN)
    before = capture(model, clean.flip(0), ("k", "v"))
    assert torch.equal(capture(model, clean, (), before=before).final, capture(model, clean, ()).final)


def test_a_prompt_beyond_the_context_is_refused(tiny):
    with pytest.raises(InputError, match="trace-prompt-too-long"):
        capture(tiny("gpt2"), torch.ones(1, 33, dtype=torch.long), ())
