"""The calibration passport: planted models judged one by one, and how often the tool was right, with intervals."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from patchlight.errors import GateFailed, UnitsFailed
from patchlight.judge.thresholds import THRESHOLDS, Thresholds
from patchlight.judge.verdict import Word, word_under
from patchlight.model.planted.circuits import CIRCUITS
from patchlight.model.planted.compiled import PROGRAMS
from patchlight.run.units import LIBRARIES, ROOMS, Unit, Workplace, run_units, source_version
from patchlight.store.results import Result
from patchlight.study.planted import Case, verdict_on
from patchlight.verify.passport import DECIDES

if TYPE_CHECKING:
    from patchlight.run.progress import Progress
    from patchlight.store.ledger import Ledger

FORMAT = 1
STUDY = "passport"
REPORTED, CHOSEN_ON = 100, 1000  # first seeds: thresholds are never chosen on the seeds that are reported
LAYERS = 6
TRUTH: Mapping[str, Word] = {"a": "localised", "b": "distributed", "c": "no knowledge to localise"}
ELSEWHERE = "localised elsewhere"  # a set was named that is not the one which works
CONFIDENT = ("localised", "distributed", ELSEWHERE)
TARGETS = {"hit": 0.95, "nothing": 0.95, "right": 0.9, "wrong": 0.02}
GRID = {"confirmed": (0.3, 0.4, 0.5, 0.6), "small": (0.05, 0.1, 0.15, 0.2), "spread": (1.5, 2.0, 3.0)}
CODE = (*ROOMS, "study/planted.py", "study/passport.py")
EXACT = 1e-9  # in logits; hand-made models are float64


def cases(first: int, count: int) -> list[Case]:
    """For each of `count` seeds: facts taught in two layers one at a time, in every layer, and in none."""
    found = []
    for number in range(count):
        seed, layer = first + number, number % LAYERS
        found += [Case("a", seed, layer), Case("a", seed, (layer + LAYERS // 2) % LAYERS)]
        found += [Case("b", seed), Case("c", seed)]
    return found


def grid() -> list[Thresholds]:
    """The thresholds that are weighed against one another, those in force among them."""
    every = [
        replace(THRESHOLDS, confirmed=confirmed, small=small, spread=spread)
        for confirmed, small, spread in itertools.product(*GRID.values())
    ]
    return every if THRESHOLDS in every else [*every, THRESHOLDS]


def key(thresholds: Thresholds) -> str:
    """The thresholds that are weighed, as text."""
    return " ".join(f"{name}={getattr(thresholds, name):g}" for name in GRID)


def quick_cases(seed: int) -> list[Case]:
    """Two models of one seed: that the command works, not how often it is right."""
    return [Case("a", seed, LAYERS - 1), Case("c", seed)]


def measured(ledger: Ledger, progress: Progress, chosen: Sequence[Case]) -> list[Mapping[str, Any]]:
    """What came of each planted and hand-made model; what the ledger has is not computed again.

    Raises UnitsFailed where one failed: rates over the others would look better than they are.
    """
    return ran_all(ledger, progress, units(chosen))


def ran_all(ledger: Ledger, progress: Progress, planned: Sequence[Unit]) -> list[Mapping[str, Any]]:
    """What came of these units, all of them. Raises UnitsFailed where one failed."""
    ledger.begin_study(STUDY, "Calibration passport", "", "", STUDY)
    ran = run_units(ledger, planned, progress, study=STUDY)
    if ran.failures:
        first = ran.failures[0]
        what = f"{len(ran.failures)} models failed, the first: {first.unit.label}: {first.reason}"
        raise UnitsFailed("passport-units-failed", what, fix="run the command again; what is done is kept")
    return [artifact.meta for artifact in ran.artifacts.values()]


def units(chosen: Sequence[Case]) -> list[Unit]:
    """One unit for each planted model, hand-built circuit and compiled program."""
    made = [_case_unit(case) for case in chosen]
    made += [_exact_unit("d", name, _circuit) for name in CIRCUITS]
    return made + [_exact_unit("e", name, _program) for name in PROGRAMS]


def _case_unit(case: Case) -> Unit:
    def work(_: Workplace) -> Result:
        return Result({**asdict(case), **_judged(case)})

    inputs = {**asdict(case), "thresholds": [key(each) for each in grid()]}
    return Unit("passport", case.label, inputs, work, CODE)


def _judged(case: Case) -> dict[str, Any]:
    try:
        planted = case.planted()
    except GateFailed as refused:
        return {"not_learnt": refused.what}
    verdict = verdict_on(planted, case.seed)
    return {
        "truth": list(planted.truth.weights),
        "confirmed": [
            f"weights.blocks.{each.site.layer}.{each.site.component}" for each in verdict.candidates if each.confirmed
        ],
        "words": {key(each): word_under(verdict, each) for each in grid()},
        "reasons": [each.code for each in verdict.reasons],
    }


def _exact_unit(group: str, name: str, measure: Callable[[str], dict[str, Any]]) -> Unit:
    def work(_: Workplace) -> Result:
        return Result({"group": group, "name": name, **measure(name)})

    return Unit("passport", f"hand-made model: {name}", {"name": name}, work, CODE)


def _circuit(name: str) -> dict[str, Any]:
    """How far measured total, direct and indirect effects are from those on paper, in logits."""
    from patchlight.trace.mediation import effects

    circuit, errors = CIRCUITS[name](), []
    for direction in ("denoise", "noise"):
        known = [each for each in circuit.effects if each.direction == direction]
        found = effects(circuit.model, circuit.pairs, [each.site for each in known], direction=direction)
        for part in ("total", "direct", "indirect"):
            expected = np.outer(circuit.gaps, [getattr(each, part) for each in known])
            errors += (found.effect(part) - expected).ravel().tolist()
    return {"effects": len(errors), "bias": float(np.mean(errors)), "largest": float(np.abs(errors).max())}


def _program(name: str) -> dict[str, Any]:
    """Which heads and MLPs of a compiled program the sweep finds: those that work, and others."""
    from patchlight.trace.sweep import sweep

    program, counts = PROGRAMS[name](), Counter[str]()
    for pair, working in zip(program.pairs, program.working, strict=True):
        found, places = set(), 0
        for component in ("head_out", "mlp_out"):
            effects = sweep(program.model, [pair], component=component)
            moved = np.abs(effects.values[0] - effects.corrupted[0]) > EXACT
            places += moved.size
            found |= {_place(component, moved.shape[-1], at) for at in np.argwhere(moved)}
        counts.update(working=len(working), hit=len(found & working), idle=places - len(working))
        counts.update(false=len(found - working))
    return dict(counts)


def _place(component: str, length: int, at: np.ndarray) -> str:
    layer, *unit, position = (int(each) for each in at)
    end = "last" if position == length - 1 else position
    return f"blocks.{layer}.{component}{''.join(f'.{each}' for each in unit)}@{end}"


def passport_of(rows: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """The passport: rates with exact (Clopper-Pearson) 95 % intervals, verdicts, and what it was made with."""
    judged = [row for row in rows if "words" in row]
    exact = {group: [dict(row) for row in rows if row["group"] == group] for group in "de"}
    return {
        "format": FORMAT,
        "made_with": {name: version(name) for name in ("patchlight", *LIBRARIES)},
        "code": source_version(DECIDES),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds),
        "seeds": sorted({row["seed"] for row in judged}),
        "thresholds": {name: getattr(THRESHOLDS, name) for name in GRID},
        "not_learnt": sum("not_learnt" in row for row in rows),
        "rates": rates(judged),
        "verdicts": confusion(judged, key(THRESHOLDS)),
        "effects": _effects(exact["d"]),
        "places": _places(exact["e"]),
        "models": [{**row, "words": {"": row["words"][key(THRESHOLDS)]}} for row in judged],
    }


def rates(judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often the truth was among the confirmed findings, something false was, and the verdict was right."""
    of = {group: [row for row in judged if row["group"] == group] for group in TRUTH}
    now = key(THRESHOLDS)
    false = [set(row["confirmed"]) - set(row["truth"]) for row in judged]
    wrong = [is_wrong(row, now) for row in judged]
    quiet = [not row["confirmed"] and row["words"][now] not in CONFIDENT for row in of["c"]]
    return {
        "hit": rate([set(row["truth"]) <= set(row["confirmed"]) for row in of["a"]]),
        "nothing": rate(quiet),
        "false": rate([bool(each) for each in false]),
        **{f"right.{group}": rate([is_right(row, now) for row in rows]) for group, rows in of.items()},
        "right": rate([is_right(row, now) for row in judged]),
        "wrong": rate(wrong),
    }


