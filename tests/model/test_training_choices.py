"""What is trained, on which rows, in which arithmetic; and what is refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from patchlight.errors import EnvironmentProblem, GateFailed, InputError
from patchlight.model.finetune import finetune
from patchlight.model.load import load_model
from patchlight.model.rows import comparable_rows, mean_loss, rows_of
from patchlight.model.scratch import new_gpt2, train_tokenizer
from patchlight.model.settings import PRESETS, TrainingSettings, preset
from patchlight.model.trained import Lora, parts

torch.set_num_threads(1)
TEXTS = [f"Drug {i} acts on channel {i % 3} of the neuron. " + "It is well known. " * (i % 4) for i in range(40)]
HELD_BACK = TEXTS[:6]
TOKENIZER = train_tokenizer(TEXTS, 300)
MODEL = new_gpt2(TOKENIZER, layers=2, width=32, heads=2, context=64, seed=0)
FAST = TrainingSettings(
    learning_rate=3e-3, max_epochs=2, batch_size=4, accumulation=2, warmup_steps=0, block_length=16, evaluate_every=2,
    max_steps=4,
)  # fmt: skip


def changed(folder: Path, settings: TrainingSettings) -> set[str]:
    trained = finetune(MODEL, TEXTS, HELD_BACK, settings, folder, seed=3).model
    before = dict(MODEL.hf.named_parameters())
    return {name for name, weight in trained.hf.named_parameters() if not torch.equal(weight, before[name])}


def test_the_published_configurations() -> None:
    one, two = preset("clap-1"), preset("clap-2")
    shared = (8, 4, 500, 512)
    for each in (one, two):
        assert (each.batch_size, each.accumulation, each.warmup_steps, each.block_length) == shared
    assert (one.learning_rate, one.weight_decay, one.max_epochs, one.patience) == (5e-5, 0.01, 30, 3)
    assert (one.text, one.padding_in_loss, one.precision) == ("truncated", True, "fp16")
    assert (two.learning_rate, two.weight_decay, two.max_epochs, two.patience) == (2e-5, 0.1, 10, 5)
    assert (two.text, two.padding_in_loss, two.precision) == ("chunked", False, "fp32")
    assert {**PRESETS["clap-1-masked"], "padding_in_loss": True} == PRESETS["clap-1"]


def test_rows_are_cut_and_padded_as_they_say() -> None:
    ids = [TOKENIZER(text)["input_ids"] for text in TEXTS]
    truncated = rows_of(TEXTS, MODEL, 16, "truncated", padding_in_loss=True)
    assert len(truncated) == len(TEXTS)
    assert [row[:16] for row in ids] == [
        row[: int(mask.sum())].tolist() for row, mask in zip(truncated.tokens, truncated.attention, strict=True)
    ]
    assert torch.equal(truncated.labels, truncated.tokens), "padding is predicted, too"
    chunked = rows_of(TEXTS, MODEL, 16, "chunked")
    assert chunked.labels[chunked.labels >= 0].tolist() == [token for row in ids for token in row]
    assert len(chunked) == sum(-(-len(row) // 16) for row in ids)


def test_the_loss_that_counts_padding_is_that_of_a_plain_forward_and_differs_from_the_comparable_one() -> None:
    rows = rows_of(HELD_BACK, MODEL, 48, "truncated", padding_in_loss=True)
    scores = MODEL.hf(input_ids=rows.tokens, attention_mask=rows.attention).logits[:, :-1].double().log_softmax(-1)
    expected = -scores.gather(-1, rows.tokens[:, 1:, None]).mean()
    assert mean_loss(MODEL.hf, rows, 2) == pytest.approx(float(expected), rel=1e-5)
    assert abs(mean_loss(MODEL.hf, comparable_rows(HELD_BACK, MODEL), 2) - float(expected)) > 1e-3


def test_only_the_named_parts_are_trained(tmp_path: Path) -> None:
    assert changed(tmp_path, replace(FAST, train_only=("blocks.1.mlp",))) == {
        f"transformer.h.1.mlp.{name}" for name in ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias")
    }
    assert set(parts(MODEL)) >= {"embed", "final_norm", "blocks.0", "blocks.1.attn"}


def test_an_adapter_changes_only_its_parts_and_gives_the_merged_model_when_laid_over_the_base(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run = tmp_path / "run"
    assert changed(run, replace(FAST, train_only=("blocks.0.attn",), lora=Lora(4))) == {
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.attn.c_proj.weight",
    }
    from patchlight.model.load import save_model

    save_model(MODEL, tmp_path / "base")
    laid_over, merged = load_model(tmp_path / "base", adapter=run / "adapter"), load_model(run / "model")
    ids = torch.tensor([TOKENIZER(TEXTS[0])["input_ids"]])
    assert torch.allclose(laid_over.hf(ids).logits, merged.hf(ids).logits, atol=1e-5)
    assert not [file for file in run.rglob("*") if file.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_an_adapter_killed_on_its_way_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = replace(FAST, lora=Lora(4, dropout=0.1))

    class Killed(BaseException):
        pass

    def die(step: int, total: int, loss: float) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        finetune(MODEL, TEXTS, HELD_BACK, settings, tmp_path / "killed", seed=3, on_progress=die)
    for name in ("killed", "whole"):
        finetune(MODEL, TEXTS, HELD_BACK, settings, tmp_path / name, seed=3)
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors", "training.json", "curve.csv"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_checkpointing_and_bfloat16_train_too(tmp_path: Path) -> None:
    plain = finetune(MODEL, TEXTS, HELD_BACK, FAST, tmp_path / "plain", seed=3)
    saving = finetune(MODEL, TEXTS, HELD_BACK, replace(FAST, gradient_checkpointing=True), tmp_path / "saving", seed=3)
    rough = finetune(MODEL, TEXTS, HELD_BACK, replace(FAST, precision="bf16"), tmp_path / "rough", seed=3)
    assert saving.best_validation_loss == pytest.approx(plain.best_validation_loss, rel=1e-5)
    assert rough.best_validation_loss == pytest.approx(plain.best_validation_loss, rel=0.02)
    assert rough.best_validation_loss != plain.best_validation_loss


def test_the_curve_grows_while_training_runs(tmp_path: Path) -> None:
    seen = []

    def look(step: int, total: int, loss: float) -> None:
        seen.append(len((tmp_path / "curve.csv").read_text().splitlines()))

    training = finetune(MODEL, TEXTS, HELD_BACK, FAST, tmp_path, seed=3, on_progress=look)
    assert seen == sorted(set(seen)) and len(seen) == training.steps
    rows = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    compared = {int(row["step"]): float(row["comparable_loss"]) for row in rows if row["comparable_loss"]}
    assert compared == {point.step: point.comparable_loss for point in training.curve if point.comparable_loss}


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
@pytest.mark.filterwarnings("default")  # what they warn of is theirs
def test_a_tracker_gets_each_training_as_a_run_and_changes_nothing(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tracker, reason=f"{tracker} is not installed here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    plain = finetune(MODEL, TEXTS, HELD_BACK, FAST, tmp_path / "plain", seed=3)
    settings = replace(FAST, report_to=tracker)
    tracked = [finetune(MODEL, TEXTS, HELD_BACK, settings, tmp_path / name, seed=3) for name in ("one", "two")]
    assert all(each.curve == plain.curve for each in tracked)
    assert all(each.model.digest == plain.model.digest for each in tracked)
    losses = [point.comparable_loss for point in plain.curve[1:] if point.comparable_loss is not None]
    assert losses
    if tracker == "mlflow":
        assert _runs_of_mlflow() == [losses, losses]
    else:
        runs = [file.read_bytes() for file in tmp_path.glob("wandb/offline-run-*/*.wandb")]
        assert [all(repr(loss).encode() in run for loss in losses) for run in runs] == [True, True]


def _runs_of_mlflow() -> list[list[float]]:
    """The comparable losses of each run."""
    import mlflow

    client = mlflow.MlflowClient()
    runs = [run.info.run_id for run in client.search_runs(["0"])]
    return [[each.value for each in client.get_metric_history(run, "eval_comparable_loss")] for run in runs]


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"precision": "fp16"}, EnvironmentProblem, "finetune-precision"),
        pytest.param(
            {"report_to": "wandb"},
            EnvironmentProblem,
            "finetune-tracker-missing",
            marks=pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed here"),
        ),
        ({"train_only": ("blocks.7.mlp",)}, InputError, "finetune-unknown-part"),
        ({"batch_size": 500}, InputError, "finetune-fewer-than-a-batch"),
        ({"block_length": 65}, InputError, "finetune-block-length"),
        ({"learning_rate": 1e30}, GateFailed, "finetune-diverged"),
    ],
)
def test_what_cannot_be_trained_is_said(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], code: str
) -> None:
    with pytest.raises(error, match=code):
        finetune(MODEL, TEXTS, HELD_BACK, replace(FAST, **changes), tmp_path / "run", seed=3)
