"""Whether a study's maps depend on the corruption or the metric: one unit for each kind, component and corruption."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.results import Checkpoint, Question
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on, seed_of
from patchlight.verify.agreement import FactMap, Robustness, compare

ARRAYS = ("change", "gap", "settled")
ROBUSTNESS = (*SWEEPS, "study/robustness.py")


@dataclass(frozen=True)
class Choice:
    """What one unit is asked: another way to make the corrupted run, for one kind of knowledge and one component."""

    kind: str
    component: str
    corruption: str


def robustness_units(study: Study, checkpoint: Checkpoint, questions: Sequence[Question]) -> list[tuple[Choice, Unit]]:
    """The units of a checkpoint: the usual corruption and each of the study's; none where nothing is to be compared."""
    spec = study.spec.sweep
    corruptions = ("token", *spec.corruptions) if spec.corruptions or len(spec.metrics) > 1 else ()
    kinds = dict.fromkeys(question.pair.kind for question in questions)
    choices = [Choice(kind, component, each) for kind in kinds for component in spec.components for each in corruptions]
    return [(choice, _unit(study, checkpoint, questions, choice)) for choice in choices]


def _unit(study: Study, checkpoint: Checkpoint, questions: Sequence[Question], choice: Choice) -> Unit:
    spec = study.spec
    pairs = [question.pair for question in questions if question.pair.kind == choice.kind]
    seed, direction = seed_of(study, "corruptions"), spec.sweep.directions[0]

    def work(_: Workplace) -> Result:
        from patchlight.trace.corruptions import Corruption
        from patchlight.verify.robustness import fact_maps

        corruption = Corruption(choice.corruption, seed=seed)
        maps = fact_maps(
            checkpoint.model,
            pairs,
            corruption,
            spec.sweep.metrics,
            component=choice.component,
            direction=direction,
            memory=spec.sweep.memory,
        )
        words = [
            {"metric": each.metric, "facts": list(each.facts), "pairs": each.pairs, "left_out": dict(each.left_out)}
            for each in maps
        ]
        arrays = {f"{each.metric}.{name}": getattr(each, name) for each in maps for name in ARRAYS}
        return Result({"maps": words}, {"maps": arrays})

    inputs = {
        **dataclasses.asdict(choice),
        "model": checkpoint.digest,
        **run_on(study),
        "direction": direction,
        "metrics": spec.sweep.metrics,
        "memory": spec.sweep.memory,
        "pairs": pair_rows(pairs),
        "seed": seed,
    }
    label = f"{checkpoint.key}: {choice.component} {direction}, {choice.corruption} corruption, {choice.kind}"
    return Unit("robustness", label, inputs, work, ROBUSTNESS)


def robustness_of(study: Study, done: Iterable[tuple[Choice, Artifact]]) -> Mapping[str, tuple[Robustness, ...]]:
    """By kind of knowledge, the matrix of each component that has facts under the usual corruption."""
    maps: dict[tuple[str, str], list[FactMap]] = {}
    for choice, artifact in done:
        maps.setdefault((choice.kind, choice.component), []).extend(_fact_maps(choice, artifact))
    direction, seed = study.spec.sweep.directions[0], seed_of(study, "robustness")
    found: dict[str, tuple[Robustness, ...]] = {}
    for (kind, component), of_component in maps.items():
        # Nothing can be compared where the unit of the usual corruption failed.
        if of_component[0].corruption == "token" and of_component[0].facts:
            found[kind] = (*found.get(kind, ()), compare(of_component, component, direction, seed=seed))
    return found


def _fact_maps(choice: Choice, artifact: Artifact) -> list[FactMap]:
    arrays = artifact.tensors("maps")
    return [
        FactMap(
            choice.corruption,
            each["metric"],
            tuple(each["facts"]),
            **{name: arrays[f"{each['metric']}.{name}"] for name in ARRAYS},
            pairs=each["pairs"],
            left_out=each["left_out"],
        )
        for each in artifact.meta["maps"]
    ]
