"""Commands of the review: review, rules, recheck, guard, and the audit chain."""

from __future__ import annotations

import dataclasses
import getpass
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlight.cli.studies import WORKSPACE, StudyId, Workspace, _command, _find, _opened
from patchlight.cli.terminal import Terminal, command
from patchlight.errors import GateFailed, InputError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from patchlight.review.records import Person

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="PATCHLIGHT_DATABASE",
        show_envvar=True,
        help="A team's postgresql+psycopg:// URL in place of the workspace's own.",
    ),
]
ModelName = Annotated[str, typer.Option("--model", help="The model: hub id, folder, GGUF file or package:NAME.")]
OfStudy = Annotated[str | None, typer.Option("--study", help="Only rules over findings of this study's domain.")]
Head = Annotated[str | None, typer.Option("--head", help="A chain head (NUMBER:HASH) that a report has printed.")]

audit_commands = typer.Typer(name="audit", help="The chain of all review events.", rich_markup_mode=None)


@command
def review(
    terminal: Terminal,
    study: StudyId = None,
    workspace: Workspace = WORKSPACE,
    database: DatabaseUrl = None,
    more: Annotated[bool, typer.Option("--more", help="First run the controls that reviewers ask for.")] = False,
) -> Mapping[str, Any]:
    """Put the candidates of a finished study into the review queue, decoys among them."""
    from patchlight.run.progress import Progress
    from patchlight.study.reviewing import queue_study, run_wanted
    from patchlight.study.spec import read_study

    with _opened(workspace) as ledger, _review(terminal, workspace, database) as tables:
        row = _find(ledger, study)
        read = read_study(Path(row.file))
        if more:
            read = run_wanted(read, row, ledger, tables, terminal.progress(), command=_command())
            listed = ", ".join(read.spec.controls)
            terminal.say(f"the study has these controls now: {listed}; write them into its file to keep them")
        queued = queue_study(read, ledger, tables, Progress(), by=_operator().name, command=_command())
    terminal.say(f"{queued} candidates of {row.id} are new in the queue, or open again")
    return {"study": row.id, "queued": queued}


@audit_commands.command("verify")
@command
def verify_chain(
    terminal: Terminal, workspace: Workspace = WORKSPACE, database: DatabaseUrl = None, head: Head = None
) -> Mapping[str, Any]:
    """Name every audit entry and decision that is not as it was written; exits 6 where there is one."""
    from patchlight.review import audit

    with _review(terminal, workspace, database) as tables:
        faults, stands = audit.verify(tables, head), audit.head(tables)
    if faults:
        listed = "\n".join(f"{fault.what} [{fault.code}]" for fault in faults)
        raise GateFailed("audit-broken", listed, where=str(workspace), fix="compare with a backup; trust neither alone")
    terminal.say(f"the chain is whole; its head is {stands or 'empty'}")
    return {"head": stands, "faults": []}


@audit_commands.command("backup")
@command
def backup(
    terminal: Terminal,
    file: Annotated[Path, typer.Argument(help="A new file for the copy.", show_default=False)],
    workspace: Workspace = WORKSPACE,
) -> Mapping[str, Any]:
    """Copy the workspace's database, while it is in use, into a new file, and print the chain head of the copy."""
    from patchlight.review.audit import head_of_copy
    from patchlight.store.backup import back_up

    terminal.workspace = workspace
    _opened(workspace).close()
    back_up(workspace, file)
    stands = head_of_copy(file)
    terminal.say(f"{file} is a whole copy; its chain head is {stands or 'empty'}: keep the head elsewhere")
    return {"file": file, "head": stands}


@command
def rules(terminal: Terminal, workspace: Workspace = WORKSPACE, database: DatabaseUrl = None) -> Mapping[str, Any]:
    """List the operating rules; those past their expiry, or too long without a re-check, become stale."""
    from patchlight.review import rules as kept

    with _review(terminal, workspace, database) as tables:
        kept.expire(tables)
        found = kept.rules(tables)
    for rule in found:
        until = time.strftime("%Y-%m-%d", time.gmtime(rule.expires))
        why = f" ({rule.why})" if rule.why else ""
        terminal.say(f"{rule.id} {rule.state}: {rule.action}: {rule.statement} [{rule.owner}, until {until}]{why}")
    return {"rules": [dataclasses.asdict(rule) for rule in found]}


