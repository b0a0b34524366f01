"""Records of PubMed: its XML (search results and baseline files) and MEDLINE text, read as streams."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from Bio import Medline

from patchlight.corpus.rows import not_unicode
from patchlight.corpus.streams import Damage, damaged, lines, pieces
from patchlight.errors import InputError, Place
from patchlight.records import Document

SOURCE = "PubMed"
SETS = ("PubmedArticleSet", "PubmedBookArticleSet")
ARTICLES = ("PubmedArticle", "PubmedBookArticle")
FIELD = re.compile(rb"[A-Z]{2,4} *- |      |\s*$")  # how each line of MEDLINE text begins
NOT_XML = (ParseError, ValueError, LookupError)  # expat raises the last two for encodings that it does not know


def pubmed_xml(path: Path) -> Iterator[Document]:
    """The records of a PubMed XML file (`.xml`, `.xml.gz`), those without abstract with an empty text.

    The sections of a structured abstract are lines that begin with their labels. Only one record is held in
    memory. Raises InputError `corpus-xml`, `corpus-gzip-damaged` with the number of the last record read.
    """
    number = 0
    try:
        for article in articles(pieces(path)):
            yield article_document(article)
            number += 1
    except Damage as damage:
        raise damaged(path, damage, record=number) from damage
    except NOT_XML as error:
        line, column = getattr(error, "position", (None, 0))
        place = Place(path, line, None if line is None else column + 1)
        what = f"this is not PubMed XML after record {number}: {error}"
        raise InputError("corpus-xml", what, where=place, fix="get it again; the records before were read") from error


def articles(content: Iterable[bytes]) -> Iterator[Element]:
    """The articles of a PubMed XML document, each freed when the next is asked for.

    Raises ParseError, ValueError or LookupError for what is not such a document, after the articles before it.
    """
    parser: XMLPullParser[Any] = XMLPullParser(("start", "end"))
    root: Element | None = None
    for piece in itertools.chain(content, (b"",)):
        if piece:
            parser.feed(piece)
        else:
            parser.close()
        events: Iterator[Any] = parser.read_events()
        for event, element in events:
            if root is None:
                root = _checked_root(element)
            if event == "end" and element.tag in ARTICLES:
                yield element
                root.clear()


def article_document(article: Element) -> Document:
    """The document of a `PubmedArticle` or a `PubmedBookArticle`. Raises ValueError where it has no PMID."""
    kept = article.find("MedlineCitation")
    kept = article.find("BookDocument") if kept is None else kept
    inner = None if kept is None else kept.find("Article")
    holder = kept if inner is None else inner
    pmid = "" if kept is None else (kept.findtext("PMID") or "").strip()
    if holder is None or not pmid.isdecimal():
        raise ValueError("a record has no PMID")
    title = holder.find("ArticleTitle")
    sections = [_section(section) for section in holder.findall("Abstract/AbstractText")]
    text = "\n".join(section for section in sections if section)
    return Document(id=pmid, text=text, title="" if title is None else _text(title), source=SOURCE)


def is_medline(path: Path) -> bool:
    """Whether a text file is MEDLINE text: its first line with anything on it names a PMID."""
    with path.open("rb") as opened:
        return opened.read(4096).lstrip(b"\xef\xbb\xbf \r\n").startswith(b"PMID- ")


def medline_text(path: Path) -> Iterator[Document]:
    """The records of a MEDLINE text file, those without abstract with an empty text.

    Raises InputError `corpus-medline` with the line that is none of MEDLINE's.
    """
    number = 0
    try:
        for first, block in _blocks(path):
            yield _medline_document(block, number + 1, Place(path, first))
            number += 1
    except Damage as damage:
        raise damaged(path, damage, record=number) from damage


def _medline_document(block: Sequence[bytes], number: int, place: Place) -> Document:
    try:
        record = Medline.read([line.decode("utf-8") for line in block])
    except UnicodeDecodeError as error:
        raise not_unicode(place) from error
    pmid = record.get("PMID", "")
    if not pmid.isdecimal():
        what = f"record {number} has no PMID"
        raise InputError("corpus-medline", what, where=place, fix="export it again in the format PubMed (MEDLINE)")
    return Document(id=pmid, text=record.get("AB", ""), title=record.get("TI", ""), source=SOURCE)


def _checked_root(element: Element) -> Element:
    if element.tag not in SETS:
        raise ValueError(f"its outermost element is <{element.tag[:60]}>, not <{SETS[0]}>")
    return element


def _text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _section(section: Element) -> str:
    label, text = section.get("Label", "").strip(), _text(section)
    return f"{label}: {text}" if label and text else text


def _blocks(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """The first line's number and the lines of each record; records stand apart by empty lines."""
    block: list[bytes] = []
    for number, raw in enumerate(lines(path), start=1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if line.strip() or line.startswith(b"      "):
            if not FIELD.match(line) or (not block and line.startswith(b" ")):
                what = "this line has no field of MEDLINE, such as 'AB  - '"
                raise InputError("corpus-medline", what, where=Place(path, number), fix="export the file again")
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield number - len(block) + 1, block
