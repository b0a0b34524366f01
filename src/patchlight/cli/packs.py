"""Commands that work on domain packs: pack new, check, preview, import, suggest, adopt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from patchlight.cli.phrases import PHRASES
from patchlight.cli.phrases import Language as Spoken
from patchlight.cli.terminal import Terminal, command
from patchlight.errors import Place

if TYPE_CHECKING:
    from patchlight.packs.problem import Problem
    from patchlight.packs.spec import Pack
    from patchlight.pairs.preview import Preview, Question

app = typer.Typer(name="pack", help="Write, check and look through domain packs.", no_args_is_help=True)

PackName = Annotated[str, typer.Argument(help="A pack: a .yaml file, or the name of a built-in one.")]
NewFile = Annotated[Path, typer.Argument(help="The file to write; there must be none yet.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write; there must be none yet.")]
Asked = Annotated[Spoken | None, typer.Option("--language", help="Language of the questions; all if left out.")]
ModelName = Annotated[str, typer.Option("--model", help="Hub id, folder, .gguf or package:NAME.")]
Format = Literal["counterfact", "csv", "fmea", "known", "relations"]
Column = Annotated[str | None, typer.Option(help="The column's name, or its letter in a spreadsheet.")]


@command
def new(terminal: Terminal, file: NewFile) -> Mapping[str, Any]:
    """Write a commented pack to fill in; it is in the language of `--lang`, and checks clean."""
    from patchlight.packs.skeleton import skeleton

    _write_new(file, skeleton(terminal.language))
    terminal.say(PHRASES[terminal.language]["pack-new"].format(file=file))
    return {"file": file}


@command
def check(
    terminal: Terminal,
    pack: PackName,
    model: Annotated[str | None, typer.Option("--model", help="Also check how this model's tokenizer cuts it.")] = None,
    language: Asked = None,
) -> Mapping[str, Any]:
    """Check a pack: what is wrong, where, and what to do."""
    from patchlight.packs.check import check_pack
    from patchlight.packs.problem import FileRefused
    from patchlight.packs.read import parse_pack

    parsed = parse_pack(pack)
    problems = check_pack(parsed)
    errors = [problem for problem in problems if problem.severity == "error"]
    if model and not errors:
        problems += _token_problems(parsed, model, [language] if language else _languages(parsed))
    for problem in problems:
        if problem.severity == "warning":
            terminal.say(problem.line(terminal.language))
    if errors:
        raise FileRefused(errors)
    unreviewed = sum(not fact.reviewed for fact in parsed.file.facts)
    counts = {"facts": len(parsed.file.facts), "warnings": len(problems), "unreviewed": unreviewed}
    terminal.say(PHRASES[terminal.language]["pack-checked"].format(pack=parsed.id, **counts))
    return {"pack": parsed.id, **counts, "problems": [_plain(problem, terminal.language) for problem in problems]}


@command
def preview(
    terminal: Terminal,
    pack: PackName,
    model: ModelName,
    language: Annotated[Spoken, typer.Option("--language", help="Language of the questions.")] = "en",
    metric: Annotated[
        str,
        typer.Option(help="logsumexp_diff (all answers), logprob_diff (the best two), logit_diff, ..."),
    ] = "logsumexp_diff",
    swap: Annotated[
        Literal["subject", "condition", "object_class"], typer.Option(help="What the corrupted twin changes.")
    ] = "subject",
    html: Annotated[Path | None, typer.Option(help="Also write a page to look through.")] = None,
) -> Mapping[str, Any]:
    """Show each question, its corrupted twin token by token, and whether a model answers it."""
    from patchlight.model.load import load_model
    from patchlight.packs.problem import refused
    from patchlight.packs.read import read_pack
    from patchlight.pairs.preview import masked
    from patchlight.pairs.preview import preview as look_through

    parsed = read_pack(pack)
    if not parsed.facts(language):
        other = _languages(parsed)[0]
        raise refused("language", parsed.places.key("relations"), name=parsed.id, language=language, other=other)
    loaded = load_model(model)
    twin = None if swap == "subject" else swap
    seen = look_through(parsed, loaded, language=language, metric=metric, swap=twin)
    for line in _lines(seen, terminal.language):
        terminal.say(line)
    terminal.say(_summary(seen, terminal.language))
    if html:
        from patchlight.report.preview import write_preview

        write_preview(parsed, seen, html, terminal.language)
        terminal.say(str(html))
    return {**masked(parsed, seen), "html": html}


@command
def import_file(
    terminal: Terminal,
    file: Annotated[Path, typer.Argument(help="The file to read.", show_default=False)],
    output: Output,
    format: Annotated[Format, typer.Option(help="What the file is.")],  # noqa: A002  (the option's name)
    language: Annotated[Spoken, typer.Option("--language", help="Language of the file's words.")] = "en",
    sheet: Annotated[str | None, typer.Option(help="fmea: the sheet's name; the first if left out.")] = None,
    header: Annotated[int, typer.Option(help="csv, fmea: the row that holds the names of the columns.", min=1)] = 1,
    failure: Column = None,
    cause: Column = None,
    severity: Column = None,
    condition: Column = None,
    subject: Column = None,
    answer: Column = None,
    relation: Column = None,
    source: Annotated[str, typer.Option(help="Where the facts are from, in words; else the file's name.")] = "",
) -> Mapping[str, Any]:
    """Make a pack of a file of facts; what is left out is listed with its row and the reason."""
    from patchlight.packs.check import check_pack
    from patchlight.packs.importing import Columns, import_pack
    from patchlight.packs.read import parse_pack

    asked = (failure or subject, cause or answer, severity, condition, relation)
    imported = import_pack(file, format, Columns(*asked, sheet=sheet, header=header), language, source or file.name)
    _write_new(output, imported.text)
    for lost in imported.lost:
        terminal.say(lost.line(terminal.language))
    problems = check_pack(parse_pack(output))
    for problem in problems:
        terminal.say(problem.line(terminal.language))
    left_out = sum(each.code == "pack-import-lost" for each in imported.lost)  # the others lack their severity only
    counts = {"facts": imported.facts, "lost": left_out, "problems": len(problems)}
    terminal.say(PHRASES[terminal.language]["pack-imported"].format(output=output, **counts))
    lost_rows = [_plain(lost, terminal.language) for lost in imported.lost]
    told = [_plain(problem, terminal.language) for problem in problems]
    return {"file": output, "facts": imported.facts, "lost": lost_rows, "problems": told}


@command
def suggest(
    terminal: Terminal,
    corpus: Annotated[list[Path], typer.Argument(help="Text files, JSON Lines, CSV, Parquet.", show_default=False)],
    output: Output,
    limit: Annotated[int, typer.Option(help="At most so many suggestions.", min=1)] = 200,
) -> Mapping[str, Any]:
    """Propose facts from a corpus, with the sentences they rest on, for a person to accept or reject."""
    from patchlight.corpus.adopt import suggestions_text
    from patchlight.corpus.files import read_documents
    from patchlight.corpus.suggest import suggest as propose

    proposals = propose(read_documents(corpus), limit=limit)
    _write_new(output, suggestions_text(proposals, terminal.language))
    terminal.say(PHRASES[terminal.language]["pack-suggested"].format(count=len(proposals), output=output))
    return {"file": output, "suggestions": len(proposals)}


@command
def adopt(
    terminal: Terminal,
    suggestions: Annotated[Path, typer.Argument(help="A file of `pack suggest`, decided on.", show_default=False)],
    into: Annotated[Path, typer.Option(help="The pack that takes the accepted facts.")],
) -> Mapping[str, Any]:
    """Put the accepted suggestions into a pack; nothing else enters it."""
    from patchlight.corpus.adopt import adopt as take

    adopted = take(suggestions, into)
    terminal.say(PHRASES[terminal.language]["pack-adopted"].format(count=len(adopted), pack=into))
    return {"file": into, "adopted": adopted}


COMMANDS = {"new": new, "check": check, "preview": preview, "import": import_file, "suggest": suggest, "adopt": adopt}
for name, work in COMMANDS.items():
    app.command(name)(work)


def _write_new(file: Path, text: str) -> None:
    from patchlight.packs.problem import refused
    from patchlight.store.faults import told_clearly

    with told_clearly(file.parent):
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(text)
        except FileExistsError as taken:
            raise refused("file-taken", Place(file)) from taken
        except FileNotFoundError as missing:
            raise refused("no-folder", Place(file)) from missing


def _languages(pack: Pack) -> list[Spoken]:
    languages: list[Spoken] = ["en", "ja"]
    return [language for language in languages if pack.facts(language)]


def _token_problems(pack: Pack, model: str, languages: Sequence[Spoken]) -> list[Problem]:
    from patchlight.model.tokenizer import load_tokenizer
    from patchlight.pairs.fit import check_tokens

    tokenizer = load_tokenizer(model)
    return [problem for language in languages for problem in check_tokens(pack, tokenizer, language)]


def _plain(problem: Problem, language: Spoken) -> dict[str, Any]:
    what, fix = problem.said(language)
    place = asdict(problem.where)
    return {"code": problem.code, "severity": problem.severity, "what": what, "fix": fix, "where": place}


def _lines(seen: Preview, language: Spoken) -> Iterator[str]:
    from patchlight.report.texts import read_texts

    texts = read_texts(language)
    for each in seen.questions:
        yield f"[{texts.word('exclusion', each.outcome)}] {each.fact} {each.template} {each.detail}".rstrip()
        if each.tokens:
            right, wrong = (each.correct, *each.also_correct), (each.wrong, *each.also_wrong, *each.distractors)
            yield f"    {_number(each.clean)}  {_tokens(each, 'clean')} -> {' / '.join(right)}"
            yield f"    {_number(each.corrupted)}  {_tokens(each, 'corrupted')} -> {' / '.join(wrong)}"
    for lost in seen.unscored:
        reason = texts.word("exclusion", lost.reason)
        yield f"[{texts('excluded.unscored')}] {lost.fact} {lost.template} {lost.answer}: {reason}"


def _tokens(question: Question, run: Literal["clean", "corrupted"]) -> str:
    """The tokens of one prompt, those that differ in brackets."""
    words = ((getattr(token, run), token.differs) for token in question.tokens)
    return "|".join(f"[{word}]" if differs else word for word, differs in words)


def _number(value: float) -> str:
    return f"{value:+7.2f}" if math.isfinite(value) else "      -"


def _summary(seen: Preview, language: Spoken) -> str:
    counts = {
        "answered": seen.answered,
        "questions": len(seen.questions),
        "known": len(seen.known),
        "facts": seen.facts,
    }
    return PHRASES[language]["pack-previewed"].format(pack=seen.pack, model=seen.model, **counts)
