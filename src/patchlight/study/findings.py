"""From sweeps to findings: what the report of a study shows, filled with numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from jaxtyping import Bool, Float

from patchlight.judge.evidence import ComponentMap, Evidence, ModelNull
from patchlight.judge.significance import sign_flip
from patchlight.judge.statistics import IntervalMap, cluster_bootstrap
from patchlight.judge.verdict import KNOWN_FACTS, Reason, Verdict, judge
from patchlight.packs.spec import Pack
from patchlight.pairs.align import ROLES, mean_by_role
from patchlight.records import DONOR_NULLS, MODEL_NULLS
from patchlight.report.contents import (
    Checkpoint,
    CurvePoint,
    EffectMap,
    Example,
    ExampleMap,
    Excluded,
    IdentityCheck,
    KindResult,
    KnownCount,
    Provenance,
    ReportContents,
    TrainingCurve,
)
from patchlight.study.metrics import metrics_compared
from patchlight.study.nulls import NullMap, absent, pooled
from patchlight.study.results import CheckpointResults, Question, SweepResult
from patchlight.study.spec import Study
from patchlight.study.stages import facts_split, pack_digest, seed_of

LEVEL = 0.05
MOST_FAILED = 0.01  # of the units of a checkpoint
ROUNDING = 1e-3  # in the metric's unit
EXAMPLES = 2  # pairs of a kind that are shown in full
CONTRIBUTIONS = ("attn_out", "mlp_out")  # what writes; the residual stream only carries
NAMES = {
    "base": {"en": "Before fine-tuning", "ja": "微調整前"},
    "as-is": {"en": "The model as it is", "ja": "そのままのモデル"},
}
NOT_MEASURED = (
    "joint-effects",
    "direct-and-indirect",
    "weights",
    "random-init",
    "calibration",
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
        checkpoints=tuple(_checkpoint(study, result) for result in results),
        unknown=_unknown(study),
    )


def _unknown(study: Study) -> tuple[str, ...]:
    measured = {"corruptions": bool(study.spec.sweep.corruptions), "random-init": "random-init" in study.spec.controls}
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


def _checkpoint(study: Study, result: CheckpointResults) -> Checkpoint:
    key = result.checkpoint.key
    alone = "as-is" if key == "base" and not study.spec.training else key
    asked = result.asked
    known = tuple(KnownCount(**each) for each in asked.meta["known"])
    kinds = dict.fromkeys(each.kind for each in known)
    return Checkpoint(
        name=NAMES.get(alone, {"en": f"Configuration {key}", "ja": f"設定 {key}"}),
        model=study.spec.model.load or "GPT-2 (new)",
        digest=result.checkpoint.digest,
        training=_training(study, result),
        known=known,
        excluded=_excluded(result),
        checks=_checks(result),
        kinds=tuple(_kind(study, result, kind, known) for kind in kinds),
    )


def _training(study: Study, result: CheckpointResults) -> TrainingCurve | None:
    training = result.checkpoint.training
    if training is None:
        return None
    curve = training.table("curve")
    columns = [curve[name].astype(float).tolist() for name in ("step", "train_loss", "validation_loss")]
    points = tuple(CurvePoint(int(step), train, validation) for step, train, validation in zip(*columns, strict=True))
    choice = study.spec.training[result.checkpoint.key]
    return TrainingCurve(
        points=points,
        best_step=training.meta["best_step"],
        stopped_early=training.meta["stopped_early"],
        documents=training.meta["documents"],
        settings={name: str(value) for name, value in choice.model_dump().items()},
    )


def _excluded(result: CheckpointResults) -> tuple[Excluded, ...]:
    table = result.asked.table("left_out")
    found = []
    for reason, rows in table.groupby("reason", sort=False):
        examples = tuple(str(text) for text in rows.clean.fillna(rows.fact).head(3))
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


def _kind(study: Study, result: CheckpointResults, kind: str, known: Sequence[KnownCount]) -> KindResult:
    asked = sum(each.total for each in known if each.kind == kind and each.taught)
    view = kind_view(study, result, kind)
    questions = view.questions
    return KindResult(
        kind=kind,
        pairs=len(questions),
        facts=len(set(view.facts)),
        clean_metric=_mean([question.clean for question in questions]),
        corrupted_metric=_mean([question.corrupted for question in questions]),
        maps=tuple(view.effect_map(sweep) for sweep in view.sweeps if not sweep.control),
        examples=view.examples(),
        verdict=refused(result, kind, len(set(view.facts))) or view.verdict(asked),
        robustness=result.robustness.get(kind, ()),
        narrowing=result.narrowings.get(kind),
        metrics=metrics_compared(
            view.questions, view.sweeps, study.spec.sweep.metrics, seed_of(study, "metrics", kind)
        ),
        nulls_absent=view.nulls_absent if questions else {},
    )


def kind_view(study: Study, result: CheckpointResults, kind: str) -> KindView:
    """The part of a checkpoint's results that is about one kind of knowledge."""
    rows = np.array([question.pair.kind == kind for question in result.questions], dtype=bool)
    questions = tuple(question for question in result.questions if question.pair.kind == kind)
    # A kind of which nothing is answered has its verdict, and no map.
    sweeps = tuple(sweep.of(rows) for sweep in result.sweeps) if questions else ()
    return KindView(study, kind, questions, sweeps, result.nulls)


