"""The published table made of its units, every figure weighed, and the study's own answers to the same question.

Beside the replay stands what the study itself found of the same kinds, asked properly: many facts, controls, a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from patchlight.judge.published import ModuleEvidence, plain_recovery, pooled_recovery, weigh
from patchlight.judge.significance import layer_effect
from patchlight.judge.statistics import FEWEST_FOR_INTERVAL
from patchlight.packs.wording import mentions
from patchlight.report.contents import KindResult, ReportContents
from patchlight.report.replay import AskedProperly, AskedQuestion, PublishedRow, PublishedTable, Replay
from patchlight.report.texts import Words
from patchlight.store.results import Artifact
from patchlight.study.published import FIRST, HEAD, MATRICES, Replayed
from patchlight.study.results import CheckpointResults
from patchlight.study.spec import PublishedQuestion, Study
from patchlight.study.stages import seed_of
from patchlight.study.view import KindView

TESTED = ("mlp_out", "denoise", False)  # what the publication calls a layer: feed-forward outputs, over all positions
FIGURES = {FIRST: 0.56, MATRICES: 0.136, HEAD: 1.0}  # arXiv 2504.02976, as shares of the gap


def published_of(study: Study, name: Words, done: Iterable[tuple[Replayed, Artifact]]) -> tuple[PublishedTable, ...]:
    """The tables of one model, one for each kind of question; none where a unit of it failed."""
    spec, found = study.spec.published, list(done)
    if spec is None or len(found) < len(spec.questions) + spec.random_models:
        return ()
    questions = {number: artifact for asked, artifact in found if (number := asked.question) is not None}
    random = pd.concat(
        artifact.table("modules").assign(seed=asked.seed) for asked, artifact in found if asked.seed is not None
    )
    tables = []
    for kind in dict.fromkeys(question.kind for question in spec.questions):
        mine = [(spec.questions[number], artifact) for number, artifact in questions.items()]
        mine = [(question, artifact) for question, artifact in mine if question.kind == kind]
        tables.append(_table(study, name, kind, mine, random[random.kind == kind]))
    return tuple(tables)


def _table(
    study: Study,
    name: Words,
    kind: str,
    asked: Sequence[tuple[PublishedQuestion, Artifact]],
    random: pd.DataFrame,
) -> PublishedTable:
    questions, artifacts = [question for question, _ in asked], [artifact for _, artifact in asked]
    measured = [artifact.table("modules").set_index("module") for artifact in artifacts]
    clean, corrupted = (np.array([artifact.meta[run] for artifact in artifacts]) for run in ("clean", "corrupted"))
    rows = [
        _row(study, kind, questions, measured, clean, corrupted, random, shown) for shown in artifacts[0].meta["shown"]
    ]
    return PublishedTable(
        model=name,
        kind=kind,
        questions=tuple(map(_asked, questions, artifacts)),
        random_models=random.seed.nunique(),
        reached={key: tuple(counts) for key, counts in artifacts[0].meta["reached"].items()},
        rows=tuple(rows),
    )


def _asked(question: PublishedQuestion, artifact: Artifact) -> AskedQuestion:
    meta = artifact.meta
    words = (question.clean, meta["corrupted_prompt"], question.answer, question.scored, question.against)
    return AskedQuestion(*words, meta["clean"], meta["corrupted"])


def _row(
    study: Study,
    kind: str,
    questions: Sequence[PublishedQuestion],
    measured: Sequence[pd.DataFrame],
    clean: np.ndarray,
    corrupted: np.ndarray,
    random: pd.DataFrame,
    shown: tuple[str, str, str],
) -> PublishedRow:
    role, prints, module = shown
    sharing = measured[0].index[measured[0].prints == prints] if role == MATRICES else [module]
    gaps = clean - corrupted
    singles = [plain_recovery(_column(measured, each, "patched") - corrupted, gaps) for each in sharing]
    of_module = random[random.module == module].groupby("seed")
    at_random = np.array([pooled_recovery(each.change.to_numpy(), each.gap.to_numpy()) for _, each in of_module])
    evidence = ModuleEvidence(
        full_cut=all(bool(each.full_cut[module]) for each in measured),
        facts=[each.fact for each in questions],
        gaps=gaps,
        changes=_column(measured, module, "patched") - corrupted,
        tokens_alone=_column(measured, module, "tokens_alone"),
        random=at_random,
        answers_in_prompt=sum(mentions(each.clean, each.answer) for each in questions),
        other_phrases=sum(each.scored.strip() != each.answer.strip() for each in questions),
    )
    return PublishedRow(
        role=role,
        prints=prints,
        module=module,
        modules=len(sharing),
        published=FIGURES[role],
        lowest=min(singles),
        highest=max(singles),
        random=(float(at_random.min()), float(np.median(at_random)), float(at_random.max())),
        weighed=weigh(evidence, floor=study.spec.gap_floor, seed=seed_of(study, "published", kind, module)),
    )


def _column(measured: Sequence[pd.DataFrame], module: str, name: str) -> np.ndarray:
    return np.array([float(each[name][module]) for each in measured])


def replay_of(
    study: Study,
    contents: ReportContents,
    results: Sequence[CheckpointResults],
    done: Mapping[str, Sequence[tuple[Replayed, Artifact]]],
) -> Replay:
    """The replay on every model, by its key in `done`, with the study's own answers to the same question beside it."""
    names = {result.checkpoint.key: point.name for result, point in zip(results, contents.checkpoints, strict=True)}
    tables = [
        table for key, of_model in done.items() for table in published_of(study, names.get(key, {"en": key}), of_model)
    ]
    properly = [
        _properly(study, result, point.name, kind)
        for result, point in zip(results, contents.checkpoints, strict=True)
        for kind in point.kinds
    ]
    return Replay(tuple(tables), tuple(properly), study.spec.gap_floor)


def _properly(study: Study, result: CheckpointResults, name: Words, kind: KindResult) -> AskedProperly:
    rows = np.array([question.pair.kind == kind.kind for question in result.questions], dtype=bool)
    questions = tuple(question for question in result.questions if question.pair.kind == kind.kind)
    view = KindView(study, kind.kind, questions, tuple(sweep.of(rows) for sweep in result.sweeps) if questions else ())
    verdict = kind.verdict
    return AskedProperly(
        name, kind.kind, kind.facts, kind.pairs, verdict.word, verdict.grade, layer_p=_layer_p(study, view)
    )


def _layer_p(study: Study, view: KindView) -> float | None:
    """The p-value of "the effect of a feed-forward output does not depend on its layer", facts being the unit."""
    sweep = next((each for each in view.sweeps if (each.component, each.direction, each.control) == TESTED), None)
    if sweep is None or len(set(view.facts)) < FEWEST_FOR_INTERVAL:
        return None
    effects = np.where(sweep.structural, 0.0, view.effects(sweep))
    seed = seed_of(study, "layer effect", view.kind)
    return layer_effect(np.nansum(effects, axis=2), view.facts, seed=seed)
