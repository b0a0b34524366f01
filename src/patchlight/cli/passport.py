"""The command that makes the calibration passport."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from patchlight.cli.phrases import PHRASES
from patchlight.cli.terminal import Terminal, command


@command
def passport(
    terminal: Terminal,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and the passport.")] = Path(
        "passport"
    ),
    seed: Annotated[int | None, typer.Option(help="The first seed.", show_default="100; 1000 to calibrate")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, each with four planted models.", min=1)] = 12,
    quick: Annotated[bool, typer.Option("--quick", help="Two models only: does it work here?")] = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Propose thresholds, on seeds of their own.")] = False,
) -> Mapping[str, Any]:
    """Judge models whose truth is known, and write how often the tool was right."""
    from patchlight.store.ledger import Ledger
    from patchlight.study import passport as made
    from patchlight.study.passport_page import page

    terminal.workspace, begun = output, time.monotonic()
    first = seed if seed is not None else made.CHOSEN_ON if calibrate else made.REPORTED
    chosen = made.quick_cases(first) if quick else made.cases(first, seeds)
    with Ledger(output) as ledger, ledger.driving():
        rows = made.measured(ledger, terminal.progress(), chosen)
    if calibrate:
        return _write(terminal, output / "thresholds.json", made.proposal(rows))
    found = made.passport_of(rows, time.monotonic() - begun)
    (output / "passport.md").write_text(page(found), encoding="utf-8")
    return _write(terminal, output / "passport.json", found)


def _write(terminal: Terminal, file: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    terminal.say(PHRASES[terminal.language]["passport"].format(file=file))
    return {"file": file, **content}