def refused(result: CheckpointResults, kind: str, known: int) -> Verdict | None:
    """The verdict where no site may be ranked at all: too many failed units (promise R6), or no gap (guard 1)."""
    if result.failed > MOST_FAILED * result.units:
        reason = Reason("units-failed", {"failed": result.failed, "units": result.units})
        return Verdict(kind, "undetermined", "D", (reason,))
    if kind in result.asked.meta["gap_unclear"] and known >= KNOWN_FACTS:
        return Verdict(kind, "no knowledge to localise", "D", (Reason("gap-unclear", {"known": known}),))
    return None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


@dataclass(frozen=True)
class KindView:
    """One kind of knowledge in one checkpoint: its questions and their part of every sweep."""

    study: Study
    kind: str
    questions: tuple[Question, ...]
    sweeps: tuple[SweepResult, ...]
    nulls: tuple[str, ...] = ()  # that apply, made or not

    @property
    def facts(self) -> tuple[str, ...]:
        """The fact of each pair."""
        return tuple(question.pair.fact for question in self.questions)

    @property
    def gaps(self) -> Float[np.ndarray, " pair"]:
        """The first metric of the clean run minus that of the corrupted run."""
        return np.array([question.clean - question.corrupted for question in self.questions])

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that occur, in the order of a sentence."""
        present = {role for question in self.questions for role in question.roles}
        return tuple(role for role in ROLES if role in present)

    def effects(self, sweep: SweepResult) -> Float[np.ndarray, "pair layer position"]:
        """What the patch moved of the first metric: towards the clean run (denoise), or away from it (noise)."""
        clean, corrupted = (run[:, None, None] for run in self.unpatched(sweep))
        moved: np.ndarray = sweep.values - corrupted if sweep.direction == "denoise" else clean - sweep.values
        if sweep.null in MODEL_NULLS:
            return moved
        # The unpatched runs were measured in other batches than the patched ones: rounding is not an effect.
        return np.where(np.abs(moved) < ROUNDING, 0.0, moved)

    def unpatched(self, sweep: SweepResult) -> tuple[Float[np.ndarray, " pair"], Float[np.ndarray, " pair"]]:
        """The first metric in the clean and in the corrupted runs of the model that was patched."""
        if sweep.clean is not None and sweep.corrupted is not None:
            return sweep.clean, sweep.corrupted
        clean, corrupted = np.array([(each.clean, each.corrupted) for each in self.questions]).T
        return clean, corrupted

    def by_role(self, cells: Float[np.ndarray, "pair layer position"]) -> Float[np.ndarray, "pair layer role"]:
        """The mean over the positions of each role; NaN where a pair lacks the role."""
        return mean_by_role(cells, [question.roles for question in self.questions])[1]

    def structural(self, sweep: SweepResult) -> Bool[np.ndarray, "layer role"]:
        """The sites that restore everything by construction in any pair."""
        marked: np.ndarray = np.nan_to_num(self.by_role(sweep.structural.astype(float))).any(axis=0)
        return marked

    def null_maps(self, sweep: SweepResult) -> dict[str, NullMap]:
        """The null maps beside a sweep, of which any pair has a donor."""
        key = (sweep.component, sweep.direction)
        beside = [each for each in self.sweeps if each.null and (each.component, each.direction) == key]
        return {each.null: self._null_map(each) for each in beside if np.isfinite(each.values).any()}

    def _null_map(self, sweep: SweepResult) -> NullMap:
        effects = self.by_role(self.effects(sweep))
        if sweep.null != "random-init":
            return NullMap(effects, self.gaps)
        clean, corrupted = self.unpatched(sweep)
        return pooled(effects, clean - corrupted)

    @property
    def nulls_absent(self) -> dict[str, str]:
        """The null maps that apply and that nothing can be tested against, with the reason."""
        _, confirmation = facts_split(self.study, self.kind, self.facts)
        return absent(self.nulls, self.study.spec.controls, self.sweeps, self.facts, confirmation)

    def effect_map(self, sweep: SweepResult) -> EffectMap:
        """Intervals over facts for every layer and role, those of the nulls beside them, and what differs from all."""
        effects, nulls, structural = self.by_role(self.effects(sweep)), self.null_maps(sweep), self.structural(sweep)
        effect = self._intervals(effects)
        bands = {name: self._intervals(null.effects, null.gaps) for name, null in nulls.items()}
        donors = [nulls[name].effects for name in DONOR_NULLS if name in nulls and name not in self.nulls_absent]
        tested = np.stack([effects - donor for donor in donors or [np.zeros_like(effects)]], axis=1)
        flips = self.study.spec.statistics.resamples
        p = sign_flip(np.where(structural, np.nan, tested), self.facts, seed=self.seed("map"), flips=flips).p
        apart = [effect.apart_from(bands[name]) for name in MODEL_NULLS if name in bands]
        return EffectMap(
            component=sweep.component,
            direction=sweep.direction,
            roles=self.roles,
            effect=effect,
            nulls=bands,
            structural=structural,
            significant=np.all([(p <= LEVEL).all(axis=0), ~structural, *apart], axis=0),
        )

    def _intervals(self, effects: np.ndarray, gaps: np.ndarray | None = None) -> IntervalMap:
        statistics = self.study.spec.statistics
        return cluster_bootstrap(
            effects,
            self.gaps if gaps is None else gaps,
            self.facts,
            seed=self.seed("intervals"),
            resamples=statistics.resamples,
            confidence=statistics.confidence,
        )

    def examples(self) -> tuple[Example, ...]:
        """The pairs with the largest gaps, each of another fact, in full."""
        chosen: list[int] = []
        for index in np.argsort(-self.gaps, kind="stable"):
            if self.facts[index] not in {self.facts[each] for each in chosen}:
                chosen.append(int(index))
        return tuple(self._example(index) for index in chosen[:EXAMPLES])

    def _example(self, index: int) -> Example:
        question, width = self.questions[index], len(self.questions[index].words)
        pair = question.pair
        maps = tuple(
            ExampleMap(
                sweep.component,
                sweep.direction,
                self.effects(sweep)[index, :, :width] / self.gaps[index],
                sweep.structural[index, :, :width],
            )
            for sweep in self.sweeps
            if not sweep.control
        )
        return Example(
            fact=pair.fact,
            clean=pair.clean,
            corrupted=pair.corrupted,
            correct=pair.correct,
            wrong=pair.wrong,
            words=question.words,
            corrupted_words=question.corrupted_words,
            differing=question.differing,
            clean_metric=question.clean,
            corrupted_metric=question.corrupted,
            maps=maps,
        )

    def verdict(self, asked: int) -> Verdict:
        """The verdict of the stated rule over the components that write into the residual stream."""
        _, confirmation = facts_split(self.study, self.kind, self.facts)
        evidence = Evidence(
            kind=self.kind,
            roles=self.roles,
            components=self.component_maps(),
            gaps=self.gaps,
            facts=self.facts,
            templates=tuple(question.pair.template for question in self.questions),
            confirmation=confirmation,
            facts_asked=asked,
            nulls_missing=tuple(self.nulls_absent),
        )
        return judge(evidence, seed=self.seed("verdict"))

    def component_maps(self) -> Mapping[str, ComponentMap]:
        """The maps of the components that write into the residual stream, where both directions were swept."""
        found = {}
        for component in CONTRIBUTIONS:
            of = {each.direction: each for each in self.sweeps if each.component == component and not each.null}
            if "denoise" in of and "noise" in of:
                denoised, noised = self.null_maps(of["denoise"]), self.null_maps(of["noise"])
                donors = [name for name in DONOR_NULLS if name not in self.nulls_absent]
                found[component] = ComponentMap(
                    recovery=self.by_role(self.effects(of["denoise"])),
                    damage=self.by_role(self.effects(of["noise"])),
                    structural=self.structural(of["denoise"]),
                    nulls={name: denoised[name].effects for name in donors if name in denoised},
                    damage_nulls={name: noised[name].effects for name in donors if name in noised},
                    models={
                        name: ModelNull(denoised[name].effects, noised[name].effects, denoised[name].gaps)
                        for name in MODEL_NULLS
                        if name in denoised
                    },
                )
        return found

    def seed(self, use: str) -> int:
        """The seed of one use of chance for this kind."""
        return seed_of(self.study, use, self.kind)