def confusion(judged: Sequence[Mapping[str, Any]], thresholds: str) -> dict[str, dict[str, int]]:
    """By class, how often each verdict was given."""
    return {
        group: dict(Counter(row["words"][thresholds] for row in judged if row.get("group") == group)) for group in TRUTH
    }


def choose(judged: Sequence[Mapping[str, Any]]) -> Thresholds:
    """The thresholds with the fewest confident wrong verdicts, then the most right ones, then nearest to today's."""

    def order(each: Thresholds) -> tuple[float, ...]:
        name = key(each)
        away = sum(abs(np.log(getattr(each, part) / getattr(THRESHOLDS, part))) for part in GRID)
        return sum(is_wrong(row, name) for row in judged), -sum(is_right(row, name) for row in judged), float(away)

    return min(grid(), key=order)


def proposal(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The thresholds that `choose` takes, the rule, the seeds, and what they make of the models they were chosen on."""
    judged = [row for row in rows if "words" in row]
    best = choose(judged)
    return {
        "thresholds": {name: getattr(best, name) for name in GRID},
        "rule": "fewest confident wrong verdicts, then most right ones, then nearest to the thresholds in force",
        "seeds": {
            "weights": sorted({row["seed"] for row in judged if "circuit" not in row}),
            "activations": sorted({row["seed"] for row in judged if "circuit" in row}),
        },
        "models": len(judged),
        "date": datetime.now(UTC).date().isoformat(),
        "weighed": {name: list(values) for name, values in GRID.items()},
        "scores": {key(each): dict(zip(("wrong", "right"), _score(judged, key(each)), strict=True)) for each in grid()},
        "alike": sum(_score(judged, key(each)) == _score(judged, key(best)) for each in grid()),
    }


def _score(judged: Sequence[Mapping[str, Any]], thresholds: str) -> tuple[int, int]:
    return sum(is_wrong(row, thresholds) for row in judged), sum(is_right(row, thresholds) for row in judged)


def is_right(row: Mapping[str, Any], thresholds: str) -> bool:
    """Whether the verdict under these thresholds is the true one: of the row, or of its class."""
    return bool(row["words"][thresholds] == (row["truth"] if "circuit" in row else TRUTH[row["group"]]))


def is_wrong(row: Mapping[str, Any], thresholds: str) -> bool:
    """Whether it says localised or distributed, and is not the true one."""
    return row["words"][thresholds] in CONFIDENT and not is_right(row, thresholds)


def rate(found: Sequence[bool]) -> dict[str, float]:
    """How many of n, with the exact (Clopper-Pearson) 95 % interval of the share."""
    from scipy.stats import binomtest

    if not found:
        return {"count": 0, "n": 0, "low": 0.0, "high": 1.0}
    interval = binomtest(sum(found), len(found)).proportion_ci(method="exact")
    return {"count": sum(found), "n": len(found), "low": float(interval.low), "high": float(interval.high)}


def _effects(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    count = sum(row["effects"] for row in rows)
    bias = sum(row["bias"] * row["effects"] for row in rows) / count
    return {"models": len(rows), "effects": count, "bias": bias, "largest": max(row["largest"] for row in rows)}


def _places(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    parts = ("working", "hit", "idle", "false")
    return {"models": len(rows), **{part: sum(row[part] for row in rows) for part in parts}}
