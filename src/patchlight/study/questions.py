"""The questions of a study: the pack's pairs as one model answers them, what takes part and what does not."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from patchlight.packs.spec import Pack
from patchlight.pairs.align import align
from patchlight.pairs.alternatives import Unscored
from patchlight.pairs.answers import counts_sets
from patchlight.pairs.build import Built, build_pairs
from patchlight.pairs.halves import deal_halves
from patchlight.pairs.screen import Screened, known_facts, screen
from patchlight.pairs.stored import pair_of
from patchlight.pairs.twins import build_twins
from patchlight.records import Pair
from patchlight.store.results import Artifact, Result
from patchlight.study.results import Question
from patchlight.study.spec import Study
from patchlight.study.stages import seed_of

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

ONE_WORDING = "fact answered in one wording only"
NEVER_TAUGHT = "never taught: asked as a control"
OVER_LIMIT = "over the study's limit of pairs for a kind"
EXAMPLES = 3
LEFT_OUT_COLUMNS = [
    "fact",
    "kind",
    "relation",
    "template",
    "clean",
    "reason",
    "clean_metric",
    "corrupted_metric",
]


def ask(study: Study, pack: Pack, model: Model, on_progress: Callable[[int, int], None]) -> Result:
    """The pairs that a model answers, and all that it was not asked or does not answer.

    Meta `pairs`: every pair the model answers, `swept` true where it takes part in the sweeps; `known`: facts known
    in two wordings, of those asked, by kind and by whether they were taught; `facts`: each of them;
    `gap_unclear`: kinds whose mean gap over all facts asked is not told from 0; `unscored`: further answers that
    questions do without although a metric of the study counts them, by reason.
    Table `left_out`: every other question, with its reason.
    """
    spec = study.spec
    built = built_pairs(study, pack, model)
    screened = screen(
        model,
        built.pairs,
        metrics=spec.sweep.metrics,
        floor=spec.gap_floor,
        distractors=_distractors(study, pack),
        on_progress=on_progress,
    )
    known = known_facts(screened)
    chosen = chosen_pairs([pair for pair in screened.kept if pair.fact in known], spec.pairs.max_per_kind, spec.seed)
    pairs = [
        {
            **dataclasses.asdict(pair),
            "clean_metric": float(clean),
            "corrupted_metric": float(corrupted),
            "swept": pair in chosen,
            **_tokens(model, pair),
        }
        for pair, clean, corrupted in zip(screened.kept, screened.clean, screened.corrupted, strict=True)
    ]
    meta = {
        "known": _known_counts(built, known, known_facts(screened, taught=False)),
        "facts": _facts(built, known | known_facts(screened, taught=False)),
        "unscored": _unscored(built.unscored) if counts_sets(spec.sweep.metrics) else [],
        "gap_unclear": [each.kind for each in screened.knowledge.values() if each.gap is None or each.gap.low <= 0],
    }
    left_out = _left_out(built, screened, known, chosen)
    return Result({**meta, "pairs": pairs}, {"left_out": left_out})


def questions_of(asked: Artifact) -> list[Question]:
    """The pairs of a stored `ask` that take part in the sweeps."""
    return [
        Question(
            pair_of(row),
            row["clean_metric"],
            row["corrupted_metric"],
            **{name: tuple(row[name]) for name in ("words", "corrupted_words", "roles", "differing")},
            answer_tokens=row["answer_tokens"],
        )
        for row in asked.meta["pairs"]
        if row["swept"]
    ]


def _tokens(model: Model, pair: Pair) -> dict[str, Any]:
    alignment = align(model.tokenizer, pair)
    read = {name: list(getattr(alignment, name)) for name in ("words", "corrupted_words", "roles", "differing")}
    return {**read, "answer_tokens": len(alignment.correct_ids)}


def built_pairs(study: Study, pack: Pack, model: Model) -> Built:
    """The pairs of a study's relations with their halves, and what was refused; only the model's tokenizer is read."""
    spec = study.spec
    halves = deal_halves(
        pack,
        model.tokenizer,
        seed=seed_of(study, "halves"),
        language=spec.language,
        relations=spec.pairs.relations,
        swap=spec.pairs.swap,
    )
    build = (
        partial(build_pairs, seed=spec.seed)
        if spec.pairs.swap == "subject"
        else partial(build_twins, swap=spec.pairs.swap)
    )
    built = build(
        pack,
        model.tokenizer,
        language=spec.language,
        templates_per_fact=spec.pairs.templates_per_fact,
        halves=halves,
    )
    wanted = set(spec.pairs.relations) or {relation.id for relation in pack.file.relations}
    of_fact = {entry.id: entry.relation for entry in pack.file.facts}
    composed = spec.corpus is not None and spec.corpus.compose is not None
    # "Never taught" is known only of a corpus that the study wrote itself.
    pairs = [pair if composed else dataclasses.replace(pair, taught=True) for pair in built.pairs]
    return Built(
        [pair for pair in pairs if pair.relation in wanted],
        [refusal for refusal in built.refused if of_fact.get(refusal.fact) in wanted],
        [each for each in built.unscored if of_fact.get(each.fact) in wanted],
    )


def _unscored(answers: Sequence[Unscored]) -> list[dict[str, Any]]:
    """By reason how many questions do without an answer, and some of these answers."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for each in answers:
        by_reason[each.reason].append(each.answer)
    return [
        {"reason": reason, "count": len(words), "examples": list(dict.fromkeys(words))[:EXAMPLES]}
        for reason, words in by_reason.items()
    ]


