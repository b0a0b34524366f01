"""The part of the calibration passport on maps of activations: hand-built circuits judged one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from patchlight.judge.thresholds import THRESHOLDS, Thresholds
from patchlight.judge.verdict import Verdict, sets_under, word_under
from patchlight.model.planted.wired import WIRED, Wired
from patchlight.run.units import ROOMS, Unit, Workplace, source_version
from patchlight.store.results import Result
from patchlight.study.passport import ELSEWHERE, grid, is_right, is_wrong, key, rate
from patchlight.verify.passport import DECIDES_ON_MAPS

if TYPE_CHECKING:
    from patchlight.judge.sets import TriedSet

QUICK = ("single", "nothing")
CODE = (*ROOMS, "study/wired.py", "study/activations.py", "study/sets.py", "study/passport.py")


def wired_units(first: int, count: int, names: Iterable[str] = tuple(WIRED)) -> list[Unit]:
    """One unit for each circuit and each of `count` seeds from `first` on."""
    return [_unit(name, seed) for seed in range(first, first + count) for name in names]


def _unit(name: str, seed: int) -> Unit:
    def work(_: Workplace) -> Result:
        return Result(_judged(name, seed))

    inputs = {"circuit": name, "seed": seed, "thresholds": [key(each) for each in grid()]}
    return Unit("passport", f"circuit on maps of activations: {name}, seed {seed}", inputs, work, CODE)


def _judged(name: str, seed: int) -> dict[str, Any]:
    from patchlight.model.planted.wired import unwired
    from patchlight.study.activations import verdict_on_maps

    wired = WIRED[name](seed)
    verdict = verdict_on_maps(wired.model, unwired(wired.model, seed), wired.pairs, seed)
    return {
        "circuit": name,
        "seed": seed,
        "truth": wired.word,
        "clear": wired.clear,
        "layers": wired.model.n_layers,
        "words": {key(each): said(verdict, wired, each) for each in grid()},
        "reasons": [each.code for each in verdict.reasons],
    }


def said(verdict: Verdict, wired: Wired, thresholds: Thresholds) -> str:
    """The word under these thresholds; `localised elsewhere` where the set that is named is not one of the truth."""
    word, sets = word_under(verdict, thresholds), sets_under(verdict, thresholds)
    if word != "localised" or sets is None or sets.smallest is None or _is_true(sets.smallest, wired):
        return word
    return ELSEWHERE


def _is_true(named: TriedSet, wired: Wired) -> bool:
    """Whether a set holds one that is enough, and no site that is not of the circuit."""
    sites = {str(site) for site in named.sites}
    return any(each <= sites for each in wired.enough) and sites <= wired.works


def wired_part(rows: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """The part of the passport: how often the verdict was right on clear circuits, confident and wrong on all."""
    now = key(THRESHOLDS)
    clear = [row for row in rows if row["clear"]]
    names = dict.fromkeys(row["circuit"] for row in rows)
    return {
        "code": source_version(DECIDES_ON_MAPS),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds),
        "seeds": sorted({row["seed"] for row in rows}),
        "rates": {
            "right": rate([is_right(row, now) for row in clear]),
            "wrong": rate([is_wrong(row, now) for row in rows]),
            "undetermined": rate([is_right(row, now) for row in rows if not row["clear"]]),
        },
        "truth": {name: next(row["truth"] for row in rows if row["circuit"] == name) for name in names},
        "verdicts": {
            name: dict(Counter(row["words"][now] for row in rows if row["circuit"] == name)) for name in names
        },
        "models": [{**row, "words": {"": row["words"][now]}} for row in rows],
    }


def together(passport: Mapping[str, Any]) -> dict[str, Any]:
    """The rates that decide whether the thresholds are calibrated, over the models of both parts."""
    parts = [passport["rates"], passport["activations"]["rates"]]

    def over(name: str) -> dict[str, float]:
        count, n = (int(sum(part[name][of] for part in parts)) for of in ("count", "n"))
        return rate([True] * count + [False] * (n - count))

    return {name: over(name) for name in ("right", "wrong")}
