"""One fine-tuning configuration of a study: settings of its own, or a published preset with some changed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from patchlight.study.section import Section


class LoraChoice(Section):
    """A low-rank adapter is trained in place of the weights (needs the extra `lora`)."""

    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainingChoice(Section):
    """One fine-tuning configuration; it stops early on validation loss."""

    preset: Literal["clap-1", "clap-1-masked", "clap-2"] | None = Field(
        default=None,
        description="A published configuration (arXiv 2504.02976) to start from.",
    )
    learning_rate: float = Field(gt=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)
    max_epochs: int = Field(default=10, ge=1)
    patience: int = Field(3, ge=1, description="Evaluations without a better validation loss before stopping.")
    batch_size: int = Field(default=8, ge=1)
    accumulation: int = Field(default=1, ge=1)
    warmup_steps: int = Field(default=0, ge=0)
    max_steps: int = Field(default=0, ge=0, description="Optimiser steps at most; 0 for no limit but the epochs.")
    block_length: int = Field(default=128, ge=16)
    evaluate_every: int = Field(default=0, ge=0, description="Steps between evaluations; 0 for once an epoch.")
    text: Literal["joined", "chunked", "truncated"] = Field(
        default="joined", description="Texts end to end; each cut on its own; or only the first block of each."
    )
    padding_in_loss: bool = Field(default=False, description="Count predicted padding, as the publication's I does.")
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp32", description="Of the arithmetic; weights stay float32. fp16 needs a CUDA device."
    )
    gradient_checkpointing: bool = Field(default=False, description="Less memory, about a third more time.")
    train_only: tuple[str, ...] = Field(
        default=(),
        description="Parts to train: embed, final_norm, blocks.3, blocks.3.attn, blocks.*.mlp; empty: all.",
    )
    lora: LoraChoice | None = Field(default=None, description="Train an adapter over these parts in place of weights.")
    report_to: Literal["none", "mlflow", "wandb"] = Field(
        default="none", description="Also send the curve to a tracker that is installed and set up."
    )

    @model_validator(mode="before")
    @classmethod
    def from_preset(cls, given: Any) -> Any:
        """The preset's settings under those that are written."""
        from patchlight.model.settings import PRESETS

        if not isinstance(given, dict):
            return given
        name = given.get("preset")
        return {**PRESETS.get(name, {}), **given} if isinstance(name, str) else given
