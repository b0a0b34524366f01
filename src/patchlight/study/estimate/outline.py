"""A model without its weights: its tokenizer and the form of its insides, enough to count what a study will run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from patchlight.errors import InputError
from patchlight.model.adapter import find_model
from patchlight.model.anatomy import Model
from patchlight.model.families import FAMILIES
from patchlight.model.scratch import new_gpt2, train_tokenizer
from patchlight.model.source import first_line, quiet
from patchlight.model.tokenizer import load_tokenizer
from patchlight.study.spec import NewGPT2, Study
from patchlight.study.stages import seed_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Outline(Model):
    """A model of which no weight is in memory: what reads its form works, what runs it cannot.

    Raises InputError as `Model` where the architecture is not in the table.
    """

    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        # Not `Model.__init__`, which refuses weights that are not in memory.
        self.hf, self.tokenizer, self.name = hf.eval(), tokenizer, name
        self.config = hf.config.get_text_config(decoder=True)
        if self.config.model_type not in FAMILIES:
            what = f"models of type {self.config.model_type!r} are not in the table"
            fix = "`patchlight doctor --model MODEL` says what can be done"
            raise InputError("model-unknown-family", what, where=name, fix=fix)
        self.family = FAMILIES[self.config.model_type]
        self.layers = list(self._module(hf, self.family.layers, "layers"))


def outline(study: Study, train_texts: Sequence[str] = ()) -> Model:
    """The form of the model under study: of a loaded one without its weights, of a new one as it begins.

    `train_texts` are those that a new model's tokenizer is learnt from. Raises InputError as `load_model` does for a
    source, a configuration or a tokenizer that cannot be used.
    """
    choice, source = study.spec.model, study.model_source
    if source is None:
        shape = choice.new_gpt2 or NewGPT2()
        return new_gpt2(
            train_tokenizer(train_texts, shape.vocabulary),
            layers=shape.layers,
            width=shape.width,
            heads=shape.heads,
            context=shape.context,
            seed=seed_of(study, "new model"),
            device=choice.device,
        )
    place, _ = find_model(source, study.adapter_source, choice.revision)
    with quiet(), torch.device("meta"):
        hf = transformers.AutoModelForCausalLM.from_config(_config(place), dtype=getattr(torch, choice.dtype))
    return Outline(hf, load_tokenizer(place), str(source))


def parameters(model: Model) -> int:
    """How many weights a model has, each counted once."""
    return sum(weight.numel() for weight in model.hf.parameters())


def _config(place: Path) -> Any:
    try:
        with quiet():
            if place.is_file():
                return transformers.AutoConfig.from_pretrained(place.parent, gguf_file=place.name)
            return transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        what, fix = f"the configuration cannot be used: {first_line(error)}", "`patchlight doctor --model` says more"
        raise InputError("model-config", what, where=str(place), fix=fix) from error
