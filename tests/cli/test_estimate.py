"""The command `estimate`: three points in two languages, one JSON object, a budget with an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchlight.cli.main import execute


def test_the_estimate_says_three_points_and_what_to_add_in_both_languages(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["estimate", str(study), "--workspace", str(tmp_path), "--seconds", "0"]
    assert execute([*asked, "--lang", "en"]) == 0
    said = capsys.readouterr().out
    for point in ("1. Work and time", "2. Cost and people", "3. Risks"):
        assert point in said
    assert "144" not in said.split("sweeps")[0]
    assert "(`--prices`)" in said
    assert "What to add" in said
    assert execute([*asked, "--lang", "ja"]) == 0
    japanese = capsys.readouterr().out
    assert "1. 作業と時間" in japanese
    assert "対照の測定" in japanese
    assert "Stage by stage" not in japanese


def test_json_is_one_object_with_its_version_and_is_kept_for_the_workbench(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["estimate", str(study), "--workspace", str(tmp_path), "--seconds", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["patchlight"], told["ok"], told["version"], told["study"]) == (1, True, 1, "animals")
    kept = json.loads(Path(told["file"]).read_text(encoding="utf-8"))
    assert kept == {name: value for name, value in told.items() if name not in ("patchlight", "ok", "file")}
    assert [each.name for each in tmp_path.iterdir()] == ["estimates"]


def test_a_study_over_its_budget_ends_with_exit_code_5(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["estimate", str(study), "--workspace", str(tmp_path), "--seconds", "10", "--json"]
    assert execute([*asked, "--budget", "1000"]) == 0
    low = json.loads(capsys.readouterr().out)["totals"]["seconds"]["low"]
    assert low > 0
    assert execute([*asked, "--budget", "0"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "estimate-over-budget"


def test_a_price_file_is_refused_with_its_line(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("patchlight: prices/1\ncurrency: JPY\nmachine_per_hour: dear\nreviewer_per_hour: 1\n")
    asked = ["estimate", str(study), "--workspace", str(tmp_path), "--seconds", "0", "--prices", str(prices)]
    assert execute(asked) == 3
    assert "prices.yaml:3:" in capsys.readouterr().err
    prices.write_text("patchlight: prices/1\ncurrency: JPY\nmachine_per_hour: 90\nreviewer_per_hour: 6000\n")
    assert execute([*asked, "--lang", "en"]) == 0
    said = capsys.readouterr().out
    assert "JPY" in said
    assert "--prices" not in said
