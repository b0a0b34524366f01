"""A study from YAML to report by the command line, on a small model that was really taught."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from patchlight import Pair, load_model

TABLES = ("effects.parquet", "intervals.csv", "questions.csv", "left_out.csv", "summary.json")


def patchlight(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A call of the command line as a person makes it."""
    command = [sys.executable, "-m", "patchlight.cli.main", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.fixture(scope="module")
def finished(new_study: Callable[[], Path]) -> Path:
    """A folder in which the study was run once, undisturbed."""
    folder = new_study().parent
    ran = patchlight("run", "study.yaml", "--json", folder=folder)
    assert ran.returncode == 0, ran.stderr
    (folder / "answer.json").write_text(ran.stdout, encoding="utf-8")
    return folder


def reports(folder: Path) -> Path:
    return folder / "workspace" / "reports" / "animals"


def test_a_run_ends_with_a_verdict_of_each_kind_and_a_report_in_two_languages(finished: Path) -> None:
    answer = json.loads((finished / "answer.json").read_text())
    assert answer["ok"]
    kinds = {kind["kind"]: kind for kind in answer["checkpoints"][0]["kinds"]}
    assert set(kinds) == {"definitional", "associative"}
    assert all(kind["pairs"] == 24 and kind["facts"] == 12 and kind["reasons"] for kind in kinds.values())
    assert "<svg" in (reports(finished) / "report.html").read_text(encoding="utf-8")
    assert list(reports(finished).glob("*ja*.html"))


def test_every_cell_of_the_table_equals_a_plain_hooked_forward(finished: Path) -> None:
    table = pd.read_parquet(reports(finished) / "effects.parquet").query("not control")
    questions = pd.read_csv(reports(finished) / "questions.csv").set_index(["fact", "template"])
    model = load_model(finished / "model")
    for row in table.sample(60, random_state=0).itertuples():
        asked = questions.loc[(row.fact, row.template)]
        pair = Pair(asked.clean, asked.corrupted, asked.correct, asked.wrong)
        expected = hooked(model, pair, row.component, row.direction, row.layer, row.position)
        assert row.patched == pytest.approx(expected, abs=5e-5), (row.component, row.direction, row.layer, row.position)


def hooked(model, pair: Pair, component: str, direction: str, layer: int, position: int) -> float:
    """The logit difference after one replacement, by forward hooks on the stock model."""
    block = model.hf.transformer.h[layer]
    module = {"resid_pre": block, "attn_out": block.attn, "mlp_out": block.mlp}[component]
    given, received = (pair.clean, pair.corrupted) if direction == "denoise" else (pair.corrupted, pair.clean)
    kept = {}

    def keep(_module, arguments, output=None):
        kept["x"] = (arguments[0] if output is None else output[0] if isinstance(output, tuple) else output).clone()

    def put(_module, arguments, output=None):
        value = arguments[0] if output is None else output[0] if isinstance(output, tuple) else output
        value = value.clone()
        value[:, position] = kept["x"][:, position]
        if output is None:
            return (value, *arguments[1:])
        return (value, *output[1:]) if isinstance(output, tuple) else value

    def run(prompt: str, hook) -> torch.Tensor:
        register = module.register_forward_pre_hook if component == "resid_pre" else module.register_forward_hook
        handle = register(hook)
        try:
            with torch.no_grad():
                return model.hf(**model.tokenizer(prompt, return_tensors="pt")).logits[0, -1].double()
        finally:
            handle.remove()

    run(given, keep)
    logits = run(received, put)
    first = [model.tokenizer(answer)["input_ids"][0] for answer in (pair.correct, pair.wrong)]
    return float(logits[first[0]] - logits[first[1]])


def test_the_second_run_computes_nothing_and_writes_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    before = {name: (reports(finished) / name).read_bytes() for name in (*TABLES, "report.html")}
    again = patchlight("run", "study.yaml", "--json", folder=finished)
    assert json.loads(again.stdout)["computed"] == 0
    written = patchlight("report", folder=finished)
    assert written.returncode == 0, written.stderr
    for name, content in before.items():
        if name.endswith(".html"):
            continue  # the page names the command that made it
        assert (reports(finished) / name).read_bytes() == content, name


def test_a_run_killed_half_way_goes_on_and_gives_the_same_tables_bit_for_bit(finished: Path, study: Path) -> None:
    folder = study.parent
    command = [sys.executable, "-m", "patchlight.cli.main", "run", "study.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    wait_for_files(folder / "workspace" / "files", 6, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    went_on = patchlight("run", "study.yaml", "--json", folder=folder)
    assert went_on.returncode == 0, went_on.stderr
    whole = json.loads((finished / "answer.json").read_text())["computed"]
    assert 0 < json.loads(went_on.stdout)["computed"] < whole
    for name in TABLES:
        assert (reports(folder) / name).read_bytes() == (reports(finished) / name).read_bytes(), name


def wait_for_files(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if folder.exists() and sum(path.is_file() for path in folder.rglob("*")) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"the run did not come to {count} stored files (exit code {process.poll()})")


def test_an_interrupt_says_how_to_resume(study: Path) -> None:
    command = [sys.executable, "-m", "patchlight.cli.main", "run", "study.yaml"]
    process = subprocess.Popen(command, cwd=study.parent, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for_files(study.parent / "workspace" / "files", 3, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run study.yaml" in said
    resumed = patchlight("resume", folder=study.parent)
    assert resumed.returncode == 0, resumed.stderr


def test_other_corruptions_are_measured_compared_and_kept(study: Path) -> None:
    wanted = "sweep: {components: [mlp_out], directions: [denoise], corruptions: [gaussian, resample]}"
    study.write_text(study.read_text(encoding="utf-8").replace("sweep: {pairs_per_unit: 8}", wanted), encoding="utf-8")
    ran = patchlight("run", study, "--json", folder=study.parent)
    assert ran.returncode == 0, ran.stderr
    table = pd.read_csv(reports(study.parent) / "robustness.csv")
    assert list(table.corruption) == ["token", "gaussian", "resample"] * 2
    assert (table.pairs + table.left_out == 24).all()
    assert (table.overlap[table.corruption == "token"] == 1).all()
    page = (reports(study.parent) / "report.html").read_text(encoding="utf-8")
    assert "robustness-maps-the-model-as-it-is-definitional-mlp-out.csv" in page
    assert "another corruption or another metric would name" not in page
    again = patchlight("run", study, "--json", folder=study.parent)
    assert json.loads(again.stdout)["computed"] == 0


def test_places_are_narrowed_and_metrics_compared_and_the_report_says_how(study: Path) -> None:
    wanted = (
        "sweep: {components: [mlp_out], metric: [logit_diff, prob], pairs_per_unit: 10,"
        " screening: {components: [mlp_out, head_out, q], method: atp_star, candidates: 0.2, audit: 12}}"
    )
    study.write_text(study.read_text(encoding="utf-8").replace("sweep: {pairs_per_unit: 8}", wanted), encoding="utf-8")
    ran = patchlight("run", study, "--json", folder=study.parent)
    assert ran.returncode == 0, ran.stderr
    for kind in json.loads(ran.stdout)["checkpoints"][0]["kinds"]:
        screened = kind["screening"]
        assert (screened["facts"], screened["method"], screened["audited"]) == (6, "atp_star", 12)
        assert screened["candidates"] == np.ceil(0.2 * screened["sites"])
    places = pd.read_csv(reports(study.parent) / "screening.csv")
    assert set(places.component) == {"mlp_out", "head_out", "q"}
    assert (places.status == "candidate").sum() + 24 == places.exact.notna().sum()
    # The same maps on two ways: from the stored sweeps in both directions, and measured again in the first.
    compared = pd.read_csv(reports(study.parent) / "metrics.csv")
    assert list(compared.metric) == ["logit_diff", "prob"] * 4
    again = pd.read_csv(reports(study.parent) / "robustness.csv")
    first = compared[compared.direction == "denoise"]
    np.testing.assert_allclose(first.strongest_effect, again.strongest_effect, rtol=1e-4)
    assert (first.facts.to_numpy() == again.facts.to_numpy()).all()
    page = (reports(study.parent) / "report.html").read_text(encoding="utf-8")
    assert "screening-the-model-as-it-is-associative.csv" in page
    assert "metrics-associative.csv" in page
    second = patchlight("run", study, "--json", folder=study.parent)
    assert json.loads(second.stdout)["computed"] == 0


def test_status_tells_how_far_the_study_is(finished: Path) -> None:
    status = json.loads(patchlight("status", "--json", folder=finished).stdout)["studies"]
    assert [(each["id"], each["failed"], each["done"] == each["planned"]) for each in status] == [("animals", 0, True)]


def test_a_model_at_random_init_gets_no_verdict_and_the_report_says_why(taught: Path, study: Path) -> None:
    from patchlight import random_init, save_model

    (study.parent / "model").unlink()
    save_model(random_init(load_model(taught / "model"), seed=5), study.parent / "model")
    ran = patchlight("run", "study.yaml", "--json", folder=study.parent)
    assert ran.returncode == 0, ran.stderr
    kinds = json.loads(ran.stdout)["checkpoints"][0]["kinds"]
    assert {kind["verdict"] for kind in kinds} == {"no knowledge to localise"}


def test_a_kind_of_which_nothing_is_answered_gets_its_own_verdict_beside_the_others(study: Path) -> None:
    pack = study.parent / "pack.yaml"
    templates = '["The colour of the {subject} is", "Everyone paints the {subject} in"]'
    relation = f"  - {{id: lie, kind: mistaken, templates: {{en: {templates}}}}}"
    # Red animals called blue and blue ones red: whatever the partner, the answer called wrong is the true one.
    lies = [("fox", "blue"), ("wolf", "blue"), ("swan", "blue"), ("owl", "red"), ("crab", "red"), ("mole", "red")]
    facts = [
        f"  - {{id: {who}-lie, relation: lie, subject: {who}, answers: [{said}], source: tale}}" for who, said in lies
    ]
    text = pack.read_text(encoding="utf-8").replace("facts:\n", f"{relation}\nfacts:\n")
    pack.unlink()
    pack.write_text(text + "\n".join(facts) + "\n", encoding="utf-8")
    ran = patchlight("run", "study.yaml", "--json", folder=study.parent)
    assert ran.returncode == 0, ran.stderr
    kinds = {kind["kind"]: kind for kind in json.loads(ran.stdout)["checkpoints"][0]["kinds"]}
    assert (kinds["mistaken"]["verdict"], kinds["mistaken"]["pairs"]) == ("no knowledge to localise", 0)
    assert kinds["definitional"]["pairs"] == 24


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("pack:", "pakc:"), 3, "study.yaml:5:1"),
        (("pack: pack.yaml", "pack: nowhere.yaml"), 3, "nowhere.yaml"),
        (("{load: model}", "{load: no/such/folder/at/all}"), 3, "no/such/folder"),
        (("resamples: 500", "resamples: many"), 3, "resamples"),
        (("max_per_kind: 24}", "max_per_kind: 24, relations: [colours]}"), 3, "did you mean 'colour'"),
    ],
)
def test_bad_input_is_refused_with_its_place_and_nothing_is_written(
    study: Path, change: tuple[str, str], code: int, said: str
) -> None:
    study.write_text(study.read_text().replace(*change), encoding="utf-8")
    ran = patchlight("run", "study.yaml", folder=study.parent)
    assert ran.returncode == code, ran.stderr
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (study.parent / "workspace" / "reports").exists()


def test_init_writes_a_study_that_validates_and_never_writes_over_anything(tmp_path: Path) -> None:
    first = patchlight("init", "mine", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    assert patchlight("validate", "mine/study.yaml", folder=tmp_path).returncode == 0
    content = {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()}
    assert patchlight("init", "mine", folder=tmp_path).returncode == 3
    assert {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()} == content


def test_doctor_proves_a_model(taught: Path, tmp_path: Path) -> None:
    checked = patchlight("doctor", "--model", taught / "model", "--json", folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    identities = json.loads(checked.stdout)["identities"]
    assert identities
    assert all(np.isfinite(each["error"]) and each["held"] for each in identities)


def test_a_damaged_result_is_computed_again(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    folder = tmp_path / "copy"
    stored = max(
        (file for file in (folder / "workspace" / "files").rglob("*") if file.is_file()),
        key=lambda file: file.stat().st_size,
    )
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(content)
    again = patchlight("run", "study.yaml", "--json", folder=folder)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["computed"] >= 1
    assert (reports(folder) / "effects.parquet").read_bytes() == (reports(finished) / "effects.parquet").read_bytes()
