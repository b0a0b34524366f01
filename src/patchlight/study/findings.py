"""From sweeps to findings: what the report of a study shows, filled with numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import pandas as pd

from patchlight.judge.concentration import concentration_of
from patchlight.judge.thresholds import THRESHOLDS
from patchlight.judge.verdict import Reason, Verdict, judge
from patchlight.packs.spec import Pack
from patchlight.report.contents import (
    Checkpoint,
    CurvePoint,
    Excluded,
    IdentityCheck,
    KindResult,
    KnownCount,
    Provenance,
    ReportContents,
    TrainingCurve,
)
from patchlight.report.reached import Reached
from patchlight.report.timed import Timed
from patchlight.study.across import transfers
from patchlight.study.contrast import kinds_compared
from patchlight.study.learnt import learnt
from patchlight.study.metrics import metrics_compared
from patchlight.study.results import CheckpointResults
from patchlight.study.spec import Study
from patchlight.study.stages import pack_digest, seed_of
from patchlight.study.view import KindView
from patchlight.study.wanting import wanting

MOST_FAILED = 0.01  # of the units of a checkpoint
LOSSES = ("step", "train_loss", "validation_loss", "comparable_loss")
NAMES = {
    "base": {"en": "Before fine-tuning", "ja": "微調整前"},
    "as-is": {"en": "The model as it is", "ja": "そのままのモデル"},
}
NOT_MEASURED = (
    "joint-effects",
    "direct-and-indirect",
    "weights",
    "random-init",
    "corruptions",
    "replication",
    "edits",
)


def contents_of(
    study: Study, pack: Pack, results: Sequence[CheckpointResults], command: str, begun: float
) -> ReportContents:
    """Everything the report shows; all numbers follow from the stored results and the study's seed.

    `begun` is when the study was first run, in seconds since 1970.
    """
    from patchlight.pairs.answers import METRICS

    metric = study.spec.sweep.metrics[0]
    return ReportContents(
        title={str(language): text for language, text in study.spec.title.items()},
        pack_title={str(language): text for language, text in pack.title.items()},
        language=study.spec.language,
        provenance=_provenance(study, pack, command, begun),
        metric=metric,
        unit=METRICS[metric].unit,
        gap_floor=study.spec.gap_floor,
        confidence=study.spec.statistics.confidence,
        checkpoints=tuple(_checkpoint(study, pack, result, results[0]) for result in results),
        unknown=_unknown(study, results),
        swap=study.spec.pairs.swap,
    )


def _unknown(study: Study, results: Sequence[CheckpointResults]) -> tuple[str, ...]:
    """What this study did not measure, of all that could be known."""
    sweep = study.spec.sweep
    measured = {
        "corruptions": bool(sweep.corruptions),
        "direct-and-indirect": sweep.direct,
        "joint-effects": any(result.sets for result in results),
        "random-init": "random-init" in study.spec.controls,
        "weights": sweep.across is not None and sweep.across.weights,
    }
    return tuple(code for code in NOT_MEASURED if not measured.get(code))


def _provenance(study: Study, pack: Pack, command: str, begun: float) -> Provenance:
    packages = ("patchlight", "torch", "transformers", "tokenizers", "numpy", "scipy")
    return Provenance(
        study_hash=study.spec.digest,
        seed=study.spec.seed,
        pack_id=pack.id,
        pack_digest=pack_digest(pack),
        command=command,
        versions={"python": sys.version.split()[0], **{name: version(name) for name in packages}},
        date=datetime.fromtimestamp(begun, UTC).date().isoformat(),
    )


def _checkpoint(study: Study, pack: Pack, result: CheckpointResults, first: CheckpointResults) -> Checkpoint:
    key = result.checkpoint.key
    alone = "as-is" if key == "base" and not study.spec.training else key
    asked = result.asked
    known = tuple(KnownCount(**each) for each in asked.meta["known"])
    # A kind of which no question could be built has its verdict, too.
    kinds = dict.fromkeys([each.kind for each in known] + _kinds_asked_for(study, pack))
    return Checkpoint(
        name=NAMES.get(alone, {"en": f"Configuration {key}", "ja": f"設定 {key}"}),
        model=study.spec.model.load or "GPT-2 (new)",
        digest=result.checkpoint.digest,
        training=_training(study, result),
        known=known,
        excluded=_excluded(result),
        checks=_checks(result),
        kinds=tuple(_kind(study, result, kind, known) for kind in kinds),
        learnt=learnt(first, result),
        compared=kinds_compared([kind_view(study, result, kind) for kind in kinds], seed_of(study, "contrast")),
        split=result.split,
        unscored=tuple(Excluded(**{**each, "examples": tuple(each["examples"])}) for each in asked.meta["unscored"]),
    )


def _training(study: Study, result: CheckpointResults) -> TrainingCurve | None:
    training = result.checkpoint.training
    if training is None:
        return None
    curve = training.table("curve")
    columns = [curve[name].astype(float).tolist() for name in LOSSES]
    points = tuple(CurvePoint(int(step), *losses) for step, *losses in zip(*columns, strict=True))
    choice = study.spec.training[result.checkpoint.key]
    return TrainingCurve(
        points=points,
        best_step=training.meta["best_step"],
        stopped_early=training.meta["stopped_early"],
        documents=training.meta["documents"],
        settings={name: str(value) for name, value in choice.model_dump().items()},
        padding_in_loss=choice.padding_in_loss,
    )


def _kinds_asked_for(study: Study, pack: Pack) -> list[str]:
    wanted = study.spec.pairs.relations
    facts = pack.facts(study.spec.language)
    return [kind for kind in pack.kinds if any(f.kind == kind and (not wanted or f.relation in wanted) for f in facts)]


def _excluded(result: CheckpointResults) -> tuple[Excluded, ...]:
    table = result.asked.table("left_out")
    found = []
    for reason, rows in table.groupby("reason", sort=False):
        named = zip(rows.clean.head(3), rows.fact, strict=False)  # what could not be asked has no prompt, but a fact
        examples = tuple(str(fact if pd.isna(clean) else clean) for clean, fact in named)
        found.append(Excluded(str(reason), len(rows), examples))
    return tuple(sorted(found, key=lambda each: -each.count))


def _checks(result: CheckpointResults) -> tuple[IdentityCheck, ...]:
    if result.identities is None:
        return ()
    table = result.identities.table("identities")
    return tuple(
        IdentityCheck(str(name), float(error), float(limit))
        for name, error, limit in zip(table.name, table.error, table.limit, strict=True)
    )


def kind_view(study: Study, result: CheckpointResults, kind: str) -> KindView:
    """One kind of knowledge in one checkpoint, with its part of every sweep."""
    rows = np.array([question.pair.kind == kind for question in result.questions], dtype=bool)
    questions = tuple(question for question in result.questions if question.pair.kind == kind)
    # A kind of which nothing is answered has its verdict, and no map.
    sweeps = tuple(sweep.of(rows) for sweep in result.sweeps) if questions else ()
    return KindView(study, kind, questions, sweeps, result.nulls, result.mentions)


def _kind(study: Study, result: CheckpointResults, kind: str, known: Sequence[KnownCount]) -> KindResult:
    view = kind_view(study, result, kind)
    questions = view.questions
    asked = sum(each.total for each in known if each.kind == kind and each.taught)
    evidence = view.evidence(asked, result.sets.get(kind))
    lacking = refused(result, kind, len(set(view.facts))) or wanting(result, view, known)
    return KindResult(
        kind=kind,
        pairs=len(questions),
        facts=len(set(view.facts)),
        clean_metric=_mean([question.clean for question in questions]),
        corrupted_metric=_mean([question.corrupted for question in questions]),
        maps=tuple(view.effect_map(sweep) for sweep in view.sweeps if not sweep.control),
        examples=view.examples(),
        verdict=lacking or judge(evidence, seed=view.seed("verdict")),
        robustness=result.robustness.get(kind, ()),
        narrowing=result.narrowings.get(kind),
        across=transfers(study, result, kind),
        direct=result.directs.get(kind),
        subspaces=result.subspaces.get(kind, ()),
        observed=result.observed.get(kind),
        timed=result.timed.get(kind, Timed()),
        reached=result.reached.get(kind, Reached()),
        metrics=metrics_compared(
            view.questions, view.sweeps, study.spec.sweep.metrics, seed_of(study, "metrics", kind)
        ),
        nulls_absent=view.nulls_absent if questions else {},
        concentration=concentration_of(evidence, view.seed("indices")),
    )


def refused(result: CheckpointResults, kind: str, known: int) -> Verdict | None:
    """The verdict where no site may be ranked at all: too many failed units (promise R6), or no gap (guard 1)."""
    if result.failed > MOST_FAILED * result.units:
        reason = Reason("units-failed", {"failed": result.failed, "units": result.units})
        return Verdict(kind, "undetermined", "D", (reason,))
    if kind in result.asked.meta["gap_unclear"] and known >= THRESHOLDS.known_facts:
        return Verdict(kind, "no knowledge to localise", "D", (Reason("gap-unclear", {"known": known}),))
    return None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
