"""The packs that come with Patchlight: counts, sources, and kinds matched in answer length."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from patchlight.packs.check import check_pack
from patchlight.packs.read import builtin_packs, parse_pack, read_pack


@pytest.mark.parametrize("name", builtin_packs())
def test_every_built_in_pack_checks_clean(name: str) -> None:
    assert [str(problem) for problem in check_pack(parse_pack(name))] == []


@pytest.mark.parametrize(
    ("name", "language", "fewest"), [("epilepsy", "en", 120), ("common", "en", 200), ("castings-ja", "ja", 60)]
)
def test_the_built_in_packs_are_large_enough(name, language, fewest) -> None:
    assert len(read_pack(name).facts(language)) >= fewest


def test_the_kinds_of_the_epilepsy_pack_are_of_about_one_size() -> None:
    kinds = Counter(fact.kind for fact in read_pack("epilepsy").facts())
    assert min(kinds.values()) / sum(kinds.values()) > 0.45


def test_sixty_facts_of_each_kind_match_in_answer_length(shared_data: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(shared_data / "tokenizer" / "tokenizer.json"))
    lengths: dict[str, Counter[int]] = {"definitional": Counter(), "associative": Counter()}
    for fact in read_pack("epilepsy").facts():
        lengths[fact.kind][len(tokenizer(f" {fact.answers[0]}")["input_ids"])] += 1
    assert (lengths["definitional"] & lengths["associative"]).total() >= 60


def test_sixty_facts_about_castings_hold_under_a_condition() -> None:
    pack = read_pack("castings-ja")
    assert sum(bool(fact.condition) for fact in pack.facts("ja")) >= 60
    assert all(term.en and term.ja for term in pack.file.terms.values())


@pytest.mark.parametrize("name", builtin_packs())
def test_what_rests_on_general_knowledge_waits_for_a_review(name: str) -> None:
    facts = parse_pack(name).file.facts
    assert [fact.id for fact in facts if fact.source == "general" and fact.reviewed] == []
