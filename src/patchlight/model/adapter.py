"""LoRA adapters: laid over a loaded model and left unmerged, so that patches go through them.

Read from safetensors only, through `peft`, an optional extra.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.model.source import PICKLES, find_source, first_line, pickle_refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings with which an adapter depends on the prompt, or names code to import.
REFUSED = ("alora_invocation_tokens", "megatron_config")


def find_model(
    source: str | Path, adapter: str | Path | None = None, revision: str | None = None
) -> tuple[Path, Path | None]:
    """The local place of a model, and that of the adapter over it, if any; both are downloaded first where needed.

    The folder of an adapter as `source` stands for the base model that it names, and itself. Raises as `find_source`.
    """
    place = find_source(source, revision)
    if adapter is not None:
        return place, find_source(adapter, None)
    return (find_source(*base_of(place)), place) if is_adapter(place) else (place, None)


def is_adapter(place: Path) -> bool:
    """Whether a folder holds an adapter and not a model of its own."""
    return (place / SETTINGS).is_file()


def base_of(folder: Path) -> tuple[str, str | None]:
    """The base model that an adapter names, and the revision of it. Raises InputError where it names none."""
    settings = _settings(folder)
    if not settings.get("base_model_name_or_path"):
        what = "the adapter does not name its base model"
        fix = "name both: load_model(BASE, adapter=FOLDER), or `load` and `adapter` in a study"
        raise InputError("model-adapter-base", what, where=str(folder / SETTINGS), fix=fix)
    return str(settings["base_model_name_or_path"]), settings.get("revision")


def with_adapter(hf: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The same model with the adapter's layers in place of those that it adapts; names of modules stay.

    Raises InputError for an adapter that cannot be read or does not belong to this model, EnvironmentProblem where
    `peft` is not installed.
    """
    settings, weights = _settings(folder), _weights(folder)
    peft = require_peft()
    if settings.get("peft_type") != "LORA" or any(settings.get(name) for name in REFUSED):
        kind = next((name for name in REFUSED if settings.get(name)), settings.get("peft_type"))
        fix = "use a plain LoRA adapter, or merge this one into its base model and save the result"
        raise InputError(
            "model-adapter-kind", f"adapters with {kind} are not patched through", where=str(folder), fix=fix
        )
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft tells of settings that it corrects; weights are checked below
            adapted = peft.PeftModel(hf, config, autocast_adapter_dtype=False)
        expected = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
        loaded = peft.set_peft_model_state_dict(adapted, weights)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        raise _misfit(folder, first_line(error)) from error
    if wrong := sorted(expected - set(weights)) or sorted(loaded.unexpected_keys):
        raise _misfit(folder, f"{len(wrong)} weights are missing or have no place, e.g. {wrong[0]}")
    base: PreTrainedModel = adapted.get_base_model()
    return base


def _misfit(folder: Path, what: str) -> InputError:
    fix = "give the base model that it was trained on, and copy the adapter again; random values are never filled in"
    return InputError("model-adapter-misfit", f"the adapter does not fit: {what}", where=str(folder), fix=fix)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        return dict(settings)
    except (OSError, ValueError, TypeError) as error:
        what = f"there is no adapter here: {first_line(error)}"
        fix = f"give the folder that holds {SETTINGS} and {WEIGHTS}"
        raise InputError("model-adapter", what, where=str(folder / SETTINGS), fix=fix) from error


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / WEIGHTS).is_file():
        for file in sorted(folder.iterdir()):
            if file.suffix in PICKLES:
                raise pickle_refused(file)
    try:
        weights: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        what = f"the adapter's weights cannot be read: {first_line(error)}"
        raise InputError(
            "model-adapter-weights", what, where=str(folder / WEIGHTS), fix="copy the adapter again"
        ) from error
    return weights


def require_peft() -> ModuleType:
    """The optional package `peft`. Raises EnvironmentProblem where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise EnvironmentProblem(
            "model-extra-missing",
            "adapters need the Python package 'peft', which is not installed",
            fix="pip install 'patchlight[lora]'",
        ) from error
    module: ModuleType = peft
    return module
