"""A loaded model whose insides have names, read through the table of families."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.model.families import FAMILIES, Family, two_sided

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Settings that say where a model came from or how it is run, not what it computes.
PASSING = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
)


class Model:
    """A loaded causal language model seen through the table of families; `hf` stays a stock module in eval mode.

    `family` is used in place of the table's entry. Raises InputError where the architecture is not in the table, a
    component of its entry is missing, the model is not a causal decoder, or its weights are quantised;
    EnvironmentProblem where weights are not in memory.
    """

    def __init__(
        self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, family: Family | None = None
    ) -> None:
        self.hf, self.tokenizer, self.name = hf.eval(), tokenizer, name
        self.config = hf.config.get_text_config(decoder=True)
        _refuse(hf, name)
        self.family = family or _entry(self.config, name)
        _check_settings(self.family, self.config, name)
        self.layers: list[nn.Module] = list(self._module(hf, self.family.layers, "layers"))
        self.embed: nn.Module = self._module(hf, self.family.embed, "embed")
        self.final_norm: nn.Module = self._module(hf, self.family.final_norm, "final_norm")
        _check_head(hf, self.width, name)
        for component in ("attn_proj", "attn_out", "mlp_proj", "mlp_out"):
            if getattr(self.family, component) is not None:
                self.part(component, 0)

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.config.model_type}, {self.n_layers} layers, width {self.width}, {self.dtype})"
        )

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads in a block."""
        return int(self.config.num_attention_heads)

    @property
    def n_kv_heads(self) -> int:
        """Number of key and value heads in a block (fewer than `n_heads` under grouped-query attention)."""
        if getattr(self.config, "multi_query", False) and not getattr(self.config, "new_decoder_architecture", False):
            return 1
        stated = (getattr(self.config, setting, None) for setting in ("num_key_value_heads", "num_kv_heads"))
        return int(next(filter(None, stated), self.n_heads))

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return int(getattr(self.config, "head_dim", None) or self.width // self.n_heads)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def context(self) -> int | None:
        """The longest prompt in tokens, None where the configuration states none."""
        for setting in ("max_position_embeddings", "max_seq_len"):
            if getattr(self.config, setting, None):
                return int(getattr(self.config, setting))
        return None

    @property
    def device(self) -> torch.device:
        """Where the model's first weights lie."""
        device: torch.device = next(self.hf.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's first weights."""
        dtype: torch.dtype = next(self.hf.parameters()).dtype
        return dtype

    @property
    def adapted(self) -> bool:
        """True where an adapter lies over the weights, unmerged."""
        return bool(self._adapters)

    @property
    def parallel(self) -> bool:
        """True where attention and MLP read the same input, so that there is no `resid_mid`."""
        setting = self.family.parallel
        if not isinstance(setting, str):
            return setting
        # Falcon's newer blocks are parallel whatever the older setting says.
        return bool(getattr(self.config, setting) or getattr(self.config, "new_decoder_architecture", False))

    @property
    def residual_scale(self) -> float:
        """The factor on a sublayer's output when it is added to the residual stream."""
        return float(self._setting(self.family.residual_scale, 1.0))

    def part(self, component: str, layer: int) -> nn.Module:
        """The module of a block that the family's entry names for a component.

        Raises InputError where the component is not there.
        """
        path = getattr(self.family, component)
        if path is None:
            what = f"models of type {self.config.model_type} have no {component}"
            raise InputError("model-no-component", what, where=self.name, fix="choose another component")
        module: nn.Module = self._module(self.layers[layer], path, component)
        return module

    def normed(self, stream: Float[Tensor, "*row width"]) -> Float[Tensor, "*row width"]:
        """The residual stream after the final norm."""
        normed: Tensor = self.final_norm(stream)
        return normed

    def logits(self, normed: Float[Tensor, "row width"]) -> Float[Tensor, "row token"]:
        """The logits that the model gives to final, normed activations."""
        return self._scaled(self.hf.get_output_embeddings()(normed))

    def require_tokens(self, tokens: Int[Tensor, "*axis"]) -> None:
        """Raises InputError for a token that the model does not have."""
        count = int(self.config.vocab_size)
        unknown = tokens[(tokens < 0) | (tokens >= count)]
        if len(unknown):
            what = f"there is no token {int(unknown[0])} in a vocabulary of {count}"
            raise InputError("model-no-token", what, where=self.name, fix="encode with the tokenizer of this model")

    def answer_logits(
        self, normed: Float[Tensor, "row width"], tokens: Int[Tensor, "row answer"]
    ) -> Float[Tensor, "row answer"]:
        """The logits of a few tokens a row, without unembedding the whole vocabulary."""
        head = self.hf.get_output_embeddings()
        normed, tokens = normed.to(head.weight.device), tokens.to(head.weight.device)
        if type(head) is not torch.nn.Linear:  # an adapter over the head: its weight is not all that it does
            return self.logits(normed).gather(1, tokens)
        logits = torch.einsum("rw,raw->ra", normed, head.weight[tokens])
        if getattr(head, "bias", None) is not None:
            logits = logits + head.bias[tokens]
        return self._scaled(logits)

    @cached_property
    def digest(self) -> str:
        """The sha256 over configuration, weights and tokenizer: what the model computes, wherever it lies."""
        whole = hashlib.sha256()
        config = {key: value for key, value in self.hf.config.to_dict().items() if key not in PASSING}
        whole.update(json.dumps(config, sort_keys=True, default=str).encode())
        whole.update(json.dumps(self._adapters, sort_keys=True, default=_listed).encode() if self.adapted else b"")
        for name, tensor in sorted(self.hf.state_dict().items()):
            whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        whole.update(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode())
        return whole.hexdigest()

    @property
    def _adapters(self) -> dict[str, dict[str, Any]]:
        """What peft does to each adapter's weights, by name."""
        configs = getattr(self.hf, "peft_config", {}).items()
        return {
            name: {key: value for key, value in config.to_dict().items() if key not in PASSING}
            for name, config in configs
        }

    def _scaled(self, logits: Tensor) -> Tensor:
        logits = logits * self._setting(self.family.logit_scale, 1.0)
        logits = logits / self._setting(self.family.logit_divisor, 1.0)
        cap = self._setting(self.family.logit_softcap, None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _setting(self, name: str | None, otherwise: Any) -> Any:
        return otherwise if name is None else getattr(self.config, name)

    def _module(self, root: nn.Module, path: str, component: str) -> Any:
        try:
            return root.get_submodule(path)
        except AttributeError as error:
            what = f"no {component} at {path!r} in a model of type {self.config.model_type}"
            fix = "correct the entry, or the type given with --like; docs/guide/models.md says how"
            raise InputError("model-no-component", what, where=self.name, fix=fix) from error


def _listed(value: Any) -> Any:
    """Sets in an order that does not change from one process to the next."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _refuse(hf: PreTrainedModel, name: str) -> None:
    """Raises the error of a model that cannot be patched exactly, whatever its family."""
    if two_sided(hf.config) or hf.get_output_embeddings() is None:
        what = f"{type(hf).__name__} is not a causal language model with one decoder"
        raise InputError("model-not-causal", what, where=name, fix="choose a decoder such as GPT-2 or Llama")
    if getattr(hf, "quantization_method", None) is not None or getattr(hf, "is_quantized", False):
        what = "the weights are quantised, so that patches would not be exact"
        raise InputError("model-quantised", what, where=name, fix="load the model unquantised")
    absent = sum(weight.is_meta for weight in hf.parameters())
    if absent:
        what = f"{absent} weights are not in memory (on disk, or on the device `meta`)"
        fix = "load every weight: fewer bytes a weight (dtype), more devices, or a smaller model"
        raise EnvironmentProblem("model-not-in-memory", what, where=name, fix=fix)


def _entry(config: Any, name: str) -> Family:
    family = FAMILIES.get(config.model_type)
    if family is None:
        what = f"models of type {config.model_type!r} are not in the table, so that `layers` cannot be found"
        fix = (
            "try the entry of a similar type, `patchlight doctor --model MODEL --like llama`, "
            "or add one to FAMILIES (docs/guide/models.md)"
        )
        raise InputError("model-unknown-family", what, where=name, fix=fix)
    return family


def _check_head(hf: PreTrainedModel, width: int, name: str) -> None:
    """Raises the error of a model that projects the normed stream once more, as OPT can."""
    reads = int(hf.get_output_embeddings().weight.shape[-1])
    if reads != width:
        what = f"the output head reads {reads} numbers a token, the residual stream has {width}"
        fix = "choose a model whose embeddings are as wide as its layers"
        raise InputError("model-unknown-variant", what, where=name, fix=fix)


def _check_settings(family: Family, config: Any, name: str) -> None:
    """Raises the error of an entry that names settings which the configuration lacks, or holds for others only."""
    named = (family.parallel, family.residual_scale, family.logit_scale, family.logit_divisor, family.logit_softcap)
    for setting in named:
        if isinstance(setting, str) and not hasattr(config, setting):
            what = f"models of type {config.model_type} have no setting {setting}, which the entry reads"
            raise InputError("model-no-setting", what, where=name, fix="choose the entry of another type")
    for setting, value in family.required:
        if bool(getattr(config, setting, None)) != value:
            what = f"models of type {config.model_type} are known with {setting}={value!r} only"
            raise InputError("model-unknown-variant", what, where=name, fix="choose another model of this family")