def _distractors(study: Study, pack: Pack) -> dict[str, list[str]]:
    """The distractors of each fact as continuations, where the study asks for them.

    A first metric that counts them among the wrong answers asks for more: all together have to be less likely.
    """
    spec = study.spec
    space = " " if spec.language == "en" else ""
    asked = spec.pairs.distractors and not counts_sets(spec.sweep.metrics[:1])
    facts = pack.facts(spec.language) if asked else []
    return {fact.id: [space + word for word in fact.distractors] for fact in facts}


def chosen_pairs(pairs: Sequence[Pair], limit: int, seed: int) -> set[Pair]:
    """At most `limit` pairs of each kind, spread evenly over halves and facts: second wordings after all the first."""
    turns: dict[str, list[tuple[int, int, Pair]]] = defaultdict(list)
    seen: Counter[str] = Counter()
    turn_of_half: Counter[tuple[str, str, int]] = Counter()
    order = np.random.default_rng(seed).permutation(len(pairs))
    for rank in order:
        pair = pairs[rank]
        wording = pair.kind, pair.half, seen[pair.fact]
        turns[pair.kind].append((seen[pair.fact], turn_of_half[wording], pair))
        seen[pair.fact] += 1
        turn_of_half[wording] += 1
    return {pair for of_kind in turns.values() for _, _, pair in sorted(of_kind, key=lambda turn: turn[:2])[:limit]}


def _known_counts(built: Built, taught: set[str], untaught: set[str]) -> list[dict[str, Any]]:
    counts = []
    for kind in dict.fromkeys(pair.kind for pair in built.pairs):
        for was_taught, known in ((True, taught), (False, untaught)):
            asked = {pair.fact for pair in built.pairs if (pair.kind, pair.taught) == (kind, was_taught)}
            if asked:
                counts.append({"kind": kind, "taught": was_taught, "known": len(asked & known), "total": len(asked)})
    return counts


def _facts(built: Built, known: set[str]) -> list[dict[str, Any]]:
    """Every fact that was asked, and whether it is known."""
    asked = dict.fromkeys((pair.fact, pair.kind, pair.taught) for pair in built.pairs)
    return [{"fact": fact, "kind": kind, "taught": taught, "known": fact in known} for fact, kind, taught in asked]


def _left_out(built: Built, screened: Screened, known: set[str], chosen: set[Pair]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {"fact": refusal.fact, "template": refusal.template, "reason": refusal.reason} for refusal in built.refused
    ]
    rows += [_row(each.pair, each.reason, each.clean, each.corrupted) for each in screened.left_out]
    for pair, clean, corrupted in zip(screened.kept, screened.clean, screened.corrupted, strict=True):
        if pair not in chosen:
            reason = NEVER_TAUGHT if not pair.taught else OVER_LIMIT if pair.fact in known else ONE_WORDING
            rows.append(_row(pair, reason, clean, corrupted))
    return pd.DataFrame(rows, columns=LEFT_OUT_COLUMNS)


def _row(pair: Pair, reason: str, clean: float, corrupted: float) -> dict[str, Any]:
    named = {name: getattr(pair, name) for name in ("fact", "kind", "relation", "template", "clean")}
    return {**named, "reason": reason, "clean_metric": clean, "corrupted_metric": corrupted}
