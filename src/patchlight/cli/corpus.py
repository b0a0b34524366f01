"""Commands on texts: corpus pubmed, corpus prepare."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from patchlight.cli.phrases import PHRASES
from patchlight.cli.terminal import Terminal, command
from patchlight.errors import InputError

group = typer.Typer(help="Texts in: fetch them from PubMed, make them ready for a study.", rich_markup_mode=None)


@command
def pubmed(
    terminal: Terminal,
    query: Annotated[str, typer.Argument(help="As on the PubMed page.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder; the same command goes on with it.", show_default=False)],
    email: Annotated[str, typer.Option(envvar="NCBI_EMAIL", help="Yours: NCBI asks for it.", show_default=False)],
    most: Annotated[int | None, typer.Option("--max", min=1, help="Only the newest so many.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="NCBI_API_KEY", help="From NCBI: ten requests a second instead of three.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(envvar="PATCHLIGHT_ENTREZ_URL", help="Another server that speaks E-utilities.")
    ] = None,
) -> Mapping[str, Any]:
    """Search PubMed and fetch the records, politely; stop and go on at any time."""
    from patchlight.corpus.entrez import NCBI, Client
    from patchlight.corpus.pubmed import download

    if "@" not in email or not query.strip():
        raise InputError("pubmed-arguments", "a query and an e-mail address are needed", fix="--email you@example.org")
    progress = terminal.progress()
    client = Client(email, progress.note, api_key or None, base_url or NCBI)
    got = download(query, out, client, most=most, progress=progress)
    there = got.listed - len(got.missing)
    terminal.say(PHRASES[terminal.language]["fetched"].format(found=got.found, there=there, folder=out))
    if got.missing:
        named = ", ".join(got.missing[:10])
        terminal.say(PHRASES[terminal.language]["missing"].format(count=len(got.missing), named=named))
    return {**asdict(got), "folder": out}


@command
def prepare(
    terminal: Terminal,
    sources: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    term: Annotated[
        list[str] | None, typer.Option(help="Count this term; may be given often. epilep*: any end.")
    ] = None,
    language: Annotated[str, typer.Option(help="Keep only this language; 'any' keeps all.")] = "en",
    shortest: Annotated[int, typer.Option(help="Least length in characters.")] = 100,
    longest: Annotated[int, typer.Option(help="Greatest length in characters.")] = 100_000,
    near: Annotated[float, typer.Option(help="Similarity from which texts are near-duplicates, 0.5 to 1.")] = 0.8,
    validation: Annotated[float, typer.Option(help="Share of the documents for validation.")] = 0.2,
    held_out: Annotated[float, typer.Option(help="Share of the documents that no training sees.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Decides the split.")] = 42,
    licence: Annotated[list[str] | None, typer.Option(help="A note on terms of use for the card.")] = None,
    text_field: Annotated[str, typer.Option(help="The field that holds the text.")] = "text",
    keep_before_damage: Annotated[
        bool, typer.Option(help="Keep what stands before a damaged place; the card names it.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="the cores, at most 8")] = None,
) -> Mapping[str, Any]:
    """Clean texts, drop duplicates, split them without leaks, and write a data card."""
    from patchlight.corpus.prepare import Preparation
    from patchlight.corpus.prepare import prepare as work

    choice = Preparation(
        language="" if language == "any" else language,
        shortest=shortest,
        longest=longest,
        near=near,
        validation=validation,
        held_out=held_out,
        seed=seed,
        terms=tuple(term or ()),
        text_field=text_field,
        licences=tuple(licence or ()),
        keep_before_damage=keep_before_damage,
    )
    card = work(sources, out, choice, progress=terminal.progress(), workers=workers or min(8, os.cpu_count() or 1))
    phrase = PHRASES[terminal.language]["prepared"]
    parts = ", ".join(f"{part} {count}" for part, count in card.parts.items())
    terminal.say(phrase.format(kept=card.kept, read=card.read, parts=parts, card=out / "card.md"))
    for reason, dropped in card.dropped.items():
        if dropped.count:
            terminal.say(f"  {reason:16} {dropped.count}")
    for source in card.sources:
        if source.stopped:
            terminal.say(f"  {source.name}: {source.stopped}")
    return {**asdict(card), "folder": out}


for work in (pubmed, prepare):
    group.command(work.__name__)(work)
