"""What of a study's sweeps goes into the comparison of its kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchlight.records import Pair
from patchlight.study.contrast import kinds_compared
from patchlight.study.results import Question, SweepResult
from patchlight.study.spec import Study, read_study
from patchlight.study.view import KindView

FACTS, LAYERS = 12, 3
ROLES = {"definitional": ("before", "subject_last", "last"), "associative": ("subject_last", "relation", "last")}


def view(study: Study, kind: str, seed: int, components: tuple[str, ...] = ("mlp_out",), **of_view: object) -> KindView:
    """Twelve facts in two wordings; what is measured is 1 higher in the clean run than is recovered anywhere."""
    random = np.random.default_rng(seed)
    questions = tuple(
        Question(
            Pair("", "", "", "", fact=f"{kind} {i:02d}", kind=kind, partner=f"{kind} {(i + 1) % FACTS:02d}"),
            clean=2.0, corrupted=-2.0, words=("a",) * 3, corrupted_words=("b",) * 3, roles=ROLES[kind], differing=(0,),
            answer_tokens=1 + i % 2,
        )
        for i in range(FACTS)
        for _ in range(2)
    )  # fmt: skip
    values = random.normal(-1, 0.3, (2 * FACTS, LAYERS, 3))
    sweeps = tuple(
        SweepResult(component, "denoise", "", values, np.zeros(values.shape, dtype=bool)) for component in components
    )
    return KindView(study, kind, questions, sweeps, **of_view)


@pytest.fixture
def read(study: Path) -> Study:
    return read_study(study)


def test_kinds_are_compared_at_the_roles_that_both_have_as_shares_of_each_facts_gap(read: Study) -> None:
    first, second = view(read, "definitional", 0), view(read, "associative", 1)
    (found,) = kinds_compared([first, second], seed=0)
    assert (found.component, found.roles) == ("mlp_out", ("subject_last", "last"))
    contrast = found.contrast
    assert contrast.kinds == ("definitional", "associative")
    assert (contrast.facts, contrast.matched) == ((FACTS, FACTS), FACTS)
    assert [each.name for each in contrast.balance] == ["answer_tokens", "clean_metric", "corruption_size"]
    assert contrast.cell is not None
    assert contrast.difference is not None
    layer, role = contrast.cell
    means = [
        (each.sweeps[0].values[:, layer, each.questions[0].roles.index(found.roles[role])] + 2).mean() / 4
        for each in (first, second)
    ]
    assert contrast.difference.estimate == pytest.approx(means[0] - means[1])


def test_a_kind_that_was_not_swept_is_not_compared(read: Study) -> None:
    swept, other = view(read, "definitional", 0), view(read, "associative", 1, components=())
    assert kinds_compared([swept, other], seed=0) == ()
    assert kinds_compared([swept, KindView(read, "associative", (), ())], seed=0) == ()
    assert kinds_compared([swept], seed=0) == ()


def test_where_texts_were_read_facts_are_matched_on_how_often_these_name_the_answer(read: Study) -> None:
    """One kind is named far more often: without the texts all match, with them none does."""
    kinds = ("definitional", "associative")
    often = {f"{kind} {i:02d}": (1000 if kind == kinds[0] else 10) + i for kind in kinds for i in range(FACTS)}
    (found,) = kinds_compared([view(read, kind, turn, mentions=often) for turn, kind in enumerate(kinds)], seed=0)
    assert (found.contrast.matched, found.contrast.dropped) == (0, (FACTS, FACTS))
    assert found.contrast.outcome == "too-few-matched"
    alike = dict.fromkeys(often, 7)
    (found,) = kinds_compared([view(read, kind, turn, mentions=alike) for turn, kind in enumerate(kinds)], seed=0)
    assert (found.contrast.matched, found.contrast.dropped) == (FACTS, (0, 0))
    assert found.contrast.balance[-1].name == "answer_frequency"
