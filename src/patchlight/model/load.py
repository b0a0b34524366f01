"""Models from where people keep them: the hub, a local folder, a GGUF file, an installed package.

Weights come from safetensors or GGUF only; pickled weights and code from a repository are refused, never run.
"""

from __future__ import annotations

import contextlib
import copy
import io
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.quantization_config import GgufConfig

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.model.adapter import find_model, is_adapter, with_adapter
from patchlight.model.anatomy import Model
from patchlight.model.devices import DeviceMap, check_map, number_format, usable_device
from patchlight.model.families import Family, two_sided
from patchlight.model.source import PICKLES, first_line, pickle_refused, quiet

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def load_model(
    source: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: DeviceMap | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    family: Family | None = None,
) -> Model:
    """A causal language model with its tokenizer, in eval mode and without gradients.

    `source` is a hub id, a local folder, a `.gguf` file, or `package:<name>` for the one GGUF file inside an
    installed Python package; GGUF weights are unpacked. `revision` pins a hub id to a branch, tag or commit.
    `device_map` spreads the model over several devices, as accelerate reads it. `adapter` is the folder or hub id of
    a LoRA adapter, laid over the model unmerged; the folder of an adapter as `source` stands for the base model that
    it names and itself. `family` is used in place of the table's entry.
    Raises InputError for a source that cannot be used, EnvironmentProblem for what this machine lacks.
    """
    placed: dict[str, Any] = {"dtype": number_format(dtype, device), "device_map": device_map}
    if device_map is not None:
        check_map(device_map, device)
    torch_device = usable_device(device)
    place, overlay = find_model(source, adapter, revision)
    with quiet():
        hf, tokenizer = (_read_gguf if place.is_file() else _read_folder)(place, placed)
        _check_vocabulary(hf, tokenizer, place)
        hf = hf if overlay is None else with_adapter(hf, overlay)
    hf = hf if device_map is not None else hf.to(torch_device)
    if hf.dtype == torch.float64 and hf.config._experts_implementation == "grouped_mm":
        hf.set_experts_implementation("eager")  # torch's product of grouped experts has no float64
    name = str(source) if adapter is None else f"{source} with {adapter}"
    model = Model(hf.requires_grad_(False), tokenizer, name, family)
    _check_finite(hf, place)
    return model


def random_init(model: Model, seed: int) -> Model:
    """A model of the same architecture and tokenizer that knows nothing: fresh random weights from `seed`."""
    config = copy.deepcopy(model.hf.config)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    hf = hf.to(device=model.hf.device, dtype=model.hf.dtype).requires_grad_(False).eval()
    return Model(hf, model.tokenizer, f"{model.name} at random init, seed {seed}", model.family)


def save_model(model: Model, folder: Path) -> None:
    """Writes weights (safetensors), config and tokenizer into `folder`, whole or not at all.

    Raises InputError where `folder` already holds something or an adapter lies over the model, EnvironmentProblem
    where it cannot be written.
    """
    refuse_adapted(model)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(
            "model-folder-taken",
            "there is already something here",
            where=str(folder),
            fix="name a new folder",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as unfinished, quiet():
            written = Path(unfinished) / "model"
            model.hf.save_pretrained(written)
            model.tokenizer.save_pretrained(written)
            written.replace(folder)
    except (OSError, SafetensorError) as error:
        raise EnvironmentProblem(
            "model-not-written",
            f"the model could not be written: {error}",
            where=str(folder),
            fix="check free space and permissions",
        ) from error


def refuse_adapted(model: Model) -> None:
    """Raises InputError where an adapter lies over the model, so that it cannot be trained or saved as one."""
    if model.adapted:
        raise InputError(
            "model-adapted",
            "a model with an adapter over it is neither trained nor saved",
            where=model.name,
            fix="merge the adapter with peft's merge_and_unload, save the result and load that",
        )


def _read_folder(folder: Path, placed: dict[str, Any]) -> tuple[Any, Any]:
    """The model and tokenizer in a Hugging Face folder, every weight from its safetensors files."""
    _check_files(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise InputError(
            "model-config",
            f"config.json cannot be used: {first_line(error)}",
            where=str(folder / "config.json"),
            fix="only architectures that transformers itself contains are run, never code from a repository",
        ) from error
    _check_config(config, folder)
    try:
        hf, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            **placed,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            "model-weights",
            f"the weights cannot be read: {first_line(error)}",
            where=str(folder),
            fix="copy or download the folder again",
        ) from error
    _check_complete(loading, folder)
    return hf, _read_tokenizer(folder)


def _read_gguf(file: Path, placed: dict[str, Any]) -> tuple[Any, Any]:
    """The model and tokenizer in a GGUF file, weights unpacked so that it can be saved and trained."""
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise InputError("model-not-gguf", "this is not a GGUF file", where=str(file), fix="download it again")
    _refuse_stacked(file.parent)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the reader draws a bar that no setting reaches
            hf, loading = transformers.AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                **placed,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, IndexError, TypeError, OSError, RuntimeError, struct.error) as error:
        raise InputError(
            "model-gguf",
            f"the GGUF file cannot be read: {first_line(error)}",
            where=str(file),
            fix="download it again; if it is whole, its architecture is not one that transformers reads",
        ) from error
    _check_complete(loading, file)
    return hf, tokenizer


