"""Training: it learns, keeps its best step, repeats itself bit for bit, and survives being killed."""

from __future__ import annotations

import math
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlight.errors import EnvironmentProblem, GateFailed, InputError
from patchlight.model.anatomy import Model
from patchlight.model.finetune import (
    Training,
    cut_blocks,
    finetune,
    validation_loss,
)
from patchlight.model.scratch import new_gpt2, train_tokenizer
from patchlight.model.settings import TrainingSettings
from patchlight.model.trainer import perplexity

torch.set_num_threads(1)

TRAIN = [f"The drug number {i} acts on channel {i % 3} of the neuron. It is well known." for i in range(48)]
VALIDATION = [f"The drug number {i} acts on channel {i % 3} of the neuron. It is well known." for i in range(50, 60)]
SETTINGS = TrainingSettings(
    learning_rate=3e-3, max_epochs=4, patience=3, batch_size=4, accumulation=2, warmup_steps=2, block_length=16,
    evaluate_every=4,
)  # fmt: skip
TOKENIZER = train_tokenizer(TRAIN, 300)

CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_finetune as suite

def die(step, total, loss):
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

suite.train(Path({folder!r}), on_progress=die)
"""


def tiny() -> Model:
    """A model with dropout, so that a resumed run must restore the random numbers too."""
    model = new_gpt2(TOKENIZER, layers=2, width=32, heads=2, context=32, seed=0)
    config = transformers.GPT2Config(**{**model.hf.config.to_dict(), "resid_pdrop": 0.1, "attn_pdrop": 0.1})
    hf = transformers.GPT2LMHeadModel(config)
    hf.load_state_dict(model.hf.state_dict())
    return Model(hf.requires_grad_(False), TOKENIZER, "tiny")


def train(folder: Path, seed: int = 7, **changes: object) -> Training:
    on_progress = changes.pop("on_progress", None)
    return finetune(tiny(), TRAIN, VALIDATION, replace(SETTINGS, **changes), folder, seed=seed, on_progress=on_progress)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, train(folder)


def test_training_lowers_the_validation_loss_and_returns_the_best_step(undisturbed: tuple[Path, Training]) -> None:
    _, training = undisturbed
    validated = {p.step: p.validation_loss for p in training.curve if p.validation_loss is not None}
    assert validated[0] == pytest.approx(validation_loss(tiny(), VALIDATION, 16), rel=1e-6)
    assert training.best_validation_loss == min(validated.values()) == validated[training.best_step] < validated[0] - 1
    assert validation_loss(training.model, VALIDATION, 16) == pytest.approx(training.best_validation_loss, rel=1e-6)
    assert perplexity(training.best_validation_loss) == pytest.approx(math.exp(training.best_validation_loss))
    assert not training.model.hf.training
    assert not any(weight.requires_grad for weight in training.model.hf.parameters())


def test_the_curve_has_every_step_and_every_evaluation(undisturbed: tuple[Path, Training]) -> None:
    _, training = undisturbed
    assert [point.step for point in training.curve] == list(range(training.steps + 1))
    assert all(point.train_loss is not None for point in training.curve[1:])
    evaluated = [point.step for point in training.curve if point.validation_loss is not None]
    assert evaluated == [s for s in range(training.steps + 1) if s % 4 == 0 or s == training.steps]
    assert training.curve[-1].epoch == pytest.approx(SETTINGS.max_epochs)


def test_the_model_given_is_left_as_it_was(tmp_path: Path) -> None:
    model, untouched = tiny(), tiny()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    finetune(model, TRAIN, VALIDATION, replace(SETTINGS, max_steps=2), tmp_path / "run", seed=1)
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers moved"
    for (name, weight), (_, before) in zip(model.hf.named_parameters(), untouched.hf.named_parameters(), strict=True):
        assert torch.equal(weight, before) and not weight.requires_grad, name


def test_the_seed_decides(undisturbed: tuple[Path, Training], tmp_path: Path) -> None:
    folder, _ = undisturbed
    train(tmp_path / "same")
    train(tmp_path / "other", seed=8)
    assert weights(tmp_path / "same") == weights(folder) != weights(tmp_path / "other")


def test_a_killed_and_resumed_run_equals_an_undisturbed_one(undisturbed: tuple[Path, Training], tmp_path: Path) -> None:
    whole, training = undisturbed
    folder = tmp_path / "killed"
    code = CHILD.format(tests=str(Path(__file__).parent), step=training.steps // 2 + 1, folder=str(folder))
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert not (folder / "training.json").exists()
    torn = shutil.copytree(folder, tmp_path / "torn")
    newest = max((torn / "checkpoints").iterdir(), key=lambda place: int(place.name.split("-")[1]))
    half_written = newest.with_name(f"checkpoint-{int(newest.name.split('-')[1]) + 4}")
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"half")
    for place in (folder, torn):
        steps: list[int] = []
        resumed = train(place, on_progress=lambda step, total, loss, steps=steps: steps.append(step))
        assert steps[0] > 1, "it began again from the start"
        assert weights(place) == weights(whole)
        assert resumed.curve == training.curve
        assert not (place / "checkpoints").exists()


@pytest.mark.parametrize("largest", [40_000, 250_000], ids=["the weights do not fit", "the optimiser does not fit"])
def test_a_full_disk_is_said_plainly_and_the_run_goes_on_later(
    undisturbed: tuple[Path, Training], tmp_path: Path, largest: int
) -> None:
    folder, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        with pytest.raises(EnvironmentProblem, match="finetune-not-written"):
            train(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "checkpoints" / "checkpoint-4" / "model.safetensors").exists() == (largest > 100_000)
    train(folder)
    assert weights(folder) == weights(undisturbed[0])


def test_a_finished_run_is_read_not_repeated(undisturbed: tuple[Path, Training]) -> None:
    folder, training = undisturbed
    before = weights(folder)
    again = train(folder, on_progress=lambda *_: pytest.fail("it trained again"))
    assert (again.curve, again.best_step, weights(folder)) == (training.curve, training.best_step, before)


def test_a_run_killed_after_its_last_step_does_not_train_on(tmp_path: Path) -> None:
    folder, steps = tmp_path / "run", []

    def block_the_end(step: int, total: int, loss: float) -> None:
        steps.append(step)
        (folder / "model").touch()  # a file where the model's folder should be

    with pytest.raises(InputError, match="model-folder-taken"):
        train(folder, on_progress=block_the_end, max_steps=8)
    (folder / "model").unlink()
    training = train(folder, on_progress=block_the_end, max_steps=8)
    assert steps == list(range(1, 9))
    assert training.steps == 8


def test_training_stops_when_the_validation_loss_no_longer_falls(tmp_path: Path) -> None:
    elsewhere = ["Whales sing in the cold sea at night, far away from any harbour or ship."] * 4
    training = finetune(
        tiny(),
        TRAIN,
        elsewhere,
        replace(SETTINGS, max_epochs=40, patience=2, learning_rate=1e-2),
        tmp_path / "run",
        seed=1,
    )
    validated = [point for point in training.curve if point.validation_loss is not None]
    assert training.stopped_early
    assert validated[-3].step == training.best_step
    assert training.best_validation_loss < min(point.validation_loss for point in validated[-2:])


def test_a_loss_that_is_never_finite_fails(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="finetune-diverged"):
        train(tmp_path / "run", learning_rate=1e30, warmup_steps=0, max_steps=8)


def test_a_folder_of_another_run_is_refused(undisturbed: tuple[Path, Training], tmp_path: Path) -> None:
    folder, _ = undisturbed
    for changes in ({"seed": 8}, {"max_epochs": 2}):
        with pytest.raises(InputError, match="finetune-other-run"):
            train(folder, **changes)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    with pytest.raises(InputError, match="finetune-other-run"):
        train(tmp_path / "mine")


def test_texts_and_blocks_that_cannot_be_used_are_refused() -> None:
    for texts, length, code in (
        ([], 16, "finetune-no-text"),
        ([""], 16, "finetune-no-text"),
        (TRAIN, 33, "finetune-block-length"),
    ):
        with pytest.raises(InputError, match=code):
            cut_blocks(texts, tiny(), length)


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1).filter(any), st.integers(2, 32))
def test_blocks_hold_every_token_once_and_pad_only_the_end(texts: list[str], length: int) -> None:
    blocks = cut_blocks(texts, MODEL, length)
    flat = blocks.flatten().tolist()
    end = TOKENIZER.eos_token_id
    expected = [token for text in texts for token in (*TOKENIZER(text)["input_ids"], end)]
    assert flat[: len(expected)] == expected
    assert blocks.shape[1] == length
    assert flat[len(expected) :] == [-100] * (-len(expected) % length)


def test_the_validation_loss_weighs_every_token_alike() -> None:
    model, losses = tiny(), []
    for block in cut_blocks(VALIDATION, model, 16):
        ids = block[block >= 0][None]
        scores = model.hf(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        losses += (-scores.gather(-1, ids[0, 1:, None])).flatten().tolist()
    for batch_size in (1, 3, 8):
        assert validation_loss(model, VALIDATION, 16, batch_size) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


MODEL = tiny()
