"""The work of the benchmark, and that its two peers of this environment agree on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.speed.models import write_model
from benchmarks.speed.peers import PEERS
from benchmarks.speed.work import WORKLOADS, measured_part, places, random_prompts, together

LAYERS, HEADS, TOKENS = 4, 2, 6


def test_prompts_differ_at_the_positions_asked_for_and_nowhere_else() -> None:
    prompts = random_prompts(20, TOKENS, [1, 4], vocabulary=3)
    for donor, recipient in zip(prompts.donor, prompts.recipient, strict=True):
        assert [at for at in range(TOKENS) if donor[at] != recipient[at]] == [1, 4]
    assert all(correct != wrong for correct, wrong in prompts.answers)


@pytest.mark.parametrize(("tokens", "share"), [(16, 2), (128, 16)])
def test_the_measured_part_is_a_known_share_of_all_places(tokens: int, share: int) -> None:
    for workload in ("W1", "W2"):
        every = places(workload, LAYERS, HEADS, tokens)
        part = measured_part(every, LAYERS, tokens)
        assert set(part) <= set(every)
        assert len(every) == len(part) * share


def test_groups_keep_order_and_stay_in_one_layer() -> None:
    every = places("W2", LAYERS, HEADS, TOKENS)
    groups = list(together(every, 4))
    assert [place for group in groups for place in group] == every
    assert all(len({place[:2] for place in group}) == 1 and len(group) <= 4 for group in groups)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_patchlight_and_batched_hooks_get_what_plain_hooks_get(workload: str, tmp_path: Path) -> None:
    settings = {"n_embd": 8, "n_layer": LAYERS, "n_head": HEADS, "n_positions": TOKENS, "vocab_size": 20}
    write_model(tmp_path, {"model_type": "gpt2"} | settings, spread=0.3)
    every = places(workload, LAYERS, HEADS, TOKENS)
    prompts = random_prompts(2, TOKENS, [1, 4], 20)
    values = {}
    for name in ("hooks", "hooks_batched", "patchlight"):
        peer = PEERS[name](str(tmp_path), "cpu", torch.float64)
        with torch.no_grad():
            captured = peer.capture(prompts, {place.component for place in every})
            values[name] = peer.replace(captured, every)
    assert values["hooks"].shape == (len(every), 2)
    torch.testing.assert_close(values["hooks_batched"], values["hooks"])
    torch.testing.assert_close(values["patchlight"], values["hooks"], rtol=0, atol=1e-12)