def _read_tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(
            "model-tokenizer-missing",
            "the folder holds no tokenizer",
            where=str(folder),
            fix=f"add the model's {_TOKENIZER_FILES[0]}",
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            "model-tokenizer",
            f"the tokenizer cannot be read: {first_line(error)}",
            where=str(folder),
            fix="copy the tokenizer files again",
        ) from error


def _check_files(folder: Path) -> None:
    names = {file.name for file in folder.iterdir()}
    _refuse_stacked(folder)
    if "config.json" not in names:
        raise InputError(
            "model-config-missing",
            "the folder holds no config.json",
            where=str(folder),
            fix="give the folder that `save_pretrained` wrote",
        )
    if not any(name.endswith(".safetensors") for name in names):
        pickled = sorted(name for name in names if Path(name).suffix in PICKLES)
        if pickled:
            raise pickle_refused(folder / pickled[0])
        raise InputError(
            "model-weights-missing",
            "the folder holds no safetensors weights",
            where=str(folder),
            fix="download the .safetensors files too",
        )


def _refuse_stacked(folder: Path) -> None:
    """Transformers would lay an adapter that it finds in a model's folder over the model without a word."""
    if is_adapter(folder):
        raise InputError(
            "model-adapter-stacked",
            "this folder holds an adapter, where a whole model is needed",
            where=str(folder),
            fix="merge it into its base model with peft, save the result and name that",
        )


def _check_config(config: Any, folder: Path) -> None:
    """Refuses what does not predict the next token from the left, and weights that are rounded to a few bits."""
    named = list(getattr(config, "architectures", None) or [])
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    unknown = config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if unknown or two_sided(config) or (named and not causal.intersection(named)):
        raise InputError(
            "model-not-causal",
            f"{named[0] if named else config.model_type} is not a causal language model",
            where=str(folder / "config.json"),
            fix="use a model that predicts the next token, such as GPT-2 or Llama",
        )
    if getattr(config, "quantization_config", None):
        raise InputError(
            "model-quantised",
            "the weights are quantised, so that patches would not be exact",
            where=str(folder / "config.json"),
            fix="use the unquantised model",
        )


def _check_complete(loading: dict[str, Any], place: Path) -> None:
    if missing := loading["missing_keys"]:
        raise InputError(
            "model-weights-missing",
            f"{len(missing)} weights are missing, e.g. {min(missing)}",
            where=str(place),
            fix="copy or download it again; random values are never filled in",
        )


def _check_vocabulary(hf: Any, tokenizer: Any, place: Path) -> None:
    rows = hf.get_input_embeddings().num_embeddings
    needed = max(tokenizer.get_vocab().values(), default=-1) + 1
    if not 0 < needed <= rows:
        raise InputError(
            "model-tokenizer-mismatch",
            f"the tokenizer needs {needed} rows of embeddings, the model has {rows}",
            where=str(place),
            fix="use the tokenizer that belongs to this model",
        )


def _check_finite(hf: Any, place: Path) -> None:
    for name, weight in hf.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(
                "model-weights-not-finite",
                f"{name} holds NaN or infinity in {str(weight.dtype).removeprefix('torch.')}",
                where=str(place),
                fix="copy the file again, or load it with a wider dtype",
            )
