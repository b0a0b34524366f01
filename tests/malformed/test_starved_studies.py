"""Studies that cannot say anything: the answer is a reason and what to add, never a crash and never NaN."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from patchlight import load_model
from patchlight.cli.main import execute
from patchlight.model.load import save_model
from patchlight.model.scratch import new_gpt2
from patchlight.report.build import coded
from patchlight.report.texts import LANGUAGES, read_texts

NO_NUMBER = re.compile(r"\b(nan|NaN|inf|Infinity)\b")
SCRIPT = re.compile(r"<(script|style)\b.*?</\1>|data:[^\"']*", re.DOTALL)

Change = Callable[[Path], None]


def edit(folder: Path, name: str, *swaps: tuple[str, str]) -> None:
    """The file with some of its text swapped; in a copy, since the fixture's own pack is linked."""
    text = (folder / name).read_text(encoding="utf-8")
    for pattern, new in swaps:
        text = re.sub(pattern, new, text)
    (folder / name).unlink()
    (folder / name).write_text(text, encoding="utf-8")


def other_model(folder: Path, change: Callable[[Any], None]) -> None:
    """The taught model with its weights changed, in a folder of its own."""
    model = load_model(str(folder / "model"))
    change(model.hf)
    (folder / "model").unlink()
    save_model(model, folder / "model")


def few_facts(folder: Path) -> None:
    edit(folder, "pack.yaml", (r"(?m)^  - \{id: (swan|mole|lynx|hare|crow|seal|wolf|crab|toad)-.*\n", ""))


def seven_facts_and_one(folder: Path) -> None:
    lone = (r"(?m)^  - \{id: (?!fox).*-home.*\n", "")  # a kind of one fact has nothing to be matched with
    edit(folder, "pack.yaml", (r"(?m)^  - \{id: (swan|mole|lynx|hare|crow)-.*\n", ""), lone)


def one_template(folder: Path) -> None:
    edit(folder, "study.yaml", ("templates_per_fact: 3", "templates_per_fact: 1"))


def all_gated_out(folder: Path) -> None:
    edit(folder, "study.yaml", ("max_per_kind: 24", "max_per_kind: 24, gap_floor: 1000"))


def almost_no_pairs(folder: Path) -> None:
    edit(folder, "study.yaml", ("max_per_kind: 24", "max_per_kind: 2"))


def misaligned(folder: Path) -> None:
    few_facts(folder)
    edit(
        folder,
        "pack.yaml",
        (r"owl: \{en: owl\}", "owl: {en: owl owl owl}"),
        (r"bear: \{en: bear\}", "bear: {en: bear bear}"),
    )


@torch.no_grad()
def constant(hf: Any) -> None:
    for block in hf.transformer.h:
        for part in (block.mlp.c_proj, block.attn.c_proj):
            part.weight.zero_()
            part.bias.zero_()


@torch.no_grad()
def broken(hf: Any) -> None:
    hf.transformer.h[1].mlp.c_proj.weight[0, 0] = float("nan")


def constant_model(folder: Path) -> None:
    other_model(folder, constant)


def forgetful(folder: Path) -> None:
    tokenizer = load_model(str(folder / "model")).tokenizer
    (folder / "model").unlink()
    save_model(new_gpt2(tokenizer, layers=3, width=48, heads=4, context=32, seed=11), folder / "model")


def broken_model(folder: Path) -> None:
    other_model(folder, broken)


# What is done to the study, the verdict on its definitional facts, its reason, and a part of what to add.
STARVED: Mapping[str, tuple[Change, str, str, str]] = {
    "seven-facts": (seven_facts_and_one, "undetermined", "too-few-facts", "to the discovery half and"),
    "one-template": (one_template, "undetermined", "one-template", "at least 1 more wording"),
    "all-gated-out": (all_gated_out, "no knowledge to localise", "knows-too-few", "at least 5 more facts"),
    "almost-no-pairs": (almost_no_pairs, "undetermined", "too-few-facts", "raise `max_per_kind`"),
    "misaligned": (misaligned, "undetermined", "no-question", "the same number of tokens"),
    "constant": (constant_model, "no knowledge to localise", "knows-too-few", "at least 5 more facts"),
    "forgetful": (forgetful, "no knowledge to localise", "knows-too-few", "at least 5 more facts"),
}


def run(study: Path, change: Change, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON of a small study after the change."""
    small = "pairs_per_unit: 8, components: [attn_out, mlp_out], sets: false"
    edit(study.parent, "study.yaml", ("resamples: 500", "resamples: 200"), ("pairs_per_unit: 8", small))
    change(study.parent)
    code = execute(["run", "study.yaml", "--json"])
    told, said = capsys.readouterr()
    assert "Traceback" not in said
    return code, json.loads(told)


@pytest.mark.parametrize("name", STARVED)
def test_a_study_that_lacks_something_ends_with_what_to_add(
    name: str, new_study: Callable[[], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study()
    monkeypatch.chdir(study.parent)
    change, word, reason, add = STARVED[name]
    code, told = run(study, change, capsys)
    assert code == 0, told
    kind = next(each for each in told["checkpoints"][0]["kinds"] if each["kind"] == "definitional")
    assert (kind["verdict"], [code for code, _ in kind["reasons"]]) == (word, [reason])
    advice = kind["what_to_add"][0]
    assert advice["code"] == reason
    assert add in advice["en"]
    without_nan(study.parent / "workspace" / "reports" / "animals", advice)


def without_nan(folder: Path, advice: Mapping[str, str]) -> None:
    """No page and no table has a number that is none, and both pages say what to add."""
    for language, page in zip(LANGUAGES, ("report.html", "report.ja.html"), strict=True):
        shown = SCRIPT.sub("", (folder / page).read_text(encoding="utf-8"))
        assert not NO_NUMBER.search(re.sub("<[^>]*>", " ", shown))
        assert coded(read_texts(language)("verdict.add", text=advice[language])) in shown
    for file in (*folder.glob("*.csv"), *folder.glob("*.json")):
        assert not NO_NUMBER.search(file.read_text(encoding="utf-8-sig")), file.name


def test_a_model_with_weights_that_are_no_numbers_is_refused_by_name(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent)
    code, told = run(study, broken_model, capsys)
    assert (code, told["error"]["code"]) == (3, "model-weights-not-finite")
    assert "h.1.mlp.c_proj.weight" in told["error"]["what"]
