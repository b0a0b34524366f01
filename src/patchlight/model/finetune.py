"""Training with early stopping on validation loss.

It is resumable: a run that was killed and started again gives the weights of an undisturbed one, bit for bit
on the same CPU and number of threads.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from jaxtyping import Int
from safetensors import SafetensorError
from torch import Tensor

from patchlight.errors import EnvironmentProblem, GateFailed, InputError
from patchlight.model.anatomy import Model
from patchlight.model.load import load_model, refuse_adapted, save_model
from patchlight.model.source import first_line, quiet

_IGNORED = -100  # the label that the loss of transformers leaves out

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the defaults are Configuration II of the study (method, section 1).

    `max_steps` 0 means no limit beside `max_epochs`; `evaluate_every` counts optimiser steps, 0 means once an
    epoch; `patience` counts evaluations without a lower validation loss; `block_length` is in tokens.
    """

    learning_rate: float = 2e-5
    weight_decay: float = 0.1
    max_epochs: int = 10
    patience: int = 5
    batch_size: int = 8
    accumulation: int = 4
    warmup_steps: int = 500
    max_steps: int = 0
    block_length: int = 512
    evaluate_every: int = 0


@dataclass(frozen=True)
class CurvePoint:
    """The losses at one optimiser step, in nats per token; None where none was taken at that step."""

    step: int
    epoch: float
    train_loss: float | None
    validation_loss: float | None


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

    `folder` receives the model (`folder/model`) and the curve (`folder/training.json`). Called again with the
    same arguments after a kill, it goes on from the last evaluation; after the end, it reads the result.
    `on_progress(step, total_steps, loss)` is called after each optimiser step. Raises InputError for texts,
    settings or a folder that cannot be used, GateFailed where the loss is never finite.
    """
    started = time.monotonic()
    refuse_adapted(model)
    blocks = cut_blocks(train_texts, model, settings.block_length)
    held_back = cut_blocks(validation_texts, model, settings.block_length)
    try:
        _claim(folder, _fingerprint(model, blocks, held_back, settings, seed))
        if not (folder / "training.json").exists():
            with quiet(), _own_random_state():
                _train(model, blocks, held_back, settings, folder, seed=seed, on_progress=on_progress)
    except OSError as error:
        raise _not_written(folder, error) from error
    return _read_training(folder, model, time.monotonic() - started)


def validation_loss(model: Model, texts: Sequence[str], block_length: int, batch_size: int = 8) -> float:
    """Mean loss of `model` over every predicted token of `texts`, in nats; padding is left out."""
    with quiet():
        return _masked_loss(model.hf, cut_blocks(texts, model, block_length), batch_size)


def perplexity(loss: float) -> float:
    """The perplexity that belongs to a mean loss in nats."""
    return math.exp(loss)


def cut_blocks(texts: Sequence[str], model: Model, length: int) -> Int[Tensor, "block token"]:
    """The texts end to end, each closed by the end-of-text token, cut into blocks; -100 pads the last one.

    Raises InputError where there is no text, no end-of-text token, or a block is longer than the model reads.
    """
    end, context = model.tokenizer.eos_token_id, model.context or length
    if end is None:
        raise InputError("finetune-no-end", "the tokenizer has no end-of-text token", fix="set its eos_token")
    if not 1 < length <= context:
        raise InputError(
            "finetune-block-length",
            f"a block of {length} tokens does not fit a model that reads {context}",
            fix=f"set block_length between 2 and {context}",
        )
    if not any(texts):
        raise InputError("finetune-no-text", "there is no text to train on", fix="give at least one document")
    with quiet():  # the tokenizer warns of long texts, which are cut here
        encoded = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    stream = torch.tensor([token for ids in encoded for token in (*ids, end)])
    return torch.nn.functional.pad(stream, (0, -len(stream) % length), value=_IGNORED).view(-1, length)


class _Trainer(transformers.Trainer):  # type: ignore[misc]
    """The stock trainer, with a validation loss that weighs every token alike and a plain word on a full disk."""

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {"eval_loss": _masked_loss(self.model, self.eval_dataset, self.args.eval_batch_size)}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, *given: Any, **named: Any) -> None:
        try:
            super()._save_checkpoint(*given, **named)
        except (OSError, RuntimeError, SafetensorError) as error:  # a RuntimeError is what torch makes of a full disk
            raise _not_written(Path(self.args.output_dir), error) from error


class _Reporter(transformers.TrainerCallback):  # type: ignore[misc]
    def __init__(self, on_progress: Progress) -> None:
        self.on_progress = on_progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.on_progress(state.global_step, state.max_steps, logs["loss"])


def _train(
    model: Model,
    blocks: Int[Tensor, "block token"],
    held_back: Int[Tensor, "block token"],
    settings: TrainingSettings,
    folder: Path,
    *,
    seed: int,
    on_progress: Progress | None,
) -> None:
    """Writes `folder/model` and `folder/training.json`, going on from the last whole checkpoint."""
    before = _masked_loss(model.hf, held_back, settings.batch_size)
    hf = copy.deepcopy(model.hf).float().requires_grad_(True)
    checkpoints = folder / "checkpoints"
    trainer = _Trainer(
        model=hf,
        args=_arguments(settings, checkpoints, seed, len(blocks), hf.device.type == "cpu"),
        train_dataset=list(blocks),
        eval_dataset=held_back,
        data_collator=_collate,
        callbacks=[transformers.EarlyStoppingCallback(settings.patience)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if on_progress:
        trainer.add_callback(_Reporter(on_progress))
    state = _last_state(checkpoints)
    if state is None or not _is_over(state, settings):
        last = None if state is None else str(checkpoints / f"checkpoint-{state['global_step']}")
        trainer.train(resume_from_checkpoint=last)
        state = asdict(trainer.state)
    _finish(model, state, folder, before)


def _arguments(settings: TrainingSettings, folder: Path, seed: int, blocks: int, on_cpu: bool) -> Any:
    per_epoch = math.ceil(math.ceil(blocks / settings.batch_size) / settings.accumulation)
    every, total = settings.evaluate_every or per_epoch, per_epoch * settings.max_epochs
    return transformers.TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        data_seed=seed,
        use_cpu=on_cpu,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        max_steps=min(total, settings.max_steps or total),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,  # the best is kept beside the last
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,  # a longer window would average differently after a resume
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def _collate(blocks: Sequence[Int[Tensor, " token"]]) -> dict[str, Tensor]:
    # No attention mask: padding lies to the right, where a causal model does not look, and has no loss.
    labels = torch.stack(list(blocks))
    return {"input_ids": labels.clamp(min=0), "labels": labels}


def _masked_loss(hf: Any, blocks: Int[Tensor, "block token"], batch_size: int) -> float:
    """Mean loss over every token that has one, in nats; each token weighs the same."""
    total, count = 0.0, 0
    hf.eval()
    with torch.no_grad():
        for labels in torch.split(blocks.to(hf.device), batch_size):
            targets = int((labels[:, 1:] != _IGNORED).sum())
            if targets:
                loss = hf(input_ids=labels.clamp(min=0), labels=labels, use_cache=False).loss
                total, count = total + loss.item() * targets, count + targets
    return total / count


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


def _finish(model: Model, state: dict[str, Any], folder: Path, before: float) -> None:
    """Writes the best checkpoint as `folder/model`, then the curve, then removes the checkpoints."""
    if state["best_global_step"] is None or not math.isfinite(before):
        raise GateFailed(
            "finetune-diverged",
            "the validation loss was never a finite number",
            where=str(folder),
            fix="lower the learning rate and start in a new folder",
        )
    best = folder / "checkpoints" / f"checkpoint-{state['best_global_step']}"
    hf = type(model.hf).from_pretrained(best, dtype=torch.float32)
    shutil.rmtree(folder / "model", ignore_errors=True)  # from a kill just after it was written
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


def _curve(history: Sequence[dict[str, float]], before: float) -> list[CurvePoint]:
    """One point per optimiser step, from the trainer's log and the validation loss before training."""
    steps: dict[int, dict[str, float]] = {0: {"epoch": 0.0, "eval_loss": before}}
    for entry in history:
        steps.setdefault(int(entry["step"]), {}).update(entry)
    return [
        CurvePoint(step, entry["epoch"], entry.get("loss"), entry.get("eval_loss")) for step, entry in steps.items()
    ]


def _read_training(folder: Path, model: Model, seconds: float) -> Training:
    record = json.loads((folder / "training.json").read_text())
    curve = tuple(CurvePoint(**point) for point in record.pop("curve"))
    trained = load_model(folder / "model", device=str(model.hf.device), family=model.family)
    return Training(model=trained, curve=curve, seconds=seconds, **record)


def _fingerprint(
    model: Model,
    blocks: Int[Tensor, "block token"],
    held_back: Int[Tensor, "block token"],
    settings: TrainingSettings,
    seed: int,
) -> str:
    """What the result depends on, as a hash: the same in two runs means that one may go on with the other."""
    parts = [model.digest, json.dumps(asdict(settings), sort_keys=True), str(seed)]
    parts += [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in (blocks, held_back)]
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


def _not_written(folder: Path, error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(
        "finetune-not-written",
        f"training could not write its files: {first_line(error)}",
        where=str(folder),
        fix="free some space, then run again: training goes on from its last evaluation",
    )


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
