"""The command that makes the calibration passport."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from patchlight.cli.phrases import PHRASES
from patchlight.cli.terminal import Terminal, command


class Part(StrEnum):
    """A part of the passport."""

    weights = "weights"
    activations = "activations"


@command
def passport(
    terminal: Terminal,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and the passport.")] = Path(
        "passport"
    ),
    seed: Annotated[int | None, typer.Option(help="The first seed.", show_default="100; 1000 to calibrate")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, each with four planted models.", min=1)] = 12,
    circuits: Annotated[int, typer.Option(help="How many seeds of the hand-built circuits.", min=1)] = 17,
    only: Annotated[Part | None, typer.Option(help="One part; the other is taken from the passport there is.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few models only: does it work here?")] = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Propose thresholds, on seeds of their own.")] = False,
) -> Mapping[str, Any]:
    """Judge models whose truth is known, and write how often the tool was right."""
    from patchlight.store.ledger import Ledger
    from patchlight.study import passport as made
    from patchlight.study import wired
    from patchlight.study.passport_page import page

    terminal.workspace = output
    first = seed if seed is not None else made.CHOSEN_ON if calibrate else made.REPORTED
    planned = {
        Part.weights: made.units(made.quick_cases(first) if quick else made.cases(first, seeds)),
        Part.activations: wired.wired_units(first, 1, wired.QUICK) if quick else wired.wired_units(first, circuits),
    }
    rows, seconds = {}, {}
    with Ledger(output) as ledger, ledger.driving():
        for part in [only] if only else list(Part):
            begun = time.monotonic()
            rows[part] = made.ran_all(ledger, terminal.progress(), planned[part])
            seconds[part] = time.monotonic() - begun
    if calibrate:
        return _write(terminal, output / "calibration.json", made.proposal(_with_others(rows, output)))
    found = dict(_there_is(output)) if only else {}
    if Part.weights in rows:
        found |= made.passport_of(rows[Part.weights], seconds[Part.weights])
    if Part.activations in rows:
        found["activations"] = wired.wired_part(rows[Part.activations], seconds[Part.activations])
    found["together"] = wired.together(found)
    (output / "passport.md").write_text(page(found), encoding="utf-8")
    return _write(terminal, output / "passport.json", found)


def _there_is(output: Path) -> Mapping[str, Any]:
    """The passport in this folder, else the one that ships."""
    from patchlight.verify.passport import shipped

    file = output / "passport.json"
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else shipped()
    return found


def _with_others(rows: Mapping[Part, list[Mapping[str, Any]]], output: Path) -> list[Mapping[str, Any]]:
    """These models, and those of the other part that were weighed in this folder before."""
    found: list[Mapping[str, Any]] = []
    for part in Part:
        file = output / f"weighed-{part}.json"
        if part in rows:
            file.write_text(json.dumps([dict(row) for row in rows[part]]) + "\n", encoding="utf-8")
        found += json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return found


def _write(terminal: Terminal, file: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    terminal.say(PHRASES[terminal.language]["passport"].format(file=file))
    return {"file": file, **content}
