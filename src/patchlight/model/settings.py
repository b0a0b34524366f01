"""How a model is trained, the published configurations by name, and what of it this machine can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch

from patchlight.errors import EnvironmentProblem
from patchlight.model.rows import Layout
from patchlight.model.trained import Lora

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

Precision = Literal["fp32", "fp16", "bf16"]
Tracker = Literal["none", "mlflow", "wandb"]


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    `max_steps` 0 means no limit beside `max_epochs`; `evaluate_every` counts optimiser steps, 0 means once an
    epoch; `patience` counts evaluations without a lower validation loss; `block_length` is in tokens. `text` says how
    rows are made of texts, see `rows_of`. `train_only` names parts, see `trained.parts`; empty for all. Weights are
    float32 whatever the `precision` of the arithmetic.
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
    text: Layout = "joined"
    padding_in_loss: bool = False
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    train_only: tuple[str, ...] = ()
    lora: Lora | None = None
    report_to: Tracker = "none"

    def require(self, model: Model) -> None:
        """Raises EnvironmentProblem where this machine lacks what the settings ask for."""
        kind = model.device.type
        if self.precision == "fp16" and kind != "cuda":
            raise _no_precision(f"fp16 needs a CUDA device; this model is on {kind}")
        if self.precision == "bf16" and kind == "cuda" and not torch.cuda.is_bf16_supported():
            raise _no_precision("this CUDA device has no bf16")
        if self.report_to != "none" and find_spec(self.report_to) is None:
            raise EnvironmentProblem(
                "finetune-tracker-missing",
                f"the settings report to {self.report_to}, which is not installed",
                fix=f"pip install {self.report_to}, or leave out `report_to`",
            )


_CLAP_1 = {
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "max_epochs": 30,
    "patience": 3,
    "batch_size": 8,
    "accumulation": 4,
    "warmup_steps": 500,
    "block_length": 512,
    "text": "truncated",
    "padding_in_loss": True,
    "precision": "fp16",
}
_CLAP_2 = {
    "learning_rate": 2e-5,
    "weight_decay": 0.1,
    "max_epochs": 10,
    "patience": 5,
    "batch_size": 8,
    "accumulation": 4,
    "warmup_steps": 500,
    "block_length": 512,
    "text": "chunked",
    "padding_in_loss": False,
    "precision": "fp32",
}
# The configurations of CLAP (arXiv 2504.02976) as in its author's training scripts, and I with padding left out of
# the loss. II leaves it out already: corrected, it is itself.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "clap-1": _CLAP_1,
    "clap-1-masked": {**_CLAP_1, "padding_in_loss": False},
    "clap-2": _CLAP_2,
}


def preset(name: str, **changes: Any) -> TrainingSettings:
    """The settings of a published configuration, with some changed. Raises KeyError for an unknown name."""
    return TrainingSettings(**{**PRESETS[name], **changes})


def _no_precision(what: str) -> EnvironmentProblem:
    fix = "set `precision: fp32` (bf16 where the device has it), or choose a device"
    return EnvironmentProblem("finetune-precision", what, fix=fix)