@command
def recheck(
    terminal: Terminal,
    model: ModelName,
    workspace: Workspace = WORKSPACE,
    database: DatabaseUrl = None,
    study: OfStudy = None,
) -> Mapping[str, Any]:
    """Hold the active rules against another model; exits 6 where one fails, 0 where all hold or are stale."""
    from patchlight.model.digest import model_digest
    from patchlight.model.load import load_model
    from patchlight.review.recheck import recheck as checked
    from patchlight.review.rules import expire

    with _review(terminal, workspace, database) as tables:
        expire(tables)
        chosen = _active(tables, study)
        loaded = load_model(model) if chosen else None
        checks = checked(tables, loaded, model_digest(model), chosen, by=_operator()) if loaded else []
    for check in checks:
        for finding in check.findings:
            terminal.say(f"rule {check.rule}: {finding.site}: {finding.outcome} ({finding.why}, {finding.facts} facts)")
    failed = [check.rule for check in checks if check.outcome == "failed"]
    if failed:
        what = f"{len(failed)} of {len(checks)} rules fail on this model: {', '.join(map(str, failed))}"
        raise GateFailed("rule-failed", what, where=model, fix="keep the model back; their findings wait in the queue")
    if not checks:
        terminal.say("there is no active rule: nothing was held against this model")
    return {"checks": [dataclasses.asdict(check) for check in checks]}


@command
def guard(
    terminal: Terminal,
    prompts: Annotated[Path, typer.Argument(help="JSON lines with prompt, subject and, at will, kind.")],
    model: ModelName,
    workspace: Workspace = WORKSPACE,
    database: DatabaseUrl = None,
    level: Annotated[float, typer.Option(help="How often a prompt like the rule's own may be sent to a person.")] = 0.1,
) -> Mapping[str, Any]:
    """Say for a batch of prompts which answers should go to a person."""
    from patchlight.model.digest import model_digest
    from patchlight.model.load import load_model
    from patchlight.review.guard import guard as guarded
    from patchlight.review.guard import prompts_from
    from patchlight.review.rules import evidence_behind

    batch, digest = prompts_from(prompts), model_digest(model)
    with _review(terminal, workspace, database) as tables:
        own = [rule for rule in _active(tables, None) if digest in rule.models]
        behind = [(rule, evidence_behind(tables, rule)) for rule in own]
    found = guarded(load_model(model), batch, behind, level=level)
    for each in found:
        terminal.say(f"{'person' if each.to_person else 'pass':6} {each.why}: {each.prompt} ->{each.answer}")
    return {"level": level, "prompts": [dataclasses.asdict(each) for each in found]}


@contextmanager
def _review(terminal: Terminal, workspace: Path, url: str | None) -> Iterator[Engine]:
    from patchlight.store.review import open_review

    if url is None:
        terminal.workspace = workspace
        _opened(workspace).close()
    database = open_review(url or workspace)
    try:
        yield database
    finally:
        database.dispose()


def _active(database: Engine, study: str | None) -> list[Any]:
    """The active rules, or those over findings of one study."""
    from patchlight.review import queue
    from patchlight.review import rules as kept

    found = kept.rules(database, "active")
    if study is None:
        return found
    of_study = {each.id for each in queue.items(database, study_id=study)}
    if not of_study:
        raise InputError("review-no-study", f"no candidate of a study {study!r} is in the queue")
    return [rule for rule in found if {candidate for candidate, _ in rule.findings} <= of_study]


def _operator() -> Person:
    """Whoever has this machine's command line acts as an engineer, under the name of the account."""
    from patchlight.review.records import Person

    return Person(0, f"{getpass.getuser()} (command line)", "engineer", True, time.time())
