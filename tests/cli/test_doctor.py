"""`patchlight doctor`: the machine, and the proof of a model, of a known type or with the entry of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from patchlight.cli.main import execute
from patchlight.model.scratch import train_tokenizer

TOKENIZER = train_tokenizer(["one two three"] * 4, 270)
SMALL = {
    "vocab_size": len(TOKENIZER), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


def save(folder: Path, kind: str, **settings: object) -> str:
    """A small random model of a type, with weights large enough that every part matters."""
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **settings))
    for parameter in hf.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    hf.save_pretrained(folder / kind)
    TOKENIZER.save_pretrained(folder / kind)
    return str(folder / kind)


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = execute(["doctor", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def unknown(tmp_path: Path) -> str:
    """A model of a type that the table does not have."""
    return save(tmp_path, "cwm", rope_parameters={"rope_type": "default", "rope_theta": 1e4}, sliding_window=3)


def test_the_machine_is_told_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = doctor(capsys)
    assert (code, told["identities"]) == (0, [])
    assert told["machine"]["devices"].split()[0] == "cpu"


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_a_model_is_proven_in_each_number_format(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = doctor(capsys, "--model", save(tmp_path, "llama"), "--dtype", dtype, "--device", "cpu")
    assert code == 0
    assert all(each["held"] for each in told["identities"])


def test_an_unknown_type_names_the_way_to_prove_it(unknown: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = doctor(capsys, "--model", unknown)
    assert (code, told["error"]["code"]) == (3, "model-unknown-family")
    assert "--like" in told["error"]["fix"]


@pytest.mark.parametrize(("language", "said"), [("en", "To keep it"), ("ja", "残すには")])
def test_an_entry_of_another_type_that_holds_is_written_out(
    language: str, said: str, unknown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["doctor", "--model", unknown, "--like", "llama", "--lang", language]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert said in last
    assert '"cwm": FAMILIES["llama"]' in last


def test_an_entry_that_does_not_hold_is_named_by_what_it_breaks(
    unknown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gemma = save(tmp_path, "gemma2", head_dim=8, query_pre_attn_scalar=8)
    code, told = doctor(capsys, "--model", gemma, "--like", "llama")
    assert (code, told["error"]["code"]) == (6, "identity-broken")
    assert "residual sums hold" in told["error"]["what"]
    refused = {like: doctor(capsys, "--model", unknown, "--like", like)[1]["error"] for like in ("gpt2", "cohere", "x")}
    codes = {like: error["code"] for like, error in refused.items()}
    assert codes == {"gpt2": "model-no-component", "cohere": "model-no-setting", "x": "doctor-unknown-family"}
    assert "transformer.h" in refused["gpt2"]["what"]


@pytest.mark.parametrize(
    ("options", "exit_code", "error"),
    [
        (["--device", "mps", "--dtype", "float64"], 3, "model-dtype-on-device"),
        (["--device", "nowhere"], 4, "model-device-missing"),
        (["--dtype", "int8"], 3, "model-unknown-dtype"),
    ],
)
def test_a_device_or_format_that_cannot_be_is_refused(
    options: list[str], exit_code: int, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = doctor(capsys, "--model", "any/model", *options)
    assert (code, told["error"]["code"]) == (exit_code, error)
