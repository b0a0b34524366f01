"""The trainer of transformers, set up for a resumable run whose curve can be watched."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor

from patchlight.errors import EnvironmentProblem, GateFailed
from patchlight.model.rows import Rows, mean_loss
from patchlight.model.settings import Tracker, TrainingSettings
from patchlight.model.source import first_line

Progress = Callable[[int, int, float], None]
CURVE_COLUMNS = ("step", "epoch", "train_loss", "validation_loss", "comparable_loss", "perplexity")


def open_trainer(
    hf: torch.nn.Module,
    train: Rows,
    held_back: Mapping[str, Rows],
    settings: TrainingSettings,
    checkpoints: Path,
    seed: int,
) -> Any:
    """A trainer that stops early on `eval_loss`, the first of the losses over `held_back`."""
    trainer = _Trainer(
        model=hf,
        args=_arguments(settings, checkpoints, seed, len(train), next(hf.parameters()).device.type == "cpu"),
        train_dataset=[train.inputs(slice(row, row + 1)) for row in range(len(train))],
        eval_dataset=held_back,
        data_collator=_collate,
        callbacks=[transformers.EarlyStoppingCallback(settings.patience)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


@contextmanager
def run_of_its_own(tracker: Tracker) -> Iterator[None]:
    """What a tracker calls a run ends with the training inside it; one that the caller had opened goes on.

    The trainer ends its run of MLflow, but leaves that of W&B open, where the next training would go on writing.
    """
    wandb = import_module("wandb") if tracker == "wandb" else None
    opened = wandb is not None and wandb.run is not None
    try:
        yield
    finally:
        if wandb is not None and not opened:
            wandb.finish()


class LiveCurve(transformers.TrainerCallback):  # type: ignore[misc]
    """Writes the losses to a CSV file while training runs, and says how far it is.

    Raises GateFailed at the first step whose training loss is not finite.
    """

    def __init__(self, file: Path, before: Mapping[str, float], on_progress: Progress | None) -> None:
        self.file, self.before, self.on_progress = file, before, on_progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The file holds what is known so far: after a kill, the steps up to the last checkpoint."""
        self.file.write_text(",".join(CURVE_COLUMNS) + "\n")
        for entry in [{"step": 0, "epoch": 0.0, **self.before}, *state.log_history]:
            self._write(entry)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """A line is added for each step and each evaluation."""
        if "loss" not in logs and "eval_loss" not in logs:
            return
        self._write({**logs, "step": state.global_step, "epoch": state.epoch})
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise _not_finite(logs["loss"], state, self.file.parent)
        if self.on_progress:
            self.on_progress(state.global_step, state.max_steps, logs["loss"])

    def _write(self, entry: Mapping[str, float]) -> None:
        names = ("step", "epoch", "loss", "eval_loss", "eval_comparable_loss")
        row = [entry.get(name, "") for name in names]
        loss = entry.get("eval_comparable_loss")
        with self.file.open("a", newline="") as stream:
            csv.writer(stream).writerow([*row, "" if loss is None else perplexity(loss)])


def perplexity(loss: float) -> float:
    """The perplexity that belongs to a mean loss in nats; infinite where it cannot be written as a number."""
    return math.exp(loss) if loss < 700 else math.inf


def not_written(folder: Path, error: Exception) -> EnvironmentProblem:
    """The error of a file that could not be written while training, for the caller to raise."""
    return EnvironmentProblem(
        "finetune-not-written",
        f"training could not write its files: {first_line(error)}",
        where=str(folder),
        fix="free some space, then run again: training goes on from its last evaluation",
    )


class _Trainer(transformers.Trainer):  # type: ignore[misc]
    """The stock trainer, with validation losses that weigh every token alike and a plain word on a full disk."""

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        size = self.args.eval_batch_size
        with self.compute_loss_context_manager():  # in the arithmetic of training
            metrics = {name: mean_loss(self.model, rows, size) for name, rows in self.eval_dataset.items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, *given: Any, **named: Any) -> None:
        try:
            super()._save_checkpoint(*given, **named)
        except (OSError, RuntimeError, SafetensorError) as error:  # a RuntimeError is what torch makes of a full disk
            raise not_written(Path(self.args.output_dir), error) from error


def _arguments(settings: TrainingSettings, folder: Path, seed: int, rows: int, on_cpu: bool) -> Any:
    per_epoch = math.ceil(math.ceil(rows / settings.batch_size) / settings.accumulation)
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
        fp16=settings.precision == "fp16",
        bf16=settings.precision == "bf16",
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
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
        report_to=settings.report_to,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def _collate(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _not_finite(loss: float, state: Any, folder: Path) -> GateFailed:
    best = state.best_global_step
    kept = f"; the best step so far, {best}, is kept" if best is not None else ""
    return GateFailed(
        "finetune-diverged",
        f"the training loss at step {state.global_step} is {loss}{kept}",
        where=str(folder),
        fix="lower the learning rate or lengthen the warm-up, use fp32, and look at curve.csv for the step before",
    )
