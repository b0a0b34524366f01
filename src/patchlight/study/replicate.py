"""A study run again: on other models, with other packs, from other seeds, each varied by itself.

Every run is a study file of its own, so that `patchlight resume` and `report` work on it; units are shared by hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from patchlight.errors import GateFailed, InputError, UnitsFailed
from patchlight.judge.replication import Outcome, Region, region_of
from patchlight.judge.statistics import cluster_bootstrap
from patchlight.on_disk import absolute, is_there
from patchlight.packs.read import read_pack
from patchlight.records import Interval, Site
from patchlight.report.contents import KindResult
from patchlight.report.replication import Replication
from patchlight.run.progress import Progress
from patchlight.store.faults import told_clearly
from patchlight.store.ledger import Ledger
from patchlight.study.findings import kind_view
from patchlight.study.results import CheckpointResults
from patchlight.study.spec import Study, read_study
from patchlight.study.stages import loaded_checkpoint
from patchlight.study.view import CONTRIBUTIONS, KindView
from patchlight.study.walk import Walked, require_relations, walk


@dataclass(frozen=True)
class Run:
    """One run: its name, what it varies (`study` for the study as it is), and its own study file."""

    name: str
    varied: str
    study: Study


def plan_runs(
    study: Study, folder: Path, *, models: Sequence[str] = (), packs: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[Run]:
    """The study as it is, then one run for each model, pack and seed; their files lie in `folder`/studies.

    Models and packs are named as in a study; paths are read from the current folder. Everything is looked up before
    anything is computed: raises InputError for a model, pack or relation that is not there.
    """
    changes: list[tuple[str, str, dict[str, Any]]] = [("study", study.spec.id, {})]
    changes += [("model", name, {"model": _model(study, name)}) for name in dict.fromkeys(models)]
    changes += [("pack", name, {"pack": _found(name)}) for name in dict.fromkeys(packs)]
    changes += [("seed", str(seed), {"seed": seed}) for seed in dict.fromkeys(seeds) if seed != study.spec.seed]
    if len(changes) == 1:
        raise InputError(
            "replicate-nothing-varied",
            "a replication needs something that differs from the study",
            fix="give --models, --packs or --seeds, for example --models gpt2,distilgpt2",
        )
    runs = [_run(study, number, *change, folder) for number, change in enumerate(changes)]
    for run in runs:
        require_relations(run.study, read_pack(run.study.pack_source))
        loaded_checkpoint(run.study)
    return runs


def replicate(
    runs: Sequence[Run], ledger: Ledger, progress: Callable[[], Progress], command: str, on_run: Callable[[Run], None]
) -> Replication:
    """What held over the runs. A run that fails is listed with its reason, and the others go on."""
    outcomes: list[Outcome] = []
    failed: list[tuple[str, str]] = []
    for run in runs:
        on_run(run)
        spec, file = run.study.spec, run.study.file
        title = next(iter(spec.title.values()))
        ledger.begin_study(spec.digest, title, file.read_text(encoding="utf-8"), str(file.resolve()), spec.id)
        try:
            walked = walk(run.study, ledger, progress(), command)
        except (InputError, GateFailed, UnitsFailed) as error:
            failed.append((run.name, error.what))
            continue
        failed += [(run.name, f"{each.unit.label}: {each.reason}") for each in walked.failures[:1]]
        outcomes += outcomes_of(run, walked)
    first = runs[0].study.spec
    return Replication({str(name): text for name, text in first.title.items()}, tuple(outcomes), tuple(failed), command)


def outcomes_of(run: Run, walked: Walked) -> Iterator[Outcome]:
    """The outcome of each kind of knowledge in each checkpoint of a run."""
    spec = run.study.spec
    for checkpoint, result in zip(walked.contents.checkpoints, walked.results, strict=True):
        for kind in checkpoint.kinds:
            view = kind_view(run.study, result, kind.kind)
            yield Outcome(
                run=run.name,
                varied=run.varied,
                model=spec.model.load or f"GPT-2 (new, {spec.seed})",
                checkpoint=result.checkpoint.key,
                origin=_origin(run, result),
                pack=spec.pack,
                seed=spec.seed,
                kind=kind.kind,
                word=kind.verdict.word,
                grade=kind.verdict.grade,
                facts=kind.facts,
                reasons=kind.verdict.reasons,
                regions=_regions(kind, _layers(view)),
                effects=_effects(view) if view.sweeps else {},
            )


def _origin(run: Run, result: CheckpointResults) -> str:
    """What makes models independent: their first weights. Models fine-tuned from one another share them."""
    base = loaded_checkpoint(run.study)
    return base.digest if base else f"new, seed {run.study.spec.seed}"


def _layers(view: KindView) -> int:
    return view.sweeps[0].values.shape[1] if view.sweeps else 0


def _regions(kind: KindResult, layers: int) -> frozenset[Region]:
    return frozenset(region_of(each.site, layers) for each in kind.verdict.candidates if each.confirmed)


def _effects(view: KindView) -> dict[Region, Interval]:
    """For each region, the summed recovery of its sites one by one, without those that restore all by construction."""
    found = {}
    sweeps = [each for each in view.sweeps if each.component in CONTRIBUTIONS and not each.null]
    for sweep in (each for each in sweeps if each.direction == "denoise"):
        cells = np.where(view.structural(sweep), np.nan, view.by_role(view.effects(sweep)))
        layers = cells.shape[1]
        sites = [Site(sweep.component, layer, None, role) for layer in range(layers) for role in view.roles]
        regions = np.array([region_of(site, layers) for site in sites], dtype=object)
        flat = cells.reshape(len(cells), -1)
        for region in sorted(set(regions)):
            part = flat[:, [each == region for each in regions]]
            summed = np.where(np.isfinite(part).any(axis=1), np.nansum(part, axis=1), np.nan)
            if np.isfinite(summed).any():
                seed = view.seed("replicate")
                interval = cluster_bootstrap(summed, view.gaps, view.facts, partners=view.partners, seed=seed)
                found[region] = interval.at()
    return found


def _model(study: Study, name: str) -> dict[str, Any]:
    kept = study.spec.model
    return {"load": _found(name), "dtype": kept.dtype, "device": kept.device}


def _found(name: str) -> str:
    """A path made absolute where there is one, else the name as it is written."""
    return str(absolute(name)) if is_there(name) else name


def _run(study: Study, number: int, varied: str, name: str, change: dict[str, Any], folder: Path) -> Run:
    """The run with its study file, in which every path is absolute."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", Path(name).stem).strip("-")
    spec = study.spec.model_dump(mode="json", by_alias=True, exclude_none=True) | {"pack": str(study.pack_source)}
    if study.model_source:
        spec["model"]["load"] = study.model_source
    if study.adapter_source:
        spec["model"]["adapter"] = study.adapter_source
    if study.corpus_files:
        spec["corpus"]["files"] = [str(file) for file in study.corpus_files]
    spec |= {**change, "id": f"{study.spec.id[:20]}-{number}-{varied}-{word}"[:40].rstrip("-")}
    file = folder / "studies" / f"{spec['id']}.yaml"
    with told_clearly(folder):
        file.parent.mkdir(parents=True, exist_ok=True)
        YAML(typ="safe").dump(spec, file)
    return Run(name if varied in ("study", "seed") else Path(name).stem or name, varied, read_study(file))
