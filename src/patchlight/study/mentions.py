"""How often the training texts name the answer of each fact, so that kinds are compared at equal frequency."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from patchlight.packs.spec import Pack
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.spec import Study
from patchlight.study.stages import TEXTS, pack_digest


def mentions_unit(study: Study, pack: Pack, texts: Artifact) -> Unit:
    """Table `mentions`: for each fact, the documents trained on that name its first answer, by `corpus.terms.RULE`.

    In Japanese, where words are not set apart, an answer is named wherever its characters stand.
    """
    language = study.spec.language

    def work(_: Workplace) -> Result:
        from patchlight.corpus.terms import TermCounter

        facts = pack.facts(language)
        terms = {fact.id: _term(fact.answers[0], language) for fact in facts}
        counter = TermCounter(terms.values())
        documents = texts.table("documents")
        for row in documents[documents.part == "train"].itertuples():
            counter.add("", str(row.text))
        found = {count.term: count.documents for count in counter.counts()}
        rows = [{"fact": fact, "documents": found[term]} for fact, term in terms.items()]
        return Result(parts={"mentions": pd.DataFrame(rows)})

    inputs = {"texts": texts.digest, "pack": pack_digest(pack), "language": language}
    return Unit("mentions", "how often the texts name the answers", inputs, work, (*TEXTS, "study/mentions.py"))


def mentions_of(counted: Artifact) -> Mapping[str, int]:
    """The documents that name the answer of each fact, by fact."""
    table = counted.table("mentions")
    return dict(zip(table.fact.astype(str), table.documents.astype(int).tolist(), strict=True))


def _term(answer: str, language: str) -> str:
    """An answer as a term to count: its own stars are no open ends, and Japanese words are open at both."""
    plain = answer.replace("*", " ").strip()
    return f"*{plain}*" if language == "ja" else plain
