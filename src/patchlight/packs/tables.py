"""Rows of a table that people keep: CSV, or a spreadsheet with merged cells; every row with its place."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patchlight.errors import Place
from patchlight.packs.problem import FileRefused, refused

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

MOST_CELLS, MOST_BYTES = 4_000_000, 1 << 28  # of a spreadsheet; what is larger is no table that a person wrote
_AREA = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([A-Z]{1,3})(\d{1,9}):([A-Z]{1,3})(\d{1,9})"')
_ODD_WIDTH = re.compile("[\uff66-\uff9f\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]+")


@dataclass(frozen=True)
class Table:
    """The names of the columns, and the rows under them with their numbers (from 1) in the file."""

    file: Path
    names: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    def column(self, asked: str) -> int:
        """The column of that name, or of that letter. Raises FileRefused `pack-import-column` with those there are."""
        wanted = tidy(asked)
        if self.names.count(wanted) == 1:
            return self.names.index(wanted)
        letter = _column_of_letters(asked)
        if wanted not in self.names and letter is not None and letter < len(self.names):
            return letter
        key = f"import-column.{'several' if wanted in self.names else 'none'}"
        raise refused(key, Place(self.file), asked=asked, columns=self.listed())

    def listed(self) -> str:
        """What the columns are, for a person to choose from."""
        return ", ".join(f"{_letters(n)} = {name!r}" for n, name in enumerate(self.names))


def tidy(text: str) -> str:
    """The text on one line, kana full-width, digits and letters half-width."""
    return " ".join(_ODD_WIDTH.sub(lambda odd: unicodedata.normalize("NFKC", odd.group()), text).split())


def read_table(file: Path, header: int, sheet: str | None = None) -> Table:
    """The table of a .csv or .xlsx file whose columns are named in row `header`.

    A merged cell's value counts for every row and column under it. Raises FileRefused where the file cannot be read.
    """
    lines = _sheet(file, sheet) if file.suffix.lower() == ".xlsx" else _csv(file)
    numbered = [(number, tuple(tidy(cell) for cell in line)) for number, line in lines]
    names = next((cells for number, cells in numbered if number == header), ())
    if not any(names):
        raise refused("import-header", Place(file, header), row=header)
    width = len(names)
    rows = [(n, (cells + ("",) * width)[:width]) for n, cells in numbered if n > header and any(cells)]
    return Table(file, names, tuple(rows))


def read_text(file: Path) -> str:
    """The text of a UTF-8 file. Raises FileRefused `pack-import-file` with the line that is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        where = Place(file, problem.object[: problem.start].count(b"\n") + 1)
        raise refused("import-file.bytes", where) from problem
    except (OSError, ValueError) as problem:
        raise unreadable(file, problem) from problem


def unreadable(file: Path, problem: Exception) -> FileRefused:
    """The error for a file that cannot be read, for the caller to raise."""
    return refused("import-file.reason", Place(file), reason=getattr(problem, "strerror", None) or str(problem))


def _csv(file: Path) -> Sequence[tuple[int, Sequence[str]]]:
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    lines: list[tuple[int, Sequence[str]]] = []
    while True:
        number = reader.line_num + 1
        try:
            lines.append((number, next(reader)))
        except StopIteration:
            return lines
        except csv.Error as problem:
            raise refused("import-file.csv", Place(file, number), detail=str(problem)) from problem


def _sheet(file: Path, sheet: str | None) -> Sequence[tuple[int, Sequence[str]]]:
    chosen = _chosen(_book(file), file, sheet)
    if chosen.max_row * chosen.max_column > MOST_CELLS:
        size = {"sheet": chosen.title, "row": chosen.max_row, "column": chosen.max_column}
        raise refused("import-file.reach", Place(file), **size)
    formulas = _formulas(file, chosen.title) if any(cell.value is None for row in chosen.rows for cell in row) else {}
    covered = {
        (row, column): _words(chosen.cell(area.min_row, area.min_col).value, formulas.get((area.min_row, area.min_col)))
        for area in chosen.merged_cells.ranges
        for row in range(area.min_row, area.max_row + 1)
        for column in range(area.min_col, area.max_col + 1)
    }
    return [
        (
            cells[0].row,
            [covered.get(at := (cell.row, cell.column), _words(cell.value, formulas.get(at))) for cell in cells],
        )
        for cells in chosen.rows
    ]


def _formulas(file: Path, sheet: str) -> dict[tuple[int, int], str]:
    """The formulas of a sheet: what stands in a cell whose result no program has calculated."""
    cells = (cell for row in _chosen(_book(file, formulas=True), file, sheet).rows for cell in row)
    return {
        (cell.row, cell.column): str(getattr(cell.value, "text", cell.value)) for cell in cells if cell.data_type == "f"
    }


def _book(file: Path, *, formulas: bool = False) -> Workbook:
    import openpyxl

    try:
        _refuse_bombs(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forms and colours, which are not read
            return openpyxl.load_workbook(file, data_only=not formulas)
    except FileRefused:
        raise
    except Exception as problem:  # openpyxl raises whatever a damaged archive leads it to
        raise unreadable(file, problem) from problem


def _refuse_bombs(file: Path) -> None:
    """Refuse what takes the machine's memory while it is opened: openpyxl makes a cell for every merged one."""
    with zipfile.ZipFile(file) as packed:
        if sum(part.file_size for part in packed.infolist()) > MOST_BYTES:
            raise refused("import-file.unpacked", Place(file), mib=MOST_BYTES >> 20)
        for name in packed.namelist():
            if name.startswith("xl/worksheets/") and _merged(packed.read(name)) > MOST_CELLS:
                raise refused("import-file.merged", Place(file), most=MOST_CELLS)


def _merged(sheet: bytes) -> int:
    """How many cells lie in merged areas."""
    total = 0
    for left, top, right, bottom in _AREA.findall(sheet):
        columns = [_column_of_letters(name.decode()) or 0 for name in (left, right)]
        total += (abs(columns[1] - columns[0]) + 1) * (abs(int(bottom) - int(top)) + 1)
    return total


def _chosen(book: Workbook, file: Path, sheet: str | None) -> Worksheet:
    names = [each.title for each in book.worksheets]
    if not names or (sheet is not None and sheet not in names):
        key = f"import-sheet.{'unknown' if names else 'none'}"
        raise refused(key, Place(file), sheet=sheet, sheets=", ".join(names))
    return book.worksheets[0 if sheet is None else names.index(sheet)]


def _words(value: object, formula: str | None) -> str:
    value = formula if value is None else value
    whole = isinstance(value, float) and value.is_integer()
    return "" if value is None else str(int(value)) if whole and isinstance(value, float) else str(value)


def _column_of_letters(letters: str) -> int | None:
    if not re.fullmatch("[A-Z]{1,3}", letters):
        return None
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _letters(column: int) -> str:
    first, second = divmod(column, 26)
    return (chr(ord("A") + first - 1) if first else "") + chr(ord("A") + second)
