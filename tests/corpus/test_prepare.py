"""Preparing a corpus: what is dropped and why, a split without leaks, a card that adds up, nothing half done."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchlight.cli.main import execute
from patchlight.corpus import examine
from patchlight.corpus.alike import near_duplicates, signature, similar_pairs
from patchlight.corpus.card import Card
from patchlight.corpus.clean import clean, compared, language
from patchlight.corpus.files import read_documents
from patchlight.corpus.prepare import Preparation, prepare
from patchlight.corpus.split import recorded
from patchlight.corpus.terms import TermCounter
from patchlight.errors import InputError
from patchlight.run.progress import Progress

PROSE = (
    "the patients were treated with a new drug and their seizures became rare while epilepsy stayed in most of them "
    "after surgery of the temporal lobe many children had fewer attacks than before because sleep improved under this "
    "therapy doctors measured brain waves each night results show that memory was not worse at follow up of five years"
)
WORDS = PROSE.split()
GERMAN = (
    "Die Patienten wurden mit einem neuen Medikament behandelt, und ihre Anfälle wurden seltener, während die Ärzte "
    "jede Nacht die Hirnströme gemessen haben."
)


def texts(number: int, seed: int = 0) -> list[list[str]]:
    """Different texts of 60 English words, as lists of words."""
    chance = random.Random(seed)
    return [chance.choices(WORDS, k=60) for _ in range(number)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(written: list[list[str]], first: int = 1000) -> list[dict[str, Any]]:
    return [{"pmid": first + n, "text": " ".join(words) + "."} for n, words in enumerate(written)]


def make(rows: list[dict[str, Any]], folder: Path, **choice: Any) -> Card:
    source = write(folder / "rows.jsonl", rows)
    return prepare([source], folder / "made", Preparation(**choice), progress=Progress())


def test_each_record_is_kept_or_dropped_for_one_reason(tmp_path: Path) -> None:
    rows = rows_of(texts(40))
    rows += [{"pmid": 1, "text": ""}, {"pmid": 2, "text": "Short."}, {"pmid": 3, "text": "word " * 300}]
    rows += [{"pmid": 4, "text": GERMAN}, {"pmid": 5, "text": rows[0]["text"].upper() + "  "}]
    near = rows[1]["text"].split()
    rows.append({"pmid": 6, "text": " ".join([*near[:-2], "otherwise", near[-1]])})
    card = make(rows, tmp_path, longest=1000)
    dropped = {reason: each.examples for reason, each in card.dropped.items()}
    assert dropped == {
        "no-text": ["1"],
        "too-short": ["2"],
        "too-long": ["3"],
        "language": ["4"],
        "same-text": ["5"],
        "near-duplicate": ["6 (like 1001)"],
    }
    assert card.read == 46 == card.kept + sum(each.count for each in card.dropped.values())
    assert [document.id for document in read_documents([tmp_path / "made"])] == [str(1000 + n) for n in range(40)]


def test_kin_are_on_one_side_and_the_shares_are_reached(tmp_path: Path) -> None:
    """Half-alike texts, passages of one article (same PMID), and texts that share a long sentence."""
    rows = rows_of(texts(200))
    kin: list[set[str]] = []
    for n in range(30):
        words = rows[n]["text"].split()
        half = " ".join(words[:48] + random.Random(n).choices(WORDS, k=12))
        rows.append({"pmid": 2000 + n, "text": half})
        kin.append({str(1000 + n), str(2000 + n)})
    for n in range(30, 60):
        sentence = " ".join(random.Random(n).sample(WORDS, 20)) + ". "
        others = texts(2, seed=n)
        rows += [
            {"pmid": pmid + n, "text": f"{' '.join(words)}. {sentence}"}
            for pmid, words in zip((3000, 4000), others, strict=True)
        ]
        kin.append({str(3000 + n), str(4000 + n)})
    rows += rows_of(texts(30, seed=5), first=1100)  # PMIDs that are there already
    make(rows, tmp_path, validation=0.2, held_out=0.1)
    documents = list(read_documents([tmp_path / "made"]))
    sides: dict[str, set[str]] = {}
    for document in documents:
        sides.setdefault(document.id, set()).add(document.part)
    assert all(len(of_id) == 1 for of_id in sides.values())
    assert all(len(set.union(*(sides[member] for member in family))) == 1 for family in kin)
    counts = Counter(document.part for document in documents)
    assert abs(counts["validation"] - 0.2 * len(documents)) <= 2
    assert abs(counts["held_out"] - 0.1 * len(documents)) <= 2


def test_nothing_that_may_be_passed_on_holds_a_text(tmp_path: Path) -> None:
    rows = rows_of(texts(40))
    make(rows, tmp_path, terms=("epilepsy", "seizure"))
    names = sorted(file.name for file in (tmp_path / "made").iterdir())
    assert names == ["card.json", "card.md", "documents.parquet", "manifest.csv"]
    for name in ("card.json", "card.md", "manifest.csv"):
        told = (tmp_path / "made" / name).read_text()
        assert not any(" ".join(row["text"].split()[:3]) in told for row in rows)
    with (tmp_path / "made" / "manifest.csv").open(newline="") as stream:
        manifest = list(csv.DictReader(stream))
    assert [row["id"] for row in manifest] == [str(row["pmid"]) for row in rows]


def test_the_same_input_gives_the_same_files_with_one_process_or_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "FEW", 20)  # so that 100 texts are many
    monkeypatch.setattr(examine, "CHUNK", 7)
    source = write(tmp_path / "rows.jsonl", [*rows_of(texts(100)), *rows_of(texts(9), first=9000)])
    for workers in (1, 2):
        choice = Preparation(terms=("epilepsy",))
        prepare([source], tmp_path / str(workers), choice, progress=Progress(), workers=workers)
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()


def test_a_study_takes_the_recorded_split(tmp_path: Path) -> None:
    make(rows_of(texts(50)), tmp_path, validation=0.3)
    documents = list(read_documents([tmp_path / "made"]))
    parts = recorded(documents)
    assert parts is not None
    assert [len(parts.train), len(parts.validation), len(parts.held_out)] == [35, 15, 0]
    assert recorded(list(read_documents([tmp_path / "rows.jsonl"]))) is None
    mixed = [*documents, *read_documents([tmp_path / "rows.jsonl"])]
    with pytest.raises(InputError, match="split-mixed"):
        recorded(mixed)


def test_damage_stops_the_work_unless_what_precedes_it_is_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", rows_of(texts(50)))
    source.write_text(source.read_text() + '{"text": ')
    with pytest.raises(InputError, match="corpus-json") as refused:
        prepare([source], tmp_path / "made", Preparation(), progress=Progress())
    assert refused.value.fix.endswith("--keep-before-damage goes on with the 50 records before it")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    card = prepare([source], tmp_path / "made", Preparation(keep_before_damage=True), progress=Progress())
    assert card.kept == 50
    assert "corpus-json" in card.sources[0].stopped
    assert "rows.jsonl:51" in (tmp_path / "made" / "card.md").read_text()


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", rows_of(texts(3)))
    (tmp_path / "taken").mkdir()
    for folder, choice, code in [
        ("taken", {}, "corpus-folder-taken"),
        ("made", {"shortest": 5000}, "corpus-nothing-left"),
        ("made", {"held_out": 0.9, "validation": 0.2}, "split-shares"),
        ("made", {"language": "klingon"}, "corpus-language"),
        ("made", {"near": 0.2}, "corpus-limits"),
        ("made", {"terms": ("a*b",)}, "corpus-term"),
        ("made", {"validation": 0.01}, "split-too-few"),
    ]:
        with pytest.raises(InputError, match=code):
            prepare([source], tmp_path / folder, Preparation(**choice), progress=Progress())  # type: ignore[arg-type]


def test_the_command_tells_what_was_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "rows.jsonl", [*rows_of(texts(50)), {"text": "Short."}])
    arguments = ["corpus", "prepare", str(source), "--out", str(tmp_path / "made"), "--term", "seizure", "--json"]
    assert execute(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kept"], told["dropped"]["too-short"]["count"], told["terms"][0]["term"]) == (50, 1, "seizure")
    assert execute(arguments) == 3


@pytest.mark.parametrize("share", [0.95, 0.8, 0.65, 0.5])
def test_the_estimated_similarity_is_the_jaccard_similarity(share: float) -> None:
    """Against the exact one, within four standard errors of 128 permutations."""
    chance = random.Random(1)
    words = [f"w{chance.random():.8f}" for _ in range(400)]
    other = words[: int(400 * share)] + [f"w{chance.random():.8f}" for _ in range(400 - int(400 * share))]
    sets = [{tuple(part[at : at + 5]) for at in range(396)} for part in (words, other)]
    exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    both = np.stack([signature(compared(" ".join(part))) for part in (words, other)])
    pairs, likeness = similar_pairs(both, 0.0)
    if exact > 0.6:
        assert pairs.tolist() == [[0, 1]]
        assert abs(likeness[0] - exact) < 4 * (exact * (1 - exact) / 128) ** 0.5
    assert similar_pairs(both, 1.0)[0].tolist() == []


def test_a_document_is_dropped_only_for_one_that_is_kept() -> None:
    """A like B, B like C, A unlike C: B goes, C stays."""
    assert near_duplicates(np.array([[0, 1], [1, 2]]), 4).tolist() == [-1, 0, -1, -1]


def test_japanese_texts_are_compared_by_characters() -> None:
    text = "てんかんは脳の神経細胞の過剰な放電によって反復性の発作を生じる慢性の疾患である。" * 3
    other = "鋳造品の引け巣は凝固収縮によって生じる欠陥であり湯口の位置と冷却速度に左右される。" * 3
    stack = np.stack([signature(compared(part)) for part in (text, text.replace("慢性", "長期"), other)])
    assert similar_pairs(stack, 0.5)[0].tolist() == [[0, 1]]
    assert (language(text), language(GERMAN)) == ("ja", "de")
    assert language("1.020 ± 0.042 1.035 ± 0.049 n21 n21") == "und"


def test_cleaning_keeps_what_a_text_says() -> None:
    assert clean("a\u00a0b\u2009c\u200b\u00ad\x00\x07d\r\n\r\n e\tf ") == "a b cd\ne f"
    assert clean("10⁵ and ½ of 5 µg") == "10⁵ and ½ of 5 µg"
    assert clean("e\u0301pilepsie") == "épilepsie"
    assert compared("Ｇａｍｍａ  \nWave") == "gamma wave"


@pytest.mark.parametrize(
    ("term", "text", "documents", "mentions"),
    [
        ("seizure", "Seizures, a seizure; seizure-free. Seizured", 1, 3),
        ("epilepsy", "Epilepsies and EPILEPSY, not epileptic", 1, 2),
        ("EEG", "EEGs, the EEG, an iEEG and ＥＥＧ", 1, 3),
        ("status epilepticus", "Status\nepilepticus", 1, 1),
        ("epilep*", "antiepileptic epileptic epilepsy", 1, 2),
        ("*epilep*", "antiepileptic epileptic epilepsy", 1, 3),
        ("ray", "rays and raies", 1, 1),
        ("C++", "C++ and C", 1, 1),
        ("epilepsy", "none here", 0, 0),
    ],
)
def test_terms_are_counted_by_the_stated_rule(term: str, text: str, documents: int, mentions: int) -> None:
    counter = TermCounter([term])
    counter.add("", text)
    [count] = counter.counts()
    assert (count.documents, count.mentions) == (documents, mentions)


@pytest.mark.shared
def test_term_counts_are_those_that_came_with_the_real_abstracts(shared_data: Path) -> None:
    """Its README counted any occurrence, in title and text."""
    terms = ["*epilep*", "*seizure*", "*carbamazepine*", "*valpro*", "*hippocamp*", "EEG", "*electroencephalogra*"]
    counter = TermCounter(terms)
    for document in read_documents([shared_data / "pubmed_epilepsy.jsonl.gz"]):
        counter.add(document.title, document.text)
    told = [(count.mentions, count.documents) for count in counter.counts()]
    assert told[:5] == [(4765, 1692), (3765, 1506), (244, 104), (299, 135), (603, 284)]
    assert told[5][0] + told[6][0] == 2236
