from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from patchlight.errors import InputError
from patchlight.packs.yaml_source import load_yaml, parse_source, parse_yaml, suggestion


class Step(BaseModel):
    model_config = ConfigDict(extra="forbid")
    component: Literal["resid_pre", "attn_out"]
    floor: float = Field(default=0.5, ge=0)


class Study(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str
    class_: str = Field("", alias="class")
    steps: list[Step] = []
    named: dict[str, Step] = {}


def complaint(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_source(text, Path("study.yaml"), Study, "study")
    return caught.value


def test_a_file_becomes_an_instance(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("model: gpt2\nclass: x\nsteps:\n- {component: attn_out}\n", encoding="utf-8")
    study = load_yaml(file, Study, "study")
    assert (study.model, study.class_, study.steps[0].component, study.steps[0].floor) == (
        "gpt2",
        "x",
        "attn_out",
        0.5,
    )


@pytest.mark.parametrize(
    ("text", "code", "where", "says"),
    [
        ("model: a\nmodle: b\n", "study-unknown-key", "study.yaml:2:1", "did you mean 'model'?"),
        ("model: a\nclas: b\n", "study-unknown-key", "study.yaml:2:1", "did you mean 'class'?"),
        ("model: a\nzzz: b\n", "study-unknown-key", "study.yaml:2:1", "known keys here: class, model, named, steps"),
        ("steps: []\n", "study-missing-key", "study.yaml:1:1", "add 'model: ...'"),
        ("", "study-value", "study.yaml", "'key: value'"),
        ("- model: a\n", "study-value", "study.yaml:1:1", "'key: value'"),
        ("model: 3\n", "study-value", "study.yaml:1:8", "write it in quotes"),
        ("model: a\nsteps:\n- component: resid_prae\n", "study-value", "study.yaml:3:14", "did you mean 'resid_pre'?"),
        ("model: a\nsteps:\n- component: zzz\n", "study-value", "study.yaml:3:14", "allowed: resid_pre, attn_out"),
        ("model: a\nsteps:\n- flor: 1\n  component: attn_out\n", "study-unknown-key", "study.yaml:3:3", "'floor'"),
        ("model: a\nnamed:\n  x: {flor: 1, component: attn_out}", "study-unknown-key", "study.yaml:3:7", "'floor'"),
        ("model: a\nsteps: [{component: attn_out, floor: -1}]\n", "study-value", "study.yaml:2:38", "steps.0.floor"),
        ("model: [1\n", "study-yaml", "study.yaml:2:1", "not valid YAML"),
        ("model: a\nmodel: b\n", "study-yaml", "study.yaml:2:1", "given twice"),
        ("model: &x a\nclass: *x\n", "study-yaml", "study.yaml:1:8", "anchors"),
        ("model: a\x01\n", "study-yaml", "study.yaml:1:9", "does not allow"),
        ("model: !!python/object/apply:os.system [ls]\n", "study-value", "study.yaml:1:8", "model"),
        ("model: !run ls\n", "study-yaml", "study.yaml:1:8", "not valid YAML"),
        ("model: 2026-13-45\n", "study-yaml", "study.yaml:1:8", "in quotes"),
        ("model: " + "9" * 5000, "study-yaml", "study.yaml:1:8", "in quotes"),
        ("1: a\n", "study-yaml", "study.yaml:1:1", "a key must be a word"),
        ("? [a]\n: b\n", "study-yaml", "study.yaml:1:3", "a key must be a word"),
        ("a: 1\n---\nb: 1\n", "study-yaml", "study.yaml:2:1", "document"),
        ("[" * 1000, "study-yaml", "study.yaml", "nested too deeply"),
    ],
)
def test_every_complaint_names_code_place_and_remedy(text: str, code: str, where: str, says: str) -> None:
    problem = complaint(text)
    assert (problem.code, str(problem.where)) == (code, where)
    assert says in str(problem)


def test_all_complaints_of_a_file_are_listed() -> None:
    text = "modle: a\n" + "".join(f"k{number}: 1\n" for number in range(30))
    message = str(complaint(text))
    assert "study.yaml:1:1" in message
    assert "also: study.yaml:5:1: unknown key 'k3' [study-unknown-key]" in message
    second = str(complaint("model: a\nk0: 1\nstpes: []\n"))
    assert "also: study.yaml:3:1: unknown key 'stpes' (did you mean 'steps'?) [study-unknown-key]" in second
    assert "and 12 more" in message  # 31 unknown keys and a missing one, 20 of them printed


def test_a_missing_file_and_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="study-not-found"):
        load_yaml(tmp_path / "absent.yaml", Study, "study")
    with pytest.raises(InputError, match="study-not-found"):
        load_yaml(tmp_path, Study, "study")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"model: \xff\xfe")
    with pytest.raises(InputError, match="study-not-text"):
        load_yaml(binary, Study, "study")


def test_places_point_at_keys_and_values() -> None:
    data, places = parse_yaml("a:\n  - b: 1\n    c: [x, y]\n", Path("f.yaml"), "any")
    assert data == {"a": [{"b": 1, "c": ["x", "y"]}]}
    assert str(places.value("a", 0, "c", 1)) == "f.yaml:3:12"
    assert str(places.key("a", 0, "c")) == "f.yaml:3:5"
    assert str(places.value("a", 0, "absent", "deeper")) == "f.yaml:2:5"
    assert str(places.key("absent")) == "f.yaml:1:1"


def test_a_suggestion_is_near_or_absent() -> None:
    assert suggestion("carbamazepin", ["calcium", "carbamazepine"]) == "did you mean 'carbamazepine'?"
    assert suggestion("xyz", ["calcium"]) == ""


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"#%@`?,\n\t 0~\x00é薬<="), max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        parse_source(text, Path("f.yaml"), Study, "study")
    except InputError as problem:
        assert problem.code.startswith("study-")
        assert re.match(r"f\.yaml(:\d+:\d+)?$", str(problem.where))
