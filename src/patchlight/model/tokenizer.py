"""The tokenizer of a model, without its weights."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import transformers

from patchlight.errors import InputError
from patchlight.model.source import find_source, first_line, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model named as for `load_model`; a folder that holds no more than a tokenizer.json will do.

    Raises InputError where there is none that can be read.
    """
    place = find_source(source, None)
    try:
        with quiet():
            return _read(place)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, struct.error) as error:
        what, fix = f"the tokenizer cannot be read: {first_line(error)}", "give a folder with a tokenizer.json"
        raise InputError("model-tokenizer", what, where=str(place), fix=fix) from error


def _read(place: Path) -> PreTrainedTokenizerBase:
    if place.is_file():
        return transformers.AutoTokenizer.from_pretrained(place.parent, gguf_file=place.name)
    alone = place / "tokenizer.json"
    if alone.is_file() and not (place / "config.json").is_file():
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(alone))
    return transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
