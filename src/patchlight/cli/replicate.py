"""The command that runs a study again: on other models, with other packs, from other seeds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlight.cli.phrases import PHRASES
from patchlight.cli.studies import WORKSPACE, Device, Memory, StudyFile, Workspace
from patchlight.cli.terminal import Terminal, command
from patchlight.errors import InputError, UnitsFailed

if TYPE_CHECKING:
    from patchlight.report.replication import Replication

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the tables and the page.")]
Models = Annotated[str, typer.Option(help="Further models, as in `model.load`, separated by commas.")]
Packs = Annotated[str, typer.Option(help="Further packs, as in `pack`, separated by commas.")]
Seeds = Annotated[str, typer.Option(help="Further seeds: split, partners, sampling and training are drawn again.")]


@command
def replicate(
    terminal: Terminal,
    study: StudyFile,
    models: Models = "",
    packs: Packs = "",
    seeds: Seeds = "",
    output: Output = Path("replication"),
    workspace: Workspace = WORKSPACE,
    device: Device = None,
    memory: Memory = None,
) -> Mapping[str, Any]:
    """Run a study as it is and with each model, pack and seed in turn, and say what held.

    What is already computed in the workspace is kept, and Ctrl-C is safe at any time.
    """
    from patchlight.report.replication import summary, write_replication
    from patchlight.store.ledger import Ledger
    from patchlight.study.replicate import plan_runs, replicate
    from patchlight.study.spec import read_study

    terminal.workspace = workspace
    read = read_study(study, device=device, memory=memory)
    runs = plan_runs(read, output, models=_listed(models), packs=_listed(packs), seeds=_numbers(seeds))
    say, called = PHRASES[terminal.language], shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    with Ledger(workspace) as ledger, ledger.driving():
        numbered = {run.name: number for number, run in enumerate(runs, 1)}
        found = replicate(
            runs,
            ledger,
            terminal.progress,
            called,
            lambda run: terminal.say(say["replicating"].format(run=run.name, at=numbered[run.name], runs=len(runs))),
        )
    page = write_replication(found, output)
    _tell(terminal, found, page)
    if found.failed:
        run, reason = found.failed[0]
        raise UnitsFailed(
            "replicate-runs-failed",
            f"{len(found.failed)} of {len(runs)} runs failed, the first: {run}: {reason}",
            where=str(page),
            fix="the tables are written without them; mend the cause and run the same command again",
        )
    return {"page": page, **summary(found)}


def _tell(terminal: Terminal, found: Replication, page: Path) -> None:
    """The table of the runs, what held, and where the page is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from patchlight.report.replication import runs_table, sentence
    from patchlight.report.texts import read_texts

    if terminal.json:
        return
    texts = read_texts(terminal.language)
    content = runs_table(found, texts)
    table = Table(title=content.title, box=box.SIMPLE)
    for name in content.header:
        table.add_column(name, overflow="fold")
    for row in content.rows:
        table.add_row(*row)
    Console(file=terminal.stdout, markup=False, highlight=False).print(table)
    for answer in found.answers.values():
        terminal.say(sentence(answer, texts))
    terminal.say(str(page))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    for part in _listed(text):
        if not part.isdecimal() or int(part) >= 2**31:
            raise InputError(
                "replicate-seed", f"{part!r} is not a seed", fix="give whole numbers, such as --seeds 1,2,3"
            )
    return [int(part) for part in _listed(text)]
