"""One kind of knowledge in one checkpoint, as its sweeps show it: maps over facts, examples, and what is judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from patchlight.judge.evidence import ComponentMap, Evidence, ModelNull
from patchlight.judge.significance import sign_flip
from patchlight.judge.statistics import FEWEST_FOR_INTERVAL, IntervalMap, cluster_bootstrap
from patchlight.pairs.align import ROLES, mean_by_role
from patchlight.records import DONOR_NULLS, MODEL_NULLS, Pair
from patchlight.report.contents import EffectMap, Example, ExampleMap
from patchlight.study.nulls import NullMap, absent, pooled
from patchlight.study.results import Question, SweepResult
from patchlight.study.spec import Study
from patchlight.study.stages import seed_of
from patchlight.trace.sufficient import SetEvidence, SetNull

LEVEL = 0.05
ROUNDING = 1e-3  # in the metric's unit
EXAMPLES = 2  # pairs of a kind that are shown in full
CONTRIBUTIONS = ("attn_out", "mlp_out")  # what writes; the residual stream only carries


@dataclass(frozen=True)
class KindView:
    """One kind of knowledge in one checkpoint: its questions and their part of every sweep."""

    study: Study
    kind: str
    questions: tuple[Question, ...]
    sweeps: tuple[SweepResult, ...]
    nulls: tuple[str, ...] = ()  # that apply, made or not
    mentions: Mapping[str, int] = field(default_factory=dict)  # by fact: the training texts that name its answer

    @property
    def facts(self) -> tuple[str, ...]:
        """The fact of each pair."""
        return tuple(question.pair.fact for question in self.questions)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pair of each question."""
        return tuple(question.pair for question in self.questions)

    @property
    def partners(self) -> tuple[str, ...]:
        """The fact whose subject makes each pair's corrupted side."""
        return tuple(pair.partner for pair in self.pairs)

    @property
    def confirmation(self) -> frozenset[str]:
        """The facts held out before pairs were built."""
        return frozenset(pair.fact for pair in self.pairs if pair.half == "confirmation")

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
        return absent(self.nulls, self.study.spec.controls, self.sweeps, self.facts, self.confirmation)

    def effect_map(self, sweep: SweepResult) -> EffectMap:
        """Intervals over facts for every layer and role, those of the nulls beside them, and what differs from all."""
        effects, nulls, structural = self.by_role(self.effects(sweep)), self.null_maps(sweep), self.structural(sweep)
        effect = self._intervals(effects)
        bands = {name: self._intervals(null.effects, null.gaps) for name, null in nulls.items()}
        donors = [nulls[name].effects for name in DONOR_NULLS if name in nulls and name not in self.nulls_absent]
        tested = np.stack([effects - donor for donor in donors or [np.zeros_like(effects)]], axis=1)
        flips = self.study.spec.statistics.resamples
        ranked, seed = np.where(structural, np.nan, tested), self.seed("map")
        p = sign_flip(ranked, self.facts, partners=self.partners, seed=seed, flips=flips).p
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
            partners=self.partners,
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
            also_correct=pair.also_correct,
            also_wrong=pair.also_wrong,
            distractors=pair.distractors,
        )

    def evidence(self, asked: int, sets: SetEvidence | None) -> Evidence:
        """What the verdict is made from: the components that write into the residual stream, and the sets of sites."""
        return Evidence(
            kind=self.kind,
            roles=self.roles,
            components=self.component_maps(),
            gaps=self.gaps,
            facts=self.facts,
            templates=tuple(question.pair.template for question in self.questions),
            partners=self.partners,
            confirmation=self.confirmation,
            facts_asked=asked,
            nulls_missing=tuple(self.nulls_absent),
            sets=None if sets is None else comparable(sets, self.facts, self.confirmation),
        )

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
        """A seed of its own for each use of chance."""
        return seed_of(self.study, use, self.kind)


def comparable(sets: SetEvidence, facts: Sequence[str], held_out: Collection[str]) -> SetEvidence:
    """The sets beside those nulls that have an interval; with donors for too few facts held out there is none."""

    def enough(null: SetNull) -> bool:
        given = {fact for fact, effect in zip(facts, null.effects, strict=True) if np.isfinite(effect)}
        return len(given & set(held_out)) >= FEWEST_FOR_INTERVAL

    def of(nulls: Mapping[str, SetNull]) -> dict[str, SetNull]:
        return {name: null for name, null in nulls.items() if enough(null)}

    kept = (replace(each, nulls=of(each.nulls), damage_nulls=of(each.damage_nulls)) for each in sets.sets)
    return replace(sets, sets=tuple(kept))
