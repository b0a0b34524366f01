"""Splitting a corpus: whole documents, no text on two sides, the same way for the same seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.corpus.split import split
from patchlight.errors import InputError
from patchlight.records import Document

REPEATS = st.lists(st.integers(1, 3), min_size=20, max_size=30)  # how often each text comes


def documents(texts: list[str]) -> list[Document]:
    return [Document(id=str(index), text=text) for index, text in enumerate(texts)]


@given(REPEATS, st.integers(0, 2**32 - 1))
def test_no_text_is_on_two_sides_and_no_document_is_lost(repeats: list[int], seed: int) -> None:
    texts = [f"text {number}" for number, times in enumerate(repeats) for _ in range(times)]
    whole = documents([text.upper() + "  " if index % 3 else text for index, text in enumerate(texts)])
    parts = split(whole, validation=0.2, held_out=0.1, seed=seed)
    sides = [parts.train, parts.validation, parts.held_out]
    assert sorted((d for side in sides for d in side), key=lambda d: int(d.id)) == whole
    texts_of = [{d.text.strip().lower() for d in side} for side in sides]
    assert not (texts_of[0] & texts_of[1] or texts_of[0] & texts_of[2] or texts_of[1] & texts_of[2])


def test_the_shares_are_reached_where_no_text_repeats() -> None:
    parts = split(documents([f"text {i}" for i in range(100)]), validation=0.2, held_out=0.05, seed=42)
    assert (len(parts.train), len(parts.validation), len(parts.held_out)) == (75, 20, 5)


def test_the_seed_decides() -> None:
    whole = documents([f"text {i}" for i in range(100)])
    assert split(whole, seed=1) == split(whole, seed=1)
    assert split(whole, seed=1) != split(whole, seed=2)


def test_spacing_case_and_unicode_form_do_not_make_another_text() -> None:
    same = ["Ｇａｍｍａ  wave", "gamma wave", "Gamma\nwave"]
    for seed in range(20):
        parts = split(documents(same + [f"text {i}" for i in range(10)]), validation=0.3, seed=seed)
        assert len({d.id in {v.id for v in parts.validation} for d in documents(same)}) == 1


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.6, 0.4), (-0.1, 0.0)])
def test_shares_that_leave_nothing_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="split-shares"):
        split(documents(["a", "b", "c"]), validation=shares[0], held_out=shares[1], seed=0)


def test_a_side_that_would_stay_empty_is_refused() -> None:
    for texts in ([], ["a"], ["a", "A", "a "]):
        with pytest.raises(InputError, match="split-too-few"):
            split(documents(texts), seed=0)
