"""Packs out of files of facts: CounterFact, tracing facts, relation JSON, CSV, FMEA spreadsheets.

A file becomes rows, rows become facts, facts become the text of a pack. What is left out is listed with its row.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from patchlight.errors import Place
from patchlight.on_disk import is_folder
from patchlight.packs.problem import Language, Problem, refused
from patchlight.packs.spec import Template
from patchlight.packs.tables import Table, read_table, read_text, tidy, unreadable
from patchlight.packs.wording import mentions
from patchlight.packs.writing import Written, WrittenRelation, pack_text

PARTS: tuple[Mapping[Language, str], ...] = ({"en": "subject", "ja": "主語"}, {"en": "answer", "ja": "答え"})
MOST_TEMPLATES = 5  # of a relation, the commonest in the file
CAUSE_TEMPLATES: dict[tuple[Language, bool], tuple[str, ...]] = {
    ("en", False): ("The main cause of {subject} is", "In most cases, {subject} is caused by"),
    ("en", True): ("In {condition}, the main cause of {subject} is", "During {condition}, {subject} is caused by"),
    ("ja", False): ("{subject}の主な原因は", "{subject}が発生したときにまず疑う原因は"),
    ("ja", True): ("{condition}における{subject}の主な原因は", "{condition}で{subject}が発生したときにまず疑う原因は"),
}


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, by name or letter; `header` is the row with their names."""

    subject: str | None = None
    answer: str | None = None
    severity: str | None = None
    condition: str | None = None
    relation: str | None = None
    sheet: str | None = None
    header: int = 1


@dataclass(frozen=True)
class Row:
    """One fact as a file tells it."""

    where: Place
    relation: str
    subject: str
    answer: str
    distractors: tuple[str, ...] = ()
    condition: str = ""
    severity: str = ""
    templates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """The text of a pack, how many facts it has, and what of the file is not in it."""

    text: str
    facts: int
    lost: list[Problem] = field(default_factory=list)


def import_pack(file: Path, format: str, columns: Columns, language: Language, source: str) -> Imported:  # noqa: A002
    """The pack of a file of facts, every fact marked as not reviewed.

    `format`: counterfact, known, relations (a file, or a folder of them), csv, fmea. Raises FileRefused where the file
    cannot be read, and `pack-import-column` where a column that is needed was not named.
    """
    rows = _READERS[format](file, columns, language)
    lost: list[Problem] = []
    kept = list(_usable(rows, lost))
    templates = _templates(kept)
    facts = _facts([row for row in kept if not _leaks(row, templates[row.relation], language, lost)], lost)
    if not facts:
        raise refused("import-empty", Place(file), lost={"en": _listed(lost[:5], "en"), "ja": _listed(lost[:5], "ja")})
    used = [
        WrittenRelation(name, templates[name], any(len(fact.answers) > 1 for fact in facts if fact.relation == name))
        for name in dict.fromkeys(fact.relation for fact in facts)
    ]
    return Imported(pack_text(file.stem, source, language, used, facts), len(facts), lost)


def _listed(lost: Sequence[Problem], language: Language) -> str:
    return "".join(f"\n  {each.where}: {each.said(language)[0]}" for each in lost)


def _lose(lost: list[Problem], key: str, row: Row, **values: Any) -> None:
    lost.append(Problem(key, "warning", row.where, values))


def _usable(rows: Sequence[Row], lost: list[Problem]) -> Iterator[Row]:
    for row in rows:
        tidied = replace(row, subject=tidy(row.subject), answer=tidy(row.answer), condition=tidy(row.condition))
        written = "".join((row.relation, row.subject, row.answer, *row.distractors, row.condition))
        formula = next((text for text in (row.subject, row.answer, row.condition) if text.startswith("=")), "")
        if not tidied.subject or not tidied.answer:
            _lose(lost, "import-lost.empty", row, part=PARTS[0 if not tidied.subject else 1])
        elif formula:
            _lose(lost, "import-lost.formula", row, formula=formula)
        elif not _can_be_written(written):
            _lose(lost, "import-lost.letters", row)
        else:
            yield tidied


