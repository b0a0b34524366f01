"""Training with early stopping on validation loss.

It is resumable: a run that was killed and started again gives the weights of an undisturbed one, bit for bit
on the same CPU and number of threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Int
from torch import Tensor

from patchlight.errors import GateFailed, InputError
from patchlight.model.anatomy import Model
from patchlight.model.load import load_model, refuse_adapted, save_model
from patchlight.model.rows import Rows, comparable_rows, mean_loss, rows_of
from patchlight.model.settings import TrainingSettings
from patchlight.model.source import quiet
from patchlight.model.trained import merged, trainable
from patchlight.model.trainer import LiveCurve, Progress, not_written, open_trainer, run_of_its_own


@dataclass(frozen=True)
class CurvePoint:
    """The losses at one optimiser step, in nats per token; None where none was taken at that step.

    `validation_loss` is over the rows as they are trained on (padding counted where the settings say so),
    `comparable_loss` over every token of the validation texts and no padding: comparable across configurations.
    """

    step: int
    epoch: float
    train_loss: float | None
    validation_loss: float | None
    comparable_loss: float | None


@dataclass(frozen=True)
class Training:
    """A trained model at its best checkpoint, and how it came about. `seconds` counts this call only.

    `curve` starts with the validation loss before training, at step 0.
    """

    model: Model
    curve: tuple[CurvePoint, ...]
    best_step: int
    best_validation_loss: float
    stopped_early: bool
    steps: int
    seconds: float


def finetune(
    model: Model,
    train_texts: Sequence[str],
    validation_texts: Sequence[str],
    settings: TrainingSettings,
    folder: Path,
    *,
    seed: int,
    on_progress: Progress | None = None,
) -> Training:
    """A copy of `model` trained on `train_texts`, at the step of its lowest validation loss.

    `folder` receives the model (`folder/model`, an adapter also alone in `folder/adapter`) and the curve
    (`folder/training.json`; `folder/curve.csv` grows while training runs). Called again with the
    same arguments after a kill, it goes on from the last evaluation; after the end, it reads the result.
    `on_progress(step, total_steps, loss)` is called after each optimiser step. Raises InputError for texts,
    settings or a folder that cannot be used, EnvironmentProblem for what this machine lacks,
    GateFailed where a loss is not finite.
    """
    started = time.monotonic()
    refuse_adapted(model)
    settings.require(model)
    train, held_back = _rows(train_texts, validation_texts, model, settings)
    try:
        _claim(folder, _fingerprint(model, [train, *held_back.values()], settings, seed))
        if not (folder / "training.json").exists():
            with quiet(), _own_random_state():
                _train(model, train, held_back, settings, folder, seed=seed, on_progress=on_progress)
    except OSError as error:
        raise not_written(folder, error) from error
    return _read_training(folder, model, time.monotonic() - started)


def _rows(
    train_texts: Sequence[str], validation_texts: Sequence[str], model: Model, settings: TrainingSettings
) -> tuple[Rows, dict[str, Rows]]:
    """The rows to train on, and those of the validation texts: as trained, and as compared across configurations."""
    train, as_trained = (
        rows_of(texts, model, settings.block_length, settings.text, padding_in_loss=settings.padding_in_loss)
        for texts in (train_texts, validation_texts)
    )
    if len(train) < settings.batch_size:
        raise InputError(
            "finetune-fewer-than-a-batch",
            f"{len(train_texts)} texts give {len(train)} rows of {settings.block_length} tokens, "
            f"fewer than one batch of {settings.batch_size}",
            fix="give more documents, or lower batch_size or block_length",
        )
    return train, {"eval_loss": as_trained, "eval_comparable_loss": comparable_rows(validation_texts, model)}


def validation_loss(model: Model, texts: Sequence[str], block_length: int, batch_size: int = 8) -> float:
    """Mean loss of `model` over every predicted token of `texts`, in nats; padding is left out."""
    with quiet():
        return mean_loss(model.hf, rows_of(texts, model, block_length), batch_size)


def cut_blocks(texts: Sequence[str], model: Model, length: int) -> Int[Tensor, "block token"]:
    """The texts end to end, each closed by the end-of-text token, cut into blocks; -100 pads the last one.

    Raises InputError as `rows_of`.
    """
    return rows_of(texts, model, length).labels


def _train(
    model: Model,
    train: Rows,
    held_back: Mapping[str, Rows],
    settings: TrainingSettings,
    folder: Path,
    *,
    seed: int,
    on_progress: Progress | None,
) -> None:
    """Writes `folder/model` and `folder/training.json`, going on from the last whole checkpoint."""
    before = {name: mean_loss(model.hf, rows, settings.batch_size) for name, rows in held_back.items()}
    checkpoints = folder / "checkpoints"
    torch.manual_seed(seed)  # an adapter begins with random numbers
    hf = trainable(model, settings.train_only, settings.lora)
    state = _last_state(checkpoints)
    if state is None or not _is_over(state, settings):
        trainer = open_trainer(hf, train, held_back, settings, checkpoints, seed)
        trainer.add_callback(LiveCurve(folder / "curve.csv", before, on_progress))
        last = None if state is None else str(checkpoints / f"checkpoint-{state['global_step']}")
        with run_of_its_own(settings.report_to):
            trainer.train(resume_from_checkpoint=last)
        state = asdict(trainer.state)
    _finish(model, state, settings, folder, before)


def _last_state(checkpoints: Path) -> dict[str, Any] | None:
    """The trainer's state at the last whole checkpoint; one that a kill left half-written is removed.

    The trainer writes its state last, so a state that can be read means that all the rest is there.
    """
    steps = sorted((int(place.name.partition("-")[2]) for place in checkpoints.glob("checkpoint-*")), reverse=True)
    for step in steps:
        place = checkpoints / f"checkpoint-{step}"
        try:
            state: dict[str, Any] = json.loads((place / "trainer_state.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            shutil.rmtree(place)
        else:
            return state
    return None


def _is_over(state: dict[str, Any], settings: TrainingSettings) -> bool:
    stopping = state["stateful_callbacks"]["EarlyStoppingCallback"]["attributes"]
    waited: int = stopping["early_stopping_patience_counter"]
    return waited >= settings.patience or bool(state["global_step"] >= state["max_steps"])


def _finish(
    model: Model, state: dict[str, Any], settings: TrainingSettings, folder: Path, before: Mapping[str, float]
) -> None:
    """Writes the best checkpoint as `folder/model`, then the curve, then removes the checkpoints."""
    if state["best_global_step"] is None or not math.isfinite(before["eval_loss"]):
        raise GateFailed(
            "finetune-diverged",
            "the validation loss was never a finite number",
            where=str(folder),
            fix="lower the learning rate and start in a new folder",
        )
    best = folder / "checkpoints" / f"checkpoint-{state['best_global_step']}"
    for name in ("model", "adapter"):
        shutil.rmtree(folder / name, ignore_errors=True)  # from a kill just after it was written
    if settings.lora:
        hf = merged(model, best, folder / "adapter")
    else:
        hf = type(model.hf).from_pretrained(best, dtype=torch.float32)
    save_model(Model(hf, model.tokenizer, model.name, model.family), folder / "model")
    record = {
        "best_step": state["best_global_step"],
        "best_validation_loss": state["best_metric"],
        "stopped_early": state["global_step"] < state["max_steps"],
        "steps": state["global_step"],
        "curve": [asdict(point) for point in _curve(state["log_history"], before)],
    }
    _write_whole(folder / "training.json", json.dumps(record, indent=1))
    shutil.rmtree(folder / "checkpoints")


def _curve(history: Sequence[dict[str, float]], before: Mapping[str, float]) -> list[CurvePoint]:
    """One point per optimiser step, from the trainer's log and the losses before training."""
    steps: dict[int, dict[str, float]] = {0: {"epoch": 0.0, **before}}
    for entry in history:
        steps.setdefault(int(entry["step"]), {}).update(entry)
    return [
        CurvePoint(step, entry["epoch"], *(entry.get(name) for name in ("loss", "eval_loss", "eval_comparable_loss")))
        for step, entry in steps.items()
    ]


