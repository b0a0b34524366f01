"""Effects on each token of an answer against prompt and answer in one plain hooked forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight import TokenPair, sweep, sweep_steps
from patchlight.errors import InputError

CLEAN, CORRUPTED, ANSWER = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6], [50, 7, 2]
PAIR = TokenPair(tuple(CLEAN), tuple(CORRUPTED), tuple(ANSWER), (51,))
SHORT = TokenPair((5, 6, 7), (5, 16, 7), (40, 41), (42,))


def read_off(logits: torch.Tensor) -> list[float]:
    return [float(logits[step].log_softmax(-1)[token]) for step, token in enumerate(ANSWER)]


def at_answer(model, plain_hook, component: str, layer: int, position: int) -> list[float]:
    """The oracle where a token of the answer is patched: both prompts with the answer behind them, one plain hook."""
    runs = [torch.tensor([[*prompt, *ANSWER[:-1]]]) for prompt in (CLEAN, CORRUPTED)]
    seen: list[torch.Tensor] = []
    handle = plain_hook(model, component, layer, lambda tensor: seen.append(tensor.detach().clone()))
    with torch.no_grad():
        model.hf(input_ids=runs[0])
    handle.remove()

    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[0, position] = seen[0][0, position]
        return tensor

    handle = plain_hook(model, component, layer, edit)
    with torch.no_grad():
        logits = model.hf(input_ids=runs[1]).logits[0, len(CLEAN) - 1 :]
    handle.remove()
    return read_off(logits)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bloom"])
@pytest.mark.parametrize("component", ["resid_pre", "mlp_out"])
def test_every_token_after_every_patch_is_that_of_a_teacher_forced_forward(
    component, name, tiny, oracle_forced, plain_hook
):
    model = tiny(name)
    found = sweep_steps(model, [PAIR], component=component)
    assert found.places[-2:] == ("answer_1", "answer_2")
    roles = found.alignments[0].roles
    for layer in range(2):
        for place, role in enumerate(found.places):
            if roles.count(role) == 1:
                position = roles.index(role)
                expected = read_off(oracle_forced(model, CLEAN, CORRUPTED, ANSWER, component, layer, position))
            elif role.startswith("answer_"):
                number = int(role[-1])
                expected = at_answer(model, plain_hook, component, layer, len(CLEAN) + number - 1)
                expected[:number] = [np.nan] * number  # chosen before the place was there
            else:
                continue
            np.testing.assert_allclose(found.values[0, layer, place], expected, rtol=1e-9, err_msg=role)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("component", ["resid_post", "head_out"])
def test_over_its_tokens_the_effects_add_up_to_those_on_the_whole_answer(component, direction, tiny):
    model = tiny("gpt2")
    found = sweep_steps(model, [PAIR, SHORT], component=component, direction=direction, memory=1 << 15)
    whole = sweep(model, [PAIR, SHORT], component=component, direction=direction, metric="logprob", positions="roles")
    prompt = found.values[..., : len(whole.columns), :]
    np.testing.assert_allclose(np.nansum(prompt, axis=-1), np.nan_to_num(whole.values), rtol=1e-9)
    np.testing.assert_allclose(np.nansum(found.clean, axis=1), whole.clean)
    np.testing.assert_allclose(found.gaps, whole.clean - whole.corrupted)
    shares = found.recovery(floor=-np.inf)[..., : len(whole.columns), :]
    np.testing.assert_allclose(np.nansum(shares, axis=-1), np.nan_to_num(whole.recovery(floor=-np.inf)), atol=1e-9)


@pytest.mark.parametrize("component", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_what_is_marked_as_structural_restores_its_token_and_nothing_else_does(component, tiny):
    # The prompts differ in their last token alone, then in an earlier one too.
    alone = TokenPair((1, 2, 3), (1, 2, 9), tuple(ANSWER), (51,))
    found = sweep_steps(tiny("gpt2"), [alone, PAIR], component=component)
    restored = np.isclose(found.values, found.clean[:, None, None], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.structural & np.isfinite(found.values), restored)
    assert restored.any() == component.startswith("resid")


def test_a_pair_without_a_place_or_a_token_has_none_of_it(tiny):
    found = sweep_steps(tiny("llama"), [PAIR, SHORT])
    assert np.isfinite(found.values[0, :, found.places.index("last")]).all()
    assert np.isnan(found.values[1, ..., 2]).all()
    assert np.isnan(found.values[1, :, found.places.index("answer_2")]).all()
    assert np.isfinite(found.values[1, :, found.places.index("answer_1"), 1]).all()
    assert np.isnan(found.recovery(floor=np.inf)).all()


def test_an_unknown_component_is_refused(tiny):
    with pytest.raises(InputError, match="trace-unknown-component"):
        sweep_steps(tiny("gpt2"), [PAIR], component="mlp")