def _templates(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """The commonest templates of each relation that can be used."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        usable = (" ".join(text.split()) for text in row.templates)
        counted[row.relation].update(text for text in usable if _whole(text))
    return {name: tuple(text for text, _ in texts.most_common(MOST_TEMPLATES)) for name, texts in counted.items()}


def _whole(template: str) -> bool:
    holes = re.findall(r"\{[^{}]*\}|[{}]", template)
    return sorted(holes) in (["{subject}"], ["{condition}", "{subject}"]) and _can_be_written(template)


def _can_be_written(text: str) -> bool:
    """Whether the text is Unicode: JSON can spell half of a surrogate pair."""
    return not re.search("[\ud800-\udfff]", text)


def _leaks(row: Row, templates: Sequence[str], language: Language, lost: list[Problem]) -> bool:
    prompts = (Template("", text).fill(row.subject, row.condition) for text in templates)
    prompt = next((prompt for prompt in prompts if mentions(prompt, row.answer)), "")
    if prompt:
        _lose(lost, "import-lost.leak", row, answer=row.answer, prompt=prompt)
    return bool(prompt)


def _facts(rows: Sequence[Row], lost: list[Problem]) -> list[Written]:
    """One fact for each subject of a relation under a condition, with all its answers."""
    found: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        alike = found[row.relation, row.subject, row.condition]
        first = next((each for each in alike if each.answer.lower() == row.answer.lower()), None)
        if first:
            _lose(lost, "import-lost.twice", row, line=first.where.line)
        else:
            alike.append(row)
    return [_fact(alike, lost) for alike in found.values()]


def _fact(alike: Sequence[Row], lost: list[Problem]) -> Written:
    first, answers = alike[0], tuple(row.answer for row in alike)
    right = {answer.lower() for answer in answers}
    wrong_ones = [tidy(text) for row in alike for text in row.distractors]
    distractors = dict.fromkeys(text for text in wrong_ones if text.lower() not in right)
    severities = [number for row in alike if (number := _severity(row, lost)) is not None]
    conditions = (first.condition,) if first.condition else ()
    wrong = tuple(text for text in distractors if text)
    return Written(first.relation, first.subject, answers, wrong, conditions, max(severities, default=None))


def _severity(row: Row, lost: list[Problem]) -> int | None:
    if re.fullmatch("[1-9]|10", row.severity):
        return int(row.severity)
    if row.severity:
        _lose(lost, "import-severity", row, given=row.severity)
    return None


def _json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as problem:
        where = Place(file, problem.lineno, problem.colno)
        raise refused("import-file.json", where, detail=problem.msg) from problem
    except (ValueError, RecursionError) as problem:
        raise unreadable(file, problem) from problem


def _entries(file: Path, found: Any) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The objects of a list, placed by their number in it (from 1)."""
    if not isinstance(found, list):
        raise refused("import-file.list", Place(file))
    for number, entry in enumerate(found, 1):
        yield Place(file, number), entry if isinstance(entry, Mapping) else {}


def _word(entry: Mapping[str, Any], *path: str) -> str:
    value: Any = entry
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def _answers(told: Any) -> tuple[str, ...]:
    """The answers that a file tells as a text, as CounterFact's `{"str": ...}`, or as a list of either."""
    if isinstance(told, Mapping):
        return _answers(told.get("str"))
    if isinstance(told, list):
        return tuple(text for each in told if not isinstance(each, list) for text in _answers(each))
    return (told,) if isinstance(told, str) else ()


def _counterfact(file: Path, columns: Columns, language: Language) -> list[Row]:
    rows = []
    for where, entry in _entries(file, _json(file)):
        asked = entry.get("requested_rewrite")
        told = asked if isinstance(asked, Mapping) else {}
        relation, subject, wrong = _word(told, "relation_id"), _word(told, "subject"), _answers(told.get("target_new"))
        templates = (_word(told, "prompt").replace("{}", "{subject}"),)
        for answer in _answers(told.get("target_true")) or ("",):
            rows.append(Row(where, relation, subject, answer, wrong, templates=templates))
    return rows


def _known(file: Path, columns: Columns, language: Language) -> list[Row]:
    rows = []
    for where, entry in _entries(file, _json(file)):
        subject, prompt = _word(entry, "subject"), _word(entry, "prompt")
        template = prompt.replace(subject, "{subject}", 1) if subject else ""
        for answer in _answers(entry.get("attribute")) or ("",):
            rows.append(Row(where, _word(entry, "relation_id"), subject, answer, templates=(template,)))
    return rows


def _relation_files(file: Path, columns: Columns, language: Language) -> list[Row]:
    files = sorted(file.rglob("*.json")) if is_folder(file) else [file]
    return [row for each in files for row in _relation(each)]


def _relation(file: Path) -> Iterator[Row]:
    found = _json(file)
    if not isinstance(found, Mapping) or not isinstance(found.get("prompt_templates"), list):
        raise refused("import-file.relation", Place(file))
    more = found.get("prompt_templates_zs")
    texts = [*found["prompt_templates"], *(more if isinstance(more, list) else [])]
    templates = tuple(text.replace("{}", "{subject}") for text in texts if isinstance(text, str))
    name = _word(found, "name") or file.stem
    for where, sample in _entries(file, found.get("samples")):
        for answer in _answers(sample.get("object")) or ("",):
            yield Row(where, name, _word(sample, "subject"), answer, templates=templates)


def _csv(file: Path, columns: Columns, language: Language) -> list[Row]:
    table = read_table(file, columns.header)
    subject, answer = (
        table.column(asked or name) for asked, name in ((columns.subject, "subject"), (columns.answer, "answer"))
    )
    relation, condition, severity, template = (
        _optional(table, asked, name)
        for asked, name in (
            (columns.relation, "relation"),
            (columns.condition, "condition"),
            (columns.severity, "severity"),
            (None, "template"),
        )
    )
    return [
        Row(
            Place(file, number),
            _cell(cells, relation) or file.stem,
            cells[subject],
            cells[answer],
            condition=_cell(cells, condition),
            severity=_cell(cells, severity),
            templates=(_cell(cells, template).replace("{}", "{subject}"),),
        )
        for number, cells in table.rows
    ]


def _fmea(file: Path, columns: Columns, language: Language) -> list[Row]:
    table = read_table(file, columns.header, columns.sheet)
    if not columns.subject or not columns.answer:
        raise refused("import-column.unnamed", Place(file, columns.header), columns=table.listed())
    failure, cause = table.column(columns.subject), table.column(columns.answer)
    severity, condition = _optional(table, columns.severity), _optional(table, columns.condition)
    templates = CAUSE_TEMPLATES[language, condition is not None]
    return [
        Row(
            Place(file, number),
            "cause",
            cells[failure],
            cells[cause],
            condition=_cell(cells, condition),
            severity=_cell(cells, severity),
            templates=templates,
        )
        for number, cells in table.rows
    ]


def _optional(table: Table, asked: str | None, name: str = "") -> int | None:
    """The column that was asked for; without one, that of this name where there is one."""
    if asked is None:
        return table.names.index(name) if name and name in table.names else None
    return table.column(asked)


def _cell(cells: Sequence[str], column: int | None) -> str:
    return "" if column is None else cells[column]


_READERS: dict[str, Callable[[Path, Columns, Language], list[Row]]] = {
    "counterfact": _counterfact,
    "known": _known,
    "relations": _relation_files,
    "csv": _csv,
    "fmea": _fmea,
}
