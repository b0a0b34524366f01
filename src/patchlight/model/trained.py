"""What of a model is trained: all of it, the parts that are named, or low-rank adapters (LoRA) over them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from patchlight.errors import InputError
from patchlight.model.adapter import require_peft
from patchlight.model.anatomy import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter: rank, its scale alpha (the update is multiplied by alpha / rank), dropout before it."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0


def parts(model: Model) -> dict[str, list[nn.Module]]:
    """The modules of each part by name: embed, final_norm, and for each block blocks.N, blocks.N.attn, blocks.N.mlp.

    The norms of a block belong to blocks.N alone. Where input and output embeddings are one tensor, `embed` is both.
    """
    named = {"embed": [model.embed], "final_norm": [model.final_norm]}
    attention = model.family.attn_proj.partition(".")[0]
    for index, block in enumerate(model.layers):
        named[f"blocks.{index}"] = [block]
        named[f"blocks.{index}.attn"] = [block.get_submodule(attention)]
        named[f"blocks.{index}.mlp"] = [
            child
            for name, child in block.named_children()
            if name != attention and "norm" not in type(child).__name__.lower()
        ]
    return named


def trainable(model: Model, train_only: Sequence[str], lora: Lora | None) -> PreTrainedModel:
    """A copy of the model's weights in float32, in which what is to be trained has gradients and nothing else has.

    Raises InputError for a part that the model does not have, EnvironmentProblem where `peft` is missing.
    """
    hf = copy.deepcopy(model.hf).float()
    modules = _chosen(Model(hf, model.tokenizer, model.name, model.family), train_only or ["embed", "blocks.*"])
    if lora is not None:
        return _with_lora(hf, modules, lora)
    hf.requires_grad_(not train_only)
    for module in modules if train_only else []:
        module.requires_grad_(True)
    return hf


def merged(model: Model, adapter: Path, keep: Path) -> PreTrainedModel:
    """A copy of the model with a trained adapter added into its weights; the adapter alone is written to `keep`."""
    peft = require_peft()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft tells of settings that it corrects
        adapted = peft.PeftModel.from_pretrained(copy.deepcopy(model.hf).float(), str(adapter))
        adapted.save_pretrained(str(keep), safe_serialization=True)
        hf: PreTrainedModel = adapted.merge_and_unload()
    return hf


def _chosen(model: Model, names: Sequence[str]) -> list[nn.Module]:
    known, found = parts(model), []
    for name in names:
        matching = [module for part, modules in known.items() if fnmatchcase(part, name) for module in modules]
        if not matching:
            raise InputError(
                "finetune-unknown-part",
                f"there is no part {name!r} of a model with {model.n_layers} layers",
                where=model.name,
                fix="name embed, final_norm, blocks.3, blocks.3.attn, blocks.3.mlp, or blocks.*.mlp for all",
            )
        found += matching
    return found


def _with_lora(hf: PreTrainedModel, modules: Sequence[nn.Module], lora: Lora) -> PreTrainedModel:
    """The model under a new adapter over every linear map inside these modules."""
    peft = require_peft()
    inside = {id(part) for module in modules for part in module.modules()}
    targets = {name: part for name, part in hf.named_modules() if id(part) in inside and _linear(part)}
    if not targets:
        what, fix = "none of the parts named has a linear map", "name attention or MLPs in `train_only`"
        raise InputError("finetune-lora-nothing", what, fix=fix)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        fan_in_fan_out=not any(isinstance(part, nn.Linear) for part in targets.values()),
        task_type="CAUSAL_LM",
    )
    hf.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses names that transformers is about to drop
        adapted: Any = peft.get_peft_model(hf, config)
    adapted.peft_config["default"].base_model_name_or_path = None  # a path of this machine says nothing elsewhere
    return adapted


def _linear(module: nn.Module) -> bool:
    """True for an affine map; that of GPT-2 is called Conv1D."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
