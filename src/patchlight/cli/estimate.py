"""The command that says what a study will take before it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlight.cli.studies import WORKSPACE, Device, Memory, StudyFile, Workspace
from patchlight.cli.terminal import Terminal, command
from patchlight.errors import BudgetExceeded

if TYPE_CHECKING:
    from patchlight.report.estimate import Estimate
    from patchlight.report.texts import Texts

PricesFile = Annotated[Path | None, typer.Option("--prices", help="What an hour costs, a YAML file.")]
Budget = Annotated[
    float | None,
    typer.Option("--budget", min=0, help="Hours of this machine; exit code 5 where even the low end is more."),
]
Seconds = Annotated[
    float, typer.Option("--seconds", min=0, max=60, help="For trials of the study's units; 0 for none.")
]


@command
def estimate(
    terminal: Terminal,
    study: StudyFile,
    workspace: Workspace = WORKSPACE,
    prices: PricesFile = None,
    budget: Budget = None,
    seconds: Seconds = 60,
    device: Device = None,
    memory: Memory = None,
) -> Mapping[str, Any]:
    """Say what a study will take: time, memory, disk, money, people's hours, risks; its results stay as they are."""
    from patchlight.report.estimate import as_json, write_estimate
    from patchlight.study.estimate.prices import read_prices
    from patchlight.study.estimate.whole import estimate
    from patchlight.study.spec import read_study

    read = read_study(study, device=device, memory=memory)
    priced = None if prices is None else read_prices(prices)
    found = estimate(read, workspace, seconds=seconds, prices=priced, progress=terminal.progress())
    file = write_estimate(found, workspace)
    _tell(terminal, found)
    if budget is not None and found.seconds is not None and found.seconds.low > budget * 3600:
        raise BudgetExceeded(
            "estimate-over-budget",
            f"the study takes {found.seconds.low / 3600:.1f} hours at least, {budget:g} are allowed",
            where=str(study),
            fix="fewer `components`, `controls` or `max_per_kind` in the study, a faster machine, or a larger budget",
        )
    return {"file": file, **as_json(found)}


def _tell(terminal: Terminal, found: Estimate) -> None:
    """Three points, then stage by stage, what is needed, what may go wrong, and what all this rests on."""
    from patchlight.report.estimate import basis_words, needs, points, stages_table
    from patchlight.report.texts import read_texts

    if terminal.json:
        return
    texts = read_texts(terminal.language)
    terminal.say(texts("estimate.title", study=found.study))
    names = ("work_point", "cost_point", "risk_point")
    for number, (name, text) in enumerate(zip(names, points(found, texts), strict=True), 1):
        terminal.say(f"{number}. {texts(f'estimate.{name}')}: {text}")
    content = stages_table(found, texts)
    _table(terminal, content.title, content.header, content.rows)
    for name, text in needs(found, texts):
        terminal.say(f"{name}: {text}")
    _risks(terminal, found, texts)
    for line in (*basis_words(found, texts), texts("estimate.range")):
        terminal.say(line)


def _risks(terminal: Terminal, found: Estimate, texts: Texts) -> None:
    from patchlight.report.estimate import risk_words

    if found.risks:
        header = [texts("estimate.risk_column"), texts("estimate.add_column")]
        _table(terminal, texts("estimate.risk_title"), header, [risk_words(risk, texts) for risk in found.risks])


def _table(terminal: Terminal, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(file=terminal.stdout, markup=False, highlight=False).print(table)
