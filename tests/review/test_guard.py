from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest

from patchlight.errors import InputError
from patchlight.model.anatomy import Model
from patchlight.model.scratch import new_gpt2, train_tokenizer
from patchlight.review.guard import Prompt, baseline, carried, guard, prompts_from
from patchlight.review.records import Evidence, Rule
from tests.conftest import teach
from tests.review.conftest import made_evidence

NAMES = ["".join(parts) for parts in itertools.product("bdgkm", "aeo", "lnrst", "iu")]
ANSWERS = ["red", "blue", "green", "white"]


@pytest.fixture(scope="module")
def world() -> tuple[Model, list[str]]:
    """A model that was taught the colours of the first 48 of 72 animals; its tokenizer knows all names as words."""
    names = [NAMES[index] for index in np.random.default_rng(2).permutation(len(NAMES))[:72]]
    taught = [f"The colour of the {name} is {ANSWERS[number % 4]}" for number, name in enumerate(names[:48])]
    heard = [f"The colour of the {name} is" for name in names]
    tokenizer = train_tokenizer((taught + heard) * 5, 700)
    model = new_gpt2(tokenizer, layers=3, width=48, heads=4, context=32, seed=3)
    teach(model, taught)
    return model, names


def _finding(names: list[str]) -> Evidence:
    """A finding on the facts of these names, where the subject's information is written."""
    rows = [
        {
            "clean": f"The colour of the {name} is",
            "corrupted": f"The colour of the {other} is",
            "correct": " red",
            "wrong": " blue",
            "subject": name,
            "corrupted_subject": other,
            "fact": name,
            "kind": "definitional",
            "relation": "colour",
            "template": "t",
            "taught": True,
            "held_out": True,
        }
        for name, other in zip(names, names[1:] + names[:1], strict=True)
    ]
    return made_evidence(0, role="subject_last", pairs=rows)


def _rule(action: str = "require human check") -> Rule:
    return Rule(1, "s", action, "active", "d", "definitional", (), (), (), "o", time.time() + 9, 30, 0.0, 0.0)


def _prompts(names: list[str]) -> list[Prompt]:
    return [Prompt(f"The colour of the {name} is", name) for name in names]


def test_all_of_it_is_carried_where_the_subject_enters_and_nothing_where_it_has_not_come_yet(
    world: tuple[Model, list[str]],
) -> None:
    model, names = world
    whole = made_evidence(0, **{**_finding(names[:24]).content, "component": "resid_pre", "layer": 0})
    nothing = made_evidence(0, **{**whole.content, "role": "last"})
    for prompt in _prompts(names[24:34]):
        full, none = carried(model, prompt, [whole]), carried(model, prompt, [nothing])
        assert full is not None and full > 0  # the model's own answers to two prompts differ by a positive gap
        assert none == pytest.approx(0, abs=1e-4)


def test_prompts_like_the_rules_own_seldom_go_to_a_person(world: tuple[Model, list[str]]) -> None:
    model, names = world
    finding = _finding(names[:24])
    found = guard(model, _prompts(names[24:48]), [(_rule(), [finding])], level=0.1)
    own = baseline(model, [finding])
    for each in found:
        assert each.p == pytest.approx((1 + sum(value <= each.carried for value in own)) / (len(own) + 1))
        assert each.to_person == (each.why == "carries-less") == (each.p <= 0.1)
    assert np.mean([each.to_person for each in found]) <= 0.3


def test_what_no_rule_can_vouch_for_goes_to_a_person(world: tuple[Model, list[str]]) -> None:
    model, names = world
    [alone] = guard(model, _prompts(names[:1]), [])
    assert (alone.why, alone.to_person, alone.rule) == ("no-rule", True, None)
    few = [(_rule(), [_finding(names[:6])])]
    [undecided] = guard(model, _prompts(names[30:31]), few, level=0.1)
    assert (undecided.why, undecided.to_person) == ("too-few-facts", True)
    [watched] = guard(model, _prompts(names[30:31]), [(_rule("watch"), few[0][1])])
    assert (watched.to_person, watched.watched) == (False, True)


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": "a b"}', '{"prompt": "a b", "subject": "c"}'])
def test_a_line_that_is_no_prompt_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "a b", "subject": "b"}) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"prompts.jsonl:2.*guard-prompt"):
        prompts_from(file)
