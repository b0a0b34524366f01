"""The command line, `patchlight COMMAND`; commands live in the other files of this room, are added here."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Annotated

import typer

from patchlight.cli import begin, corpus, estimate, packs, passport, replicate, review, serve, studies
from patchlight.cli.phrases import locale_language
from patchlight.cli.terminal import Terminal, explain_to

app = typer.Typer(
    name="patchlight",
    help="Find where a language model keeps a piece of knowledge, by causal intervention.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"patchlight {version('patchlight')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def patchlight(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before the commands; without one, the help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for work in (begin.init, begin.doctor, studies.validate, studies.run, studies.resume, studies.status, studies.report):
    app.command(work.__name__)(work)
app.command("estimate")(estimate.estimate)
app.command("passport")(passport.passport)
app.command("replicate")(replicate.replicate)
app.add_typer(corpus.group, name="corpus")
app.add_typer(packs.app)
for work in (review.review, review.rules, review.recheck, review.guard):
    app.command(work.__name__)(work)
app.add_typer(review.audit_commands)
app.command("serve")(serve.serve)


def execute(arguments: Sequence[str]) -> int:
    """The exit code of a command line.

    0 ok, 1 internal, 2 usage, 3 invalid input, 4 environment, 5 over budget, 6 gate failed, 7 failed units,
    130 interrupted.
    """
    try:
        return typer.main.get_command(app).main(list(arguments), "patchlight", standalone_mode=False) or 0
    except (typer.TyperException, typer.Abort, KeyboardInterrupt) as error:
        # The options of the command are not known when its arguments cannot be read.
        language = "ja" if ("--lang", "ja") in pairwise(arguments) else locale_language()
        told = KeyboardInterrupt() if isinstance(error, typer.Abort) else error
        return explain_to(Terminal(language, "--json" in arguments), told)


def main() -> None:
    """The process ends with the exit code of its command line."""
    # Threads of torch that wait by spinning slow a shared machine down many times; measured in dev/LOG.md.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Being asked to end is met like Ctrl-C: what is finished is kept and the workspace is given free.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
