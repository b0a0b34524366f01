"""Programs compiled by hand: right on every input, and the sweep finds the parts that work and no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight.model.planted.compiled import PROGRAMS
from patchlight.trace.sweep import sweep


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]()


def test_the_model_gives_the_logits_of_the_program_on_every_input(program):
    tokenizer = program.model.tokenizer
    for length in {len(prompt) for prompt in program.prompts}:
        prompts = [prompt for prompt in program.prompts if len(prompt) == length]
        expected = torch.zeros(len(prompts), len(tokenizer), dtype=torch.float64)
        for row, prompt in zip(expected, prompts, strict=True):
            for word, logit in program.run(prompt).items():
                row[tokenizer.convert_tokens_to_ids(word)] = logit
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(prompt)) for prompt in prompts])
        torch.testing.assert_close(program.model.hf(ids).logits[:, -1], expected, atol=1e-9, rtol=0)


def test_the_sweep_finds_the_parts_that_work_and_no_others(program):
    for pair, working in zip(program.pairs, program.working, strict=True):
        found = set()
        for component in ("head_out", "mlp_out"):
            effects = sweep(program.model, [pair], component=component)
            for place in np.argwhere(np.abs(effects.values[0] - effects.corrupted[0]) > 1e-9):
                layer, *unit, position = (int(each) for each in place)
                end = "last" if position == effects.values.shape[-1] - 1 else position
                found.add(f"blocks.{layer}.{component}{''.join(f'.{each}' for each in unit)}@{end}")
        assert found == working
        assert {site.split("@")[0] for site in working} <= set(program.places)