def _read_training(folder: Path, model: Model, seconds: float) -> Training:
    record = json.loads((folder / "training.json").read_text())
    curve = tuple(CurvePoint(**point) for point in record.pop("curve"))
    trained = load_model(folder / "model", device=str(model.hf.device), family=model.family)
    return Training(model=trained, curve=curve, seconds=seconds, **record)


def _fingerprint(model: Model, texts: Sequence[Rows], settings: TrainingSettings, seed: int) -> str:
    """What the result depends on, as a hash: the same in two runs means that one may go on with the other."""
    parts = [model.digest, json.dumps(asdict(settings), sort_keys=True), str(seed)]
    tensors = [tensor for rows in texts for tensor in rows.inputs().values()]
    parts += [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in tensors]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _claim(folder: Path, fingerprint: str) -> None:
    """Marks `folder` as this run's, and refuses one that another run or anything else has taken."""
    mark = folder / "inputs.sha256"
    others = [folder / name for name in ("model", "training.json", "checkpoints") if (folder / name).exists()]
    if mark.read_text() != fingerprint if mark.exists() else others:
        raise InputError(
            "finetune-other-run",
            "this folder holds another training: its model, texts, settings or seed differ",
            where=str(folder),
            fix="name a new folder, or delete this one",
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(mark, fingerprint)


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


@contextlib.contextmanager
def _own_random_state() -> Iterator[None]:
    """Keeps the seeding of the trainer from the caller's random numbers."""
    python, numbers = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    numpy.random.set_state(numbers)
