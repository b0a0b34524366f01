"""Units of work: named by what goes into them, computed once, recorded one by one."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from patchlight.errors import PatchlightError
from patchlight.run.progress import Progress
from patchlight.store.faults import told_clearly
from patchlight.store.files import FileDamaged
from patchlight.store.ledger import Ledger
from patchlight.store.results import Artifact, Result, canonical_json

# The rooms whose code decides numbers; storing, showing and reporting may change and nothing is recomputed.
ROOMS = ("packs", "corpus", "model", "pairs", "trace", "verify", "judge")
LIBRARIES = ("numpy", "scipy", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class Workplace:
    """What a unit is given while it works: a folder of its own, and where to say how far it is.

    `on_progress(done, total)` may be called often, `on_detail` says more in words.
    `folder` outlives a kill, so that long work can go on.
    """

    folder: Path
    on_progress: Callable[[int, int], None]
    on_detail: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Unit:
    """A piece of work whose hash says everything that its result depends on.

    `inputs` is JSON: digests of the models, the pairs, the sites, settings, seeds. `label` is for people and
    not part of the hash. `rooms` are those whose code decides the result: changed code computes anew.
    """

    stage: str
    label: str
    inputs: Mapping[str, Any]
    work: Callable[[Workplace], Result]
    rooms: tuple[str, ...] = ROOMS

    @cached_property
    def hash(self) -> str:
        """SHA-256 of stage, inputs and code version."""
        what = {"stage": self.stage, "inputs": self.inputs, "code": code_version(self.rooms)}
        return hashlib.sha256(canonical_json(what).encode()).hexdigest()


@dataclass(frozen=True)
class Failure:
    """A unit that raised, and what it said."""

    unit: Unit
    reason: str


@dataclass(frozen=True)
class Ran:
    """What came of some units: artifacts by unit hash, failures, and how many were computed just now."""

    artifacts: Mapping[str, Artifact]
    failures: tuple[Failure, ...]
    computed: int

    @property
    def failed_share(self) -> float:
        """Failed units as a share of all, 0 to 1; above 0.01 no verdict may stand on them."""
        return len(self.failures) / max(1, len(self.failures) + len(self.artifacts))


def run_units(ledger: Ledger, units: Sequence[Unit], progress: Progress, *, study: str) -> Ran:
    """The results of all units, in which only the missing ones were computed, in order, one at a time.

    Each result is recorded before the next unit starts; whatever stops this, a later call goes on from there.
    A unit that raises is recorded as failed and the others go on. A `PatchlightError` (bad input, a gate
    that does not hold, a full disk) stops everything, for it would stop the next unit too. To be called
    inside `ledger.driving()`.
    """
    ordered = list({unit.hash: unit for unit in units}.values())
    ledger.plan(study, [(unit.hash, unit.stage, unit.label) for unit in ordered])
    artifacts = _stored(ledger, ordered, progress)
    missing = [unit for unit in ordered if unit.hash not in artifacts]
    failures = []
    with progress.stage(ordered[0].stage if ordered else "", len(missing), len(artifacts)):
        for unit in missing:
            outcome = _run_one(ledger, unit, progress)
            if isinstance(outcome, Failure):
                failures.append(outcome)
            else:
                artifacts[unit.hash] = outcome
    in_order = {unit.hash: artifacts[unit.hash] for unit in ordered if unit.hash in artifacts}
    return Ran(in_order, tuple(failures), len(missing))


@cache
def code_version(rooms: tuple[str, ...]) -> str:
    """A digest of the source files of these rooms, of `records.py`, and of the versions of `LIBRARIES`."""
    libraries = {name: version(name) for name in LIBRARIES}
    return hashlib.sha256(canonical_json({"sources": _digests(rooms), "libraries": libraries}).encode()).hexdigest()


def source_version(rooms: tuple[str, ...]) -> str:
    """As `code_version`, whatever the versions of the libraries are."""
    return hashlib.sha256(canonical_json(_digests(rooms)).encode()).hexdigest()


def _digests(rooms: tuple[str, ...]) -> dict[str, str]:
    root = Path(__file__).parents[1]
    sources = [root / "records.py", *(file for room in rooms for file in _sources(root / room))]
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sources
        if file.suffix in {".py", ".yaml"}
    }


def _sources(room: Path) -> list[Path]:
    return [room] if room.is_file() else sorted(room.rglob("*"))


def _stored(ledger: Ledger, units: Sequence[Unit], progress: Progress) -> dict[str, Artifact]:
    found = {}
    for unit in units:
        try:
            artifact = ledger.result(unit.hash)
        except FileDamaged as damage:
            progress.note(f"{unit.label}: {damage.what}; it is computed again ({damage.where})")
            continue
        if artifact is not None:
            found[unit.hash] = artifact
    return found


def _run_one(ledger: Ledger, unit: Unit, progress: Progress) -> Artifact | Failure:
    start = perf_counter()
    with progress.unit(unit.label) as on_progress:
        try:
            with told_clearly(ledger.folder):
                result = unit.work(Workplace(ledger.scratch(unit.hash), on_progress, progress.detail))
            return ledger.record(unit.hash, result, perf_counter() - start)
        except PatchlightError:
            raise
        except Exception as error:  # noqa: BLE001  (a unit may fail in any way; what it said is recorded)
            reason = f"{type(error).__name__}: {error}"
            ledger.record_failure(unit.hash, reason, traceback.format_exc(), perf_counter() - start)
            progress.note(f"{unit.label}: failed, {reason}")
            return Failure(unit, reason)
