"""Malformed files through the command line: exit 0 or 3, a code and a place, never a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.cli.main import execute
from tests.conftest import STUDY
from tests.malformed.spoiling import as_json, bad_bytes, bad_paths, bad_values, examples
from tests.malformed.test_imports import COUNTERFACT, PROMPTS, written_csv, written_sheet
from tests.packs.conftest import PACK

LINES = b"\n".join(as_json({"pmid": n, "text": f"Seizure {n} was seen in the left temporal lobe."}) for n in range(5))
Arguments = Callable[[Path], list[str]]


def command(kind: str) -> Arguments:
    """The command line that reads a file of that kind."""
    fmea = ["--format", "fmea", "--failure", "subject", "--cause", "answer"]
    lines: dict[str, Arguments] = {
        "pack": lambda file: ["pack", "check", str(file)],
        "study": lambda file: ["validate", str(file)],
        "counterfact": lambda file: ["pack", "import", str(file), "-o", fresh(), "--format", "counterfact"],
        "csv": lambda file: ["pack", "import", str(file), "-o", fresh(), "--format", "csv"],
        "sheet": lambda file: ["pack", "import", str(file), "-o", fresh(), *fmea],
        "corpus": lambda file: ["corpus", "prepare", str(file), "--out", fresh(), "--workers", "1"],
        "prompts": lambda file: ["guard", str(file), "--model", "/no/such/model"],
    }
    return lines[kind]


def fresh() -> str:
    """A path where nothing stands, in the folder that the command is called in."""
    taken = sum(1 for _ in Path.cwd().glob("new-*"))
    return str(Path.cwd() / f"new-{taken}.yaml")


KINDS: dict[str, tuple[str, st.SearchStrategy[bytes]]] = {
    "pack": ("file.yaml", bad_bytes(PACK.encode())),
    "study": ("file.yaml", bad_bytes(STUDY.encode())),
    "counterfact": ("file.json", bad_values(COUNTERFACT).map(as_json)),
    "csv": ("file.csv", bad_bytes(written_csv())),
    "sheet": ("file.xlsx", bad_bytes(written_sheet())),
    "corpus": ("file.jsonl", bad_bytes(LINES)),
    "prompts": ("file.jsonl", bad_values(PROMPTS).map(lambda rows: b"\n".join(map(as_json, rows)))),
}


def check(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = execute([*arguments, "--json"])
    told, said = capsys.readouterr()
    assert code in (0, 3), said
    answer = json.loads(told)  # one object, whatever happened
    assert answer["ok"] == (code == 0)
    assert "Traceback" not in said
    if code == 3:
        assert re.fullmatch("[a-z]+(-[a-z]+)+", answer["error"]["code"])
        assert answer["error"]["what"], answer
        assert answer["error"]["where"]["file"], answer


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_file_ends_with_0_or_3_and_one_json_object(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, contents = KINDS[kind]
    file = tmp_path / name
    (tmp_path / "pack.yaml").write_text(PACK, encoding="utf-8")

    @examples(25)
    @given(contents)
    def spoil(content: bytes) -> None:
        file.write_bytes(content)
        check(command(kind)(file), capsys)

    spoil()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_ends_with_3(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in bad_paths(tmp_path, Path(KINDS[kind][0]).suffix).values():
        arguments = command(kind)(path)
        assert execute([*arguments, "--json"]) == 3, arguments
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["where"]["file"], error
        assert error["what"]
