"""Effects on each token of an answer, and of neighbours exchanged together: a unit for each kind and component.

All facts of a kind take part, in the study's first direction: nothing is chosen by it, so that no half is held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from patchlight.pairs.align import mean_by_role
from patchlight.report.timed import StepsResult, Timed, WindowsResult
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.intervals import unit_intervals
from patchlight.study.results import Checkpoint, Question
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on
from patchlight.study.sweeping import Windows

TIMED = (*SWEEPS, "study/timed.py")


def timed_units(study: Study, checkpoint: Checkpoint, questions: Sequence[Question]) -> list[tuple[str, Unit]]:
    """The kinds of knowledge with their units; none where the study does not ask for it, or no pair is long enough."""
    spec, found = study.spec.sweep, []
    for kind in dict.fromkeys(question.pair.kind for question in questions):
        mine = [question for question in questions if question.pair.kind == kind]
        several = [question for question in mine if question.answer_tokens > 1]
        for component in spec.components:
            if spec.steps and several:
                single = len(mine) - len(several)
                found.append((kind, _steps_unit(study, checkpoint, kind, component, several, single)))
            wide = spec.windows and [each for each in mine if len(each.words) >= spec.windows.positions]
            if spec.windows and wide:
                found.append((kind, _windows_unit(study, checkpoint, kind, component, wide, spec.windows)))
    return found


def timed_of(study: Study, done: Iterable[tuple[str, Artifact]]) -> Mapping[str, Timed]:
    """By kind of knowledge, what was measured, with intervals over facts."""
    found: dict[str, Timed] = {}
    for kind, artifact in done:
        of_kind = found.get(kind, Timed())
        if "windows" in artifact.meta:
            found[kind] = replace(of_kind, windows=(*of_kind.windows, _windows(study, kind, artifact)))
        elif artifact.meta["facts"]:
            found[kind] = replace(of_kind, steps=(*of_kind.steps, _steps(study, kind, artifact)))
    return found


def _steps_unit(
    study: Study, checkpoint: Checkpoint, kind: str, component: str, questions: Sequence[Question], single: int
) -> Unit:
    spec, pairs = study.spec.sweep, [question.pair for question in questions]

    def work(workplace: Workplace) -> Result:
        from patchlight.trace.metrics import FLOORS
        from patchlight.trace.steps import METRIC, sweep_steps

        found = sweep_steps(
            checkpoint.model,
            pairs,
            component=component,
            direction=spec.directions[0],
            on_progress=workplace.on_progress,
            memory=spec.memory,
        )
        kept = found.gaps >= FLOORS[METRIC]
        tensors = {
            "moved": found.moved()[kept],
            "gap": (found.clean - found.corrupted)[kept],
            "gaps": found.gaps[kept],
            "structural": found.structural[kept],
        }
        meta = {"places": found.places, "left_out": int((~kept).sum()), "single": single}
        used = [question for question, keep in zip(questions, kept, strict=True) if keep]
        return Result({**_about(component, spec.directions[0], used), **meta}, {"effects": tensors})

    inputs = _inputs(study, checkpoint, component, questions)
    return Unit("steps", f"{checkpoint.key}: {component} by token of the answer, {kind}", inputs, work, TIMED)


def _windows_unit(
    study: Study,
    checkpoint: Checkpoint,
    kind: str,
    component: str,
    questions: Sequence[Question],
    wanted: Windows,
) -> Unit:
    spec, pairs = study.spec.sweep, [question.pair for question in questions]

    def work(workplace: Workplace) -> Result:
        from patchlight.trace.windows import sweep_windows

        found = sweep_windows(
            checkpoint.model,
            pairs,
            layers=wanted.layers,
            positions=wanted.positions,
            component=component,
            direction=spec.directions[0],
            metric=spec.metrics[0],
            on_progress=workplace.on_progress,
            memory=spec.memory,
        )
        gaps = found.joint.clean - found.joint.corrupted
        shares = [found.recovery(-np.inf), found.sum_of_singles(-np.inf), found.structural.astype(float)]
        # A window that would begin too late for the prompt is no window.
        padded = [np.pad(each, ((0, 0), (0, 0), (0, wanted.positions - 1)), constant_values=np.nan) for each in shares]
        roles = [question.roles for question in questions]
        present, together = mean_by_role(np.stack(padded, axis=2), roles)
        meta = {**_about(component, spec.directions[0], questions), "roles": present}
        tensors = {
            "moved": together[:, :, :2].swapaxes(2, 3) * gaps[:, None, None, None],
            "gaps": gaps,
            "structural": np.nan_to_num(together[:, :, 2]).any(axis=0),
        }
        return Result({**meta, "windows": wanted.model_dump()}, {"effects": tensors})

    inputs = _inputs(study, checkpoint, component, questions) | {
        "metric": spec.metrics[0],
        "windows": wanted.model_dump(),
    }
    return Unit("windows", f"{checkpoint.key}: windows of {component}, {kind}", inputs, work, TIMED)


def _inputs(study: Study, checkpoint: Checkpoint, component: str, questions: Sequence[Question]) -> dict[str, Any]:
    return {
        "model": checkpoint.digest,
        **run_on(study),
        "component": component,
        "direction": study.spec.sweep.directions[0],
        "memory": study.spec.sweep.memory,
        "pairs": pair_rows([question.pair for question in questions]),
    }


def _about(component: str, direction: str, questions: Sequence[Question]) -> dict[str, Any]:
    return {
        "component": component,
        "direction": direction,
        "facts": [question.pair.fact for question in questions],
        "partners": [question.pair.partner for question in questions],
    }


def _steps(study: Study, kind: str, artifact: Artifact) -> StepsResult:
    tensors, meta = artifact.tensors("effects"), artifact.meta
    return StepsResult(
        meta["component"],
        meta["direction"],
        tuple(meta["places"]),
        unit_intervals(study, kind, tensors["moved"], artifact, use="timed"),
        unit_intervals(study, kind, tensors["gap"], artifact, use="timed"),
        np.asarray(tensors["structural"].any(axis=0)),
        len(set(meta["facts"])),
        len(meta["facts"]),
        meta["left_out"],
        meta["single"],
    )


def _windows(study: Study, kind: str, artifact: Artifact) -> WindowsResult:
    tensors, meta = artifact.tensors("effects"), artifact.meta
    return WindowsResult(
        meta["component"],
        meta["direction"],
        **meta["windows"],
        roles=tuple(meta["roles"]),
        shares=unit_intervals(study, kind, tensors["moved"], artifact, use="timed"),
        structural=tensors["structural"],
        facts=len(set(meta["facts"])),
        pairs=len(meta["facts"]),
    )
