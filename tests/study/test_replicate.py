"""A small study run again on another model, from another seed, and on a model that was taught nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from patchlight.cli.main import execute
from patchlight.model.load import load_model, random_init, save_model

NOT_A_NUMBER = re.compile(r"\b(nan|inf|-inf)\b", re.IGNORECASE)


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


@pytest.fixture(scope="module")
def repeated(new_study: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    study, folder = new_study(), tmp_path_factory.mktemp("repeated")
    text = study.read_text(encoding="utf-8").replace("sweep: {", "sweep: {components: [mlp_out], ")
    study.write_text(text, encoding="utf-8")
    untaught = folder / "untaught"
    save_model(random_init(load_model(study.parent / "model"), seed=5), untaught)
    options = [
        "--models",
        str(untaught),
        "--seeds",
        "8",
        "-o",
        str(folder / "out"),
        "--workspace",
        str(folder / "work"),
    ]
    assert execute(["replicate", str(study), *options, "--debug"]) == 0
    (folder / "again.txt").write_text(json.dumps(["replicate", str(study), *options]))
    return folder


def test_every_run_is_listed_and_a_model_that_cannot_answer_is_not_counted(repeated: Path) -> None:
    found = json.loads((repeated / "out" / "replication.json").read_text(encoding="utf-8"))
    assert [(each["run"], each["varied"]) for each in found["outcomes"][::2]] == [
        ("animals", "study"), ("untaught", "model"), ("8", "seed")]  # fmt: skip
    untaught = [each for each in found["outcomes"] if each["run"] == "untaught"]
    assert {each["word"] for each in untaught} == {"no knowledge to localise"}
    assert {(each["able"], each["held"]) for each in found["answers"]} == {(1, "nothing to compare")}


def test_no_page_of_any_run_shows_what_is_not_a_number(repeated: Path) -> None:
    assert len(pages(repeated)) == 2 + 2 * 3
    for page in pages(repeated):
        text = re.sub(r"<style>.*?</style>|data:[^\"]*", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not NOT_A_NUMBER.findall(text), page


def test_running_it_again_computes_nothing_new(repeated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {page.name: page.read_bytes() for page in pages(repeated / "out")}
    files = sum(1 for _ in (repeated / "work" / "files").rglob("*"))
    assert execute(json.loads((repeated / "again.txt").read_text())) == 0
    assert {page.name: page.read_bytes() for page in pages(repeated / "out")} == before
    assert sum(1 for _ in (repeated / "work" / "files").rglob("*")) == files
    assert "Run 3 of 3: 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 3, "replicate-nothing-varied"),
        (["--seeds", "one"], 3, "replicate-seed"),
        (["--packs", "nowhere.yaml"], 3, "nowhere.yaml"),
        (["--models", "no/such/folder/at/all"], 3, "no/such/folder"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_anything_runs(
    study: Path, options: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["-o", str(tmp_path / "out"), "--workspace", str(tmp_path / "work")]
    assert execute(["replicate", str(study), *options, *folders]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
