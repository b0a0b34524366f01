"""From a finished study to the review's queue: the evidence of every candidate, and decoys beside them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchlight.errors import InputError
from patchlight.judge.evidence import FACTS_IN_EACH_HALF, STILL, ComponentMap
from patchlight.judge.statistics import cluster_bootstrap
from patchlight.model.digest import model_digest
from patchlight.records import NULLS, Interval, Site
from patchlight.report.contents import EffectMap, KindResult
from patchlight.review.queue import evidence_of as review_evidence
from patchlight.review.queue import items, put, wanted
from patchlight.review.records import Evidence
from patchlight.run.progress import Progress
from patchlight.store.ledger import Ledger, StudyRow
from patchlight.study.findings import kind_view
from patchlight.study.results import CheckpointResults
from patchlight.study.spec import Study
from patchlight.study.surroundings import surroundings_of
from patchlight.study.view import KindView
from patchlight.study.walk import Walked, walk
from patchlight.trace.sites import read_site

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from patchlight.judge.sets import TriedSet
    from patchlight.trace.sufficient import SetEffects

JOINED = " + "  # between the places of a set, in its name
DECOYS = 0.2  # of the candidates, one at least: enough for a rate over a study or two, few enough not to tire


def queue_study(study: Study, ledger: Ledger, database: Engine, progress: Progress, *, by: str, command: str) -> int:
    """How many candidates of a finished study are new in the queue or open again with new evidence; decoys count.

    Nothing is computed: raises InputError `study-not-finished` where results are missing.
    """
    walked = walk(study, ledger, progress, command, stored_only=True)
    held = [(each.checkpoint, each.model, each.kind, each.site) for each in items(database, study_id=study.spec.id)]
    candidates, decoys = evidence_of(study, walked, held)
    return put(database, [*candidates, *decoys], by=by, decoys={each.candidate for each in decoys})


def run_wanted(
    study: Study, row: StudyRow, ledger: Ledger, database: Engine, progress: Progress, *, command: str
) -> Study:
    """The study with the controls that reviewers ask for, and those its candidates were judged by before; it was run.

    Only units that are missing are computed. Raises InputError `study-nothing-wanted` where nobody asks for anything.
    """
    asked = {each.control for each in wanted(database, study.spec.id)}
    if not asked:
        raise InputError("study-nothing-wanted", f"no reviewer asks for more controls of {study.spec.id}")
    held = (review_evidence(database, each.id) for each in items(database, study_id=study.spec.id))
    had = {name for each in held for name in each.content["nulls"]}
    every = {*study.spec.controls, *asked, *had}
    wider = Study(
        study.spec.model_copy(update={"controls": tuple(each for each in NULLS if each in every)}), study.file
    )
    with ledger.driving():
        ledger.begin_study(wider.spec.digest, row.title, row.yaml, row.file, row.id)
        walk(wider, ledger, progress, command)
    return wider


def evidence_of(
    study: Study, walked: Walked, held: Collection[tuple[str, str, str, str]] = ()
) -> tuple[list[Evidence], list[Evidence]]:
    """The evidence of a study's candidates, and that of decoys: places whose effect this study cannot tell from none.

    `held` are the places that the queue has already (checkpoint, model, kind, site). They get their evidence among the
    candidates whatever has become of them: more controls are asked for so that one may fall.

    Both have the same keys, made by the same code. `study_id`, `checkpoint`, `model` (hash of the weights), `load`
    (where they are), `domain`, `language`, `kind`, `site`, `component`, `layer`, `role`, `metric`, `unit`, `gap_floor`;
    a set of places that the verdict stands on has its sites joined by " + ", no layer and no role, and the maps of its
    first site's component;
    `recovery`, `damage`, `nulls`, `damage_nulls`: intervals on the held-out facts, as shares of the gap;
    `nulls_absent`; `verdict`: the machine's word, grade and reasons on the kind; `maps`: the component's map in both
    directions; `pairs`: each with its metric in both runs, what the patch moved, and whether its fact was held out;
    `confidence` of the intervals; and what `study.surroundings` adds.
    """
    candidates: list[Evidence] = []
    decoys: list[Evidence] = []
    for checkpoint, result in zip(walked.contents.checkpoints, walked.results, strict=True):
        for kind in checkpoint.kinds:
            waiting = [site for key, _, name, site in held if (key, name) == (result.checkpoint.key, kind.kind)]
            if kind.verdict.candidates or kind.verdict.named_set or waiting:
                maker = _Maker(study, walked, result, kind)
                sites = [candidate.site for candidate in kind.verdict.candidates]
                nulls = maker.null_sites(sites) if kind.verdict.candidates or kind.verdict.named_set else []
                known = maker.held(held)
                places = [read_site(name) for name in known if JOINED not in name]
                sites += [site for site in places if site not in (*sites, *nulls)]
                candidates += [maker.evidence(site) for site in sites] + maker.set_evidence(known)
                decoys += [maker.evidence(site) for site in nulls]
    return candidates, decoys


class _Maker:
    """Makes the evidence on one kind of knowledge in one checkpoint."""

    def __init__(self, study: Study, walked: Walked, result: CheckpointResults, kind: KindResult) -> None:
        self.study, self.contents, self.kind = study, walked.contents, kind
        self.view: KindView = kind_view(study, result, kind.kind)
        self.parts: Mapping[str, ComponentMap] = self.view.component_maps()
        self.held_out = np.array([pair.half == "confirmation" for pair in self.view.pairs], dtype=bool)
        self.common = self._common(result)

    def _common(self, result: CheckpointResults) -> dict[str, Any]:
        training = result.checkpoint.training
        load: str | Path | None = training.folder("model") if training else self.study.model_source
        if load is None:
            raise ValueError("a checkpoint is trained or loaded")
        verdict = self.kind.verdict
        return {
            "study_id": self.study.spec.id,
            "checkpoint": result.checkpoint.key,
            "model": model_digest(load) if training else result.checkpoint.digest,
            "load": str(load),
            "domain": self.contents.provenance.pack_id,
            "language": self.contents.language,
            "kind": self.kind.kind,
            "metric": self.contents.metric,
            "unit": self.contents.unit,
            "gap_floor": self.contents.gap_floor,
            "confidence": self.contents.confidence,
            "nulls_absent": dict(self.kind.nulls_absent),
            "verdict": {
                "word": verdict.word,
                "grade": verdict.grade,
                "reasons": [[each.code, dict(each.numbers)] for each in verdict.reasons],
                "why_not_stronger": [[each.code, dict(each.numbers)] for each in verdict.why_not_stronger],
            },
        }

    def evidence(self, site: Site) -> Evidence:
        """The evidence of one place."""
        part, cell = self._cell(site)
        own = {"site": str(site), "component": site.component, "layer": site.layer, "role": site.position}
        moved = part.recovery[:, *cell], part.damage[:, *cell]
        return self._evidence(own, self._intervals(part, cell), *moved)

    def held(self, queue: Collection[tuple[str, str, str, str]]) -> list[str]:
        """The names of the places and sets of this kind, in this model, that are in the queue."""
        mine = tuple(self.common[name] for name in ("checkpoint", "model", "kind"))
        return [name for *whose, name in queue if tuple(whose) == mine]

    def set_evidence(self, held: Collection[str] = ()) -> list[Evidence]:
        """The evidence of the set that the verdict stands on, and of those `held`; a set of one place is that place."""
        named, sets = self.kind.verdict.named_set, self.kind.verdict.sets
        named_sites = None if named is None else named.sites
        if sets is None:
            return []
        chosen = {
            JOINED.join(map(str, tried.sites)): (tried, effects)
            for tried, effects in zip(sets.sets, sets.evidence.sets, strict=True)
            if len(tried.sites) > 1
        }
        return [
            self._of_set(name, *each) for name, each in chosen.items() if name in held or each[0].sites == named_sites
        ]

    def _of_set(self, name: str, tried: TriedSet, effects: SetEffects) -> Evidence:
        own = {"site": name, "component": tried.sites[0].component, "layer": None, "role": None}
        shares = {"recovery": tried.recovery, "damage": tried.damage, "nulls": tried.nulls, "damage_nulls": {}}
        return self._evidence(own, shares, effects.denoise.joint, effects.noise.joint)

    def _evidence(
        self, own: Mapping[str, Any], shares: Mapping[str, Any], given_back: np.ndarray, taken_away: np.ndarray
    ) -> Evidence:
        maps = {each.direction: _map(each) for each in self.kind.maps if each.component == own["component"]}
        around = surroundings_of(self.kind, own["component"])
        pairs = self._pairs(given_back, taken_away)
        return Evidence(_plain({**self.common, **own, **shares, "maps": maps, **around, "pairs": pairs}))

    def null_sites(self, candidates: Sequence[Site]) -> list[Site]:
        """Places, drawn by the study's seed, whose intervals on the held-out facts do not rise above 0 or a null."""
        found = [site for site in self._sites() if site not in candidates and self._is_null(site)]
        random = np.random.default_rng(self.view.seed("decoys"))
        wanted = min(len(found), max(1, round(DECOYS * len(candidates))))
        return [found[index] for index in sorted(random.choice(len(found), wanted, replace=False))]

    def _sites(self) -> Iterator[Site]:
        for component, part in self.parts.items():
            for layer, column in np.ndindex(part.structural.shape):
                if not part.structural[layer, column]:
                    yield Site(component, layer, None, self.view.roles[column])

    def _is_null(self, site: Site) -> bool:
        part, cell = self._cell(site)
        moved = part.recovery[self.held_out][:, *cell]
        facts = {fact for fact, value in zip(self._facts, moved, strict=True) if np.isfinite(value)}
        if len(facts) < FACTS_IN_EACH_HALF or np.abs(np.nan_to_num(moved)).max() <= STILL:
            return False
        found = self._intervals(part, cell)
        return bool(found["recovery"].low <= 0 and found["damage"].low <= 0)

    def _cell(self, site: Site) -> tuple[ComponentMap, tuple[int, int]]:
        layer, role = site.layer, site.position
        if not isinstance(layer, int) or not isinstance(role, str):
            raise TypeError(f"{site} is not one cell of a map")
        return self.parts[site.component], (layer, self.view.roles.index(role))

    @property
    def _facts(self) -> list[str]:
        return [pair.fact for pair in self.view.pairs if pair.half == "confirmation"]

    @property
    def _partners(self) -> list[str]:
        return [pair.partner for pair in self.view.pairs if pair.half == "confirmation"]

    def _intervals(self, part: ComponentMap, cell: tuple[int, int]) -> dict[str, Any]:
        """As `judge` makes them for its candidates: with its seed, on the held-out facts."""

        def share(effects: np.ndarray, gaps: np.ndarray) -> Interval:
            chosen = effects[self.held_out][:, *cell]
            seed = self.view.seed("verdict")
            return cluster_bootstrap(chosen, gaps[self.held_out], self._facts, partners=self._partners, seed=seed).at()

        gaps = self.view.gaps
        models = part.models.items()
        return {
            "recovery": share(part.recovery, gaps),
            "damage": share(part.damage, gaps),
            "nulls": {name: share(null, gaps) for name, null in part.nulls.items()}
            | {name: share(null.recovery, null.gaps) for name, null in models},
            "damage_nulls": {name: share(null, gaps) for name, null in part.damage_nulls.items()}
            | {name: share(null.damage, null.gaps) for name, null in models},
        }

    def _pairs(self, given_back: np.ndarray, taken_away: np.ndarray) -> list[dict[str, Any]]:
        rows = zip(self.view.questions, self.held_out, strict=True)
        return [
            {
                **dataclasses.asdict(question.pair),
                "words": question.words,
                "corrupted_words": question.corrupted_words,
                "roles": question.roles,
                "differing": question.differing,
                "clean_metric": question.clean,
                "corrupted_metric": question.corrupted,
                "given_back": float(given_back[index]),
                "taken_away": float(taken_away[index]),
                "held_out": bool(held),
            }
            for index, (question, held) in enumerate(rows)
        ]


def _map(effects: EffectMap) -> dict[str, Any]:
    control = effects.control
    band = {} if control is None else {"control_low": control.low, "control_high": control.high}
    shown = {name: getattr(effects.effect, name) for name in ("estimate", "low", "high")} | band
    marks = {"significant": effects.significant, "structural": effects.structural}
    return {"roles": effects.roles, **{name: cells.tolist() for name, cells in (shown | marks).items()}}


def _plain(value: Any) -> Any:
    """The value as JSON has it: an interval by its four numbers, null for a number that is not finite."""
    if isinstance(value, Interval):
        return {name: _plain(getattr(value, name)) for name in ("estimate", "low", "high", "n")}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
