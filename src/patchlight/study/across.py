"""What fine-tuning wrote, and where: a study's models patched from one to the other, one unit for each map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from patchlight.judge.statistics import IntervalMap, cluster_bootstrap
from patchlight.records import Pair
from patchlight.report.contents import Transfer
from patchlight.run.units import Ran, Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.results import AcrossResult, Checkpoint, CheckpointResults
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on, seed_of

if TYPE_CHECKING:
    from patchlight.trace.across import AcrossEffects

ACROSS = (*SWEEPS, "study/across.py")
WEIGHTS = "weights"


@dataclass(frozen=True)
class Asked:
    """One map: the weights or a component, in a direction; or the control beside it."""

    what: str
    direction: str
    control: bool


def with_across(
    study: Study, base: Checkpoint, result: CheckpointResults, run: Callable[[Sequence[Unit]], Ran]
) -> CheckpointResults:
    """What was measured of a fine-tuned checkpoint, with the maps between it and the model before."""
    if study.spec.sweep.across is None or result.checkpoint.key == base.key or not result.questions:
        return result
    units = across_units(study, base, result.checkpoint, [question.pair for question in result.questions])
    artifacts = run([unit for _, unit in units]).artifacts
    done = {asked: artifacts[unit.hash] for asked, unit in units if unit.hash in artifacts}
    maps = tuple(_joined(asked, artifact, done) for asked, artifact in done.items() if not asked.control)
    return dataclasses.replace(result, across=maps)


def across_units(study: Study, base: Checkpoint, tuned: Checkpoint, pairs: Sequence[Pair]) -> list[tuple[Asked, Unit]]:
    """The maps between two checkpoints, each with its control where there is one.

    Beside weights it is what was learnt in an order of chance; beside activations, in denoising, another fact's prompt.
    """
    spec = study.spec.sweep.across
    if spec is None:
        return []
    asked = []
    for direction in study.spec.sweep.directions:
        asked += [Asked(WEIGHTS, direction, control) for control in (False, True) if spec.weights]
        controls = (False, True) if direction == "denoise" else (False,)
        asked += [Asked(component, direction, control) for component in spec.components for control in controls]
    return [(each, _unit(study, base, tuned, pairs, each)) for each in asked]


def transfers(study: Study, result: CheckpointResults, kind: str) -> tuple[Transfer, ...]:
    """The maps of a kind with intervals over facts, of the pairs whose models differ by the gap floor or more."""
    of_kind = np.array([question.pair.kind == kind for question in result.questions], dtype=bool)
    return tuple(_transfer(study, result, each, of_kind) for each in result.across if of_kind.any())


def _unit(study: Study, base: Checkpoint, tuned: Checkpoint, pairs: Sequence[Pair], asked: Asked) -> Unit:
    seed = seed_of(study, "across", tuned.key)

    def work(workplace: Workplace) -> Result:
        if asked.what == WEIGHTS:
            return _weights(study, base, tuned, pairs, asked, seed, workplace)
        return _activations(study, base, tuned, pairs, asked, seed, workplace)

    inputs = {
        **dataclasses.asdict(asked),
        "base": base.digest,
        "tuned": tuned.digest,
        **run_on(study),
        "metric": study.spec.sweep.metrics[0],
        "memory": study.spec.sweep.memory,
        "pairs": pair_rows(pairs),
        "seed": seed if asked.control else None,
    }
    what = f"{asked.what} {asked.direction}{' control' if asked.control else ''}"
    return Unit("across", f"{tuned.key}: {what}, from model to model", inputs, work, ACROSS)


def _weights(
    study: Study, base: Checkpoint, tuned: Checkpoint, pairs: Sequence[Pair], asked: Asked, seed: int, at: Workplace
) -> Result:
    from patchlight.trace.weights import patch_weights

    found = patch_weights(
        base.model,
        tuned.model,
        pairs,
        direction=asked.direction,
        metric=study.spec.sweep.metrics[0],
        delta="shuffled" if asked.control else "learnt",
        seed=seed,
        on_progress=at.on_progress,
    )
    names = [" & ".join(names) if len(names) == 1 else WEIGHTS for names in found.sets]
    arrays = {"values": found.values, "structural": found.structural, "tuned": found.tuned, "base": found.base}
    return Result({"sites": names}, {"effects": arrays})


def _activations(
    study: Study, base: Checkpoint, tuned: Checkpoint, pairs: Sequence[Pair], asked: Asked, seed: int, at: Workplace
) -> Result:
    from patchlight.trace.across import patch_across
    from patchlight.verify.controls import donor_from_another_fact

    chosen, donors = list(range(len(pairs))), None
    if asked.control:
        every = donor_from_another_fact(pairs, base.model.tokenizer, seed).prompts
        chosen = [index for index in chosen if every[index] is not None]
        donors = [every[index] or "" for index in chosen]
    effects = patch_across(
        base.model,
        tuned.model,
        [pairs[index] for index in chosen],
        component=asked.what,
        direction=asked.direction,
        metric=study.spec.sweep.metrics[0],
        positions="roles",
        donors=donors,
        memory=study.spec.sweep.memory,
        on_progress=at.on_progress,
    )
    return _as_list(effects, chosen, len(pairs))


def _as_list(effects: AcrossEffects, chosen: Sequence[int], pairs: int) -> Result:
    """Layers and roles as a list of sites; NaN for pairs that were not asked."""
    layers = effects.values.shape[1]
    sites = [f"blocks.{layer}.{effects.component}@{role}" for layer in range(layers) for role in effects.columns]
    values, runs = np.full((pairs, len(sites)), np.nan), np.full((2, pairs), np.nan)
    values[chosen] = effects.values.reshape(len(chosen), len(sites))
    runs[:, chosen] = effects.clean, effects.corrupted
    structural = effects.structural.any(0).reshape(-1)
    arrays = {"values": values, "structural": structural, "tuned": runs[0], "base": runs[1]}
    return Result({"sites": sites}, {"effects": arrays})


def _joined(asked: Asked, artifact: Artifact, done: dict[Asked, Artifact]) -> AcrossResult:
    arrays, sites = artifact.tensors("effects"), tuple(artifact.meta["sites"])
    beside = done.get(dataclasses.replace(asked, control=True))
    control = None
    if beside is not None:
        # A role that only pairs without a donor have is not in the control.
        column = {site: at for at, site in enumerate(beside.meta["sites"])}
        values = beside.tensors("effects")["values"]
        missing = np.full(len(values), np.nan)
        control = np.stack([values[:, column[site]] if site in column else missing for site in sites], axis=1)
    return AcrossResult(asked.what, asked.direction, sites, **arrays, control=control)


def _transfer(
    study: Study, result: CheckpointResults, measured: AcrossResult, of_kind: Bool[np.ndarray, " pair"]
) -> Transfer:
    gaps = measured.tuned - measured.base
    rows = of_kind & (gaps >= study.spec.gap_floor)
    facts = [question.pair.fact for question, kept in zip(result.questions, rows, strict=True) if kept]
    shared: dict[str, Any] = {
        "seed": seed_of(study, "across intervals"),
        "resamples": study.spec.statistics.resamples,
        "confidence": study.spec.statistics.confidence,
    }

    def intervals(values: Float[np.ndarray, "pair site"]) -> IntervalMap:
        moved = values - measured.base[:, None]
        moved = moved if measured.direction == "denoise" else gaps[:, None] - moved
        return cluster_bootstrap(moved[rows], gaps[rows], facts, **shared)

    return Transfer(
        what=measured.what,
        direction=measured.direction,
        sites=measured.sites,
        effect=intervals(measured.values) if facts else None,
        control=None if measured.control is None or not facts else intervals(measured.control),
        structural=measured.structural.astype(bool),
        facts=len(set(facts)),
        pairs=len(facts),
        left_out=int(of_kind.sum()) - len(facts),
    )
