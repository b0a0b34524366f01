"""The models of the benchmark: random weights in the shape of known models, with a tokenizer; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-small": {"model_type": "gpt2"},
    "llama": {  # the width of SmolLM2-135M, 12 of its 30 layers
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}


def model_folder(name: str, layers: int | None, within: Path) -> Path:
    """The folder of the model of this name, made if it is not there; `layers` makes it shallower."""
    folder = within / (name if layers is None else f"{name}-{layers}")
    if not (folder / "tokenizer.json").is_file():
        settings = dict(SHAPES[name])
        write_model(folder, settings | ({} if layers is None else {"num_hidden_layers": layers}))
    return folder


def write_model(folder: Path, settings: dict[str, Any], *, spread: float = 0.0, seed: int = 0) -> None:
    """Writes a randomly initialised model and a tokenizer of as many words; `spread` widens the weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**{**settings, **ends})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * spread)
    disable_progress_bar()
    model.save_pretrained(folder)
    _write_tokenizer(folder, config.vocab_size)


def _write_tokenizer(folder: Path, words: int) -> None:
    """A tokenizer for which the text `w7` is token 7."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "w0")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
