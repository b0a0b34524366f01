"""Facts proposed from a corpus rest on its sentences, and only what a person accepts enters a pack."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import pytest

from patchlight.corpus.adopt import adopt, suggestions_text
from patchlight.corpus.suggest import suggest
from patchlight.errors import InputError
from patchlight.packs.check import check_pack
from patchlight.packs.read import read_pack
from patchlight.packs.skeleton import skeleton
from patchlight.records import Document

TEXTS = [
    "Epilepsy is a common neurological disorder. Other sentences say little.",
    "Anticonvulsants such as carbamazepine are old. We think that epilepsy is a neurological disorder of the brain.",
    "Infantile spasms were treated with vigabatrin. Anticonvulsants, including valproate, were given.",
    "Fever was caused by influenza. Rett syndrome is associated with regression.",
    *(f"In {word}, gingival hyperplasia was noted; phenytoin had been given." for word in ("one", "two", "three")),
    *(f"In series {word} nothing of note was found in anyone at all." for word in "abcdefghijklmnopqrstuvwxyz"),
]
DOCUMENTS = [Document(str(100 + number), text) for number, text in enumerate(TEXTS)]


def test_definitions_and_relations_are_proposed_with_their_sentences() -> None:
    found = {(each.relation, each.subject, each.answer): each for each in suggest(DOCUMENTS)}
    disorder = found["is_a", "epilepsy", "neurological disorder"]
    assert [(each.document, each.sentence) for each in disorder.support] == [("100", 0), ("101", 1)]
    assert disorder.kind == "definitional"
    assert {
        ("is_a", "carbamazepine", "anticonvulsants"),
        ("is_a", "valproate", "anticonvulsants"),
        ("treatment", "infantile spasms", "vigabatrin"),
        ("cause", "fever", "influenza"),
        ("association", "rett syndrome", "regression"),
    } <= set(found)


def test_terms_that_keep_company_are_proposed_with_their_log_likelihood() -> None:
    [company] = [
        each for each in suggest(DOCUMENTS) if each.subject == "gingival hyperplasia" and each.answer == "phenytoin"
    ]
    together, one, other, total = 3, 3, 3, sum(text.count(". ") + 1 for text in TEXTS)
    assert company.score == pytest.approx(_g_test(together, one, other, total), abs=0.06)
    assert len(company.support) == 3


def _g_test(together: int, one: int, other: int, total: int) -> float:
    from scipy.stats import chi2_contingency

    table = [[together, one - together], [other - together, total - one - other + together]]
    return float(chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic)


JAPANESE = [
    "渦巻ポンプは、羽根車の回転で力を与える遠心ポンプの一種である。軸受の焼付きは潤滑油の不足によって生じることが多い。",
    "キャビテーションによる羽根車の壊食がみられた。グランドパッキン等の軸封装置は定期的に替える。",
    "吸込不良の主な原因は空気の混入である。水漏れの対策としては、ボルトの増締めが挙げられる。キャビテーションとは気泡である。",
    *(f"第{word}号機ではサージングがみられ、吐出弁を絞った。" for word in "一二三"),
    *(f"第{word}回の点検では何も認められなかった。" for word in "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉"),
]


def test_a_japanese_corpus_is_read_in_japanese(tmp_path: Path) -> None:
    found = suggest([Document(str(number), text) for number, text in enumerate(JAPANESE, 1)])
    assert {(each.relation, each.subject, each.answer) for each in found} == {
        ("is_a", "渦巻ポンプ", "遠心ポンプ"),
        ("is_a", "グランドパッキン", "軸封装置"),
        ("is_a", "キャビテーション", "気泡"),
        ("cause", "軸受の焼付き", "潤滑油の不足"),
        ("cause", "羽根車の壊食", "キャビテーション"),
        ("cause", "吸込不良", "空気の混入"),
        ("treatment", "水漏れ", "ボルトの増締め"),
        ("company", "サージング", "吐出弁"),
    }
    burnt = next(each for each in found if each.subject == "軸受の焼付き")
    assert [(each.document, each.sentence) for each in burnt.support] == [("1", 1)]
    pack, suggestions = tmp_path / "pack.yaml", tmp_path / "suggestions.yaml"
    pack.write_text(skeleton("ja"), encoding="utf-8")
    told = suggestions_text(found, "ja").replace("status: proposed", "status: accepted")
    suggestions.write_text(told, encoding="utf-8")
    adopt(suggestions, pack)
    read = read_pack(pack)
    asked = {(fact.subject, fact.answers): read.templates(fact.relation, "ja") for fact in read.facts("ja")}
    assert asked["吸込不良", ("空気の混入",)][0].fill("吸込不良") == "吸込不良の主な原因は"
    assert {(each.subject, (each.answer,)) for each in found} <= set(asked)
    assert not any(each.severity == "error" for each in check_pack(read))


@pytest.mark.parametrize("piece", ["割", "割れ", "軸の", "軸とは", "割れや", "等の", "あ割", "A"])
def test_endless_japanese_takes_no_endless_time(piece: str) -> None:
    begun = process_time()
    suggest([Document("1", "軸は" + piece * 10_000)])
    assert process_time() - begun < 20


def test_a_sentence_said_twice_counts_once() -> None:
    doubled = suggest([*DOCUMENTS, Document("999", TEXTS[0])])
    assert doubled == suggest(DOCUMENTS)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    pack, suggestions = tmp_path / "pack.yaml", tmp_path / "suggestions.yaml"
    pack.write_text(skeleton("en"), encoding="utf-8")
    suggestions.write_text(suggestions_text(suggest(DOCUMENTS), "en"), encoding="utf-8")
    return suggestions, pack


def accept(suggestions: Path, *subjects: str) -> None:
    blocks = suggestions.read_text(encoding="utf-8").split("  - id: ")
    chosen = [
        block.replace("status: proposed", "status: accepted")
        if any(f'subject: "{name}"' in block for name in subjects)
        else block
        for block in blocks
    ]
    suggestions.write_text("  - id: ".join(chosen), encoding="utf-8")


def test_nothing_enters_a_pack_unseen(files: tuple[Path, Path]) -> None:
    before = files[1].read_bytes()
    with pytest.raises(InputError, match="suggestions-none-accepted"):
        adopt(*files)
    assert files[1].read_bytes() == before


def test_only_the_accepted_enter_and_comments_stay(files: tuple[Path, Path]) -> None:
    accept(files[0], "epilepsy", "fever")
    assert len(adopt(*files)) == 2
    pack = read_pack(files[1])
    added = {(fact.relation, fact.subject, fact.answers) for fact in pack.facts()[10:]}
    assert added == {("is_a", "epilepsy", ("neurological disorder",)), ("cause", "fever", ("influenza",))}
    assert pack.file.sources["corpus_100"] == "PMID 100, sentence 0."
    assert "# The facts. A question is corrupted" in files[1].read_text(encoding="utf-8")
    assert not any(each.severity == "error" for each in check_pack(pack))


def test_a_suggestion_that_would_spoil_the_pack_leaves_it_as_it_was(files: tuple[Path, Path]) -> None:
    accept(files[0], "epilepsy")
    text = files[0].read_text(encoding="utf-8").replace('answer: "neurological disorder"', 'answer: "epilepsy"')
    files[0].write_text(text, encoding="utf-8")
    before = files[1].read_bytes()
    with pytest.raises(InputError, match="pack-answer-in-prompt"):
        adopt(*files)
    assert files[1].read_bytes() == before


def test_a_misspelt_status_is_told_with_its_place(files: tuple[Path, Path]) -> None:
    files[0].write_text(
        files[0].read_text(encoding="utf-8").replace("status: proposed", "status: acepted", 1), encoding="utf-8"
    )
    with pytest.raises(InputError, match="did you mean 'accepted'"):
        adopt(*files)
