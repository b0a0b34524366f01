"""Adapters are patched through unmerged, with the values of the merged model; what does not fit is refused."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from patchlight.errors import EnvironmentProblem, InputError, PatchlightError
from patchlight.model.anatomy import Model
from patchlight.model.finetune import finetune
from patchlight.model.load import load_model, save_model
from patchlight.model.scratch import new_gpt2, train_tokenizer
from patchlight.model.settings import TrainingSettings
from patchlight.records import Pair
from patchlight.trace.identities import prove
from patchlight.trace.sweep import sweep

CLEAN, CORRUPTED = "The capital of France is", "The capital of Poland is"
PAIR = Pair(clean=CLEAN, corrupted=CORRUPTED, correct=" Paris", wrong=" Warsaw")
TOKENIZER = train_tokenizer([f"{CLEAN} Paris. {CORRUPTED} Warsaw."] * 8, 320)
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc", "lm_head"],
    "llama": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "lm_head"],
}


def tiny_llama() -> Model:
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return Model(transformers.LlamaForCausalLM(config), TOKENIZER, "tiny llama")


def base_model(kind: str) -> Model:
    torch.manual_seed(0)
    if kind == "llama":
        model = tiny_llama()
    else:
        model = new_gpt2(TOKENIZER, layers=2, width=16, heads=4, context=32, seed=0)
        model.hf.config.tie_word_embeddings = False
        model.hf.lm_head.weight = torch.nn.Parameter(model.hf.lm_head.weight.clone(), requires_grad=False)
    for weight in model.hf.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.2)
    return model


@pytest.fixture(params=["gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    """A folder with `base/`, `adapter/` and `merged/`: the same knowledge, in two parts and in one."""
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'patchlight[lora]')")
    model = base_model(kind)
    save_model(model, tmp_path / "base")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS[kind], lora_dropout=0.3, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft tells that it transposes for GPT-2 and keeps an adapted head whole
        adapted = peft.get_peft_model(hf, config)
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.data.normal_(std=0.3)
        adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    save_model(Model(merged, TOKENIZER, "merged"), tmp_path / "merged")
    return tmp_path


def refusal(source: str | Path, **options: object) -> PatchlightError:
    with pytest.raises(PatchlightError) as refused:
        load_model(source, **options)
    assert refused.value.fix, "an error says what to do"
    return refused.value


def edit_settings(folder: Path, **changes: object) -> None:
    place = folder / "adapter" / "adapter_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


@pytest.mark.parametrize("component", ["resid_pre", "head_out", "attn_out", "mlp_hidden", "mlp_out", "v"])
def test_patched_values_are_those_of_the_merged_model(component: str, folder: Path) -> None:
    adapted = load_model(folder / "base", adapter=folder / "adapter", dtype="float64")
    merged, base = (load_model(folder / name, dtype="float64") for name in ("merged", "base"))
    found, expected, without = (sweep(model, [PAIR], component=component) for model in (adapted, merged, base))
    # The merged weights were rounded to float32 when they were saved.
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-6)
    assert np.abs(found.values - without.values).max() > 1e-2


@pytest.mark.parametrize("component", ["resid_pre", "head_out", "mlp_out"])
def test_merging_in_float64_changes_nothing(component: str, folder: Path) -> None:
    adapted = load_model(folder / "base", adapter=folder / "adapter", dtype="float64")
    found = sweep(adapted, [PAIR], component=component)
    for module in adapted.hf.modules():
        if hasattr(module, "merge"):
            module.merge()
    np.testing.assert_allclose(found.values, sweep(adapted, [PAIR], component=component).values, rtol=1e-9, atol=1e-9)


def test_the_identities_hold_with_an_adapter(folder: Path) -> None:
    model = load_model(folder / "base", adapter=folder / "adapter", dtype="float64")
    assert [each.name for each in prove(model, [PAIR]) if not each.held] == []
    assert model.adapted


def test_the_folder_of_an_adapter_stands_for_its_base_and_itself(folder: Path) -> None:
    edit_settings(folder, base_model_name_or_path=str(folder / "base"))
    both = load_model(folder / "base", adapter=str(folder / "adapter"))
    assert load_model(folder / "adapter").digest == both.digest
    assert both.digest != load_model(folder / "base").digest
    edit_settings(folder, lora_alpha=6)
    assert load_model(folder / "adapter").digest != both.digest
    edit_settings(folder, base_model_name_or_path=None)
    assert refusal(folder / "adapter").code == "model-adapter-base"


def test_the_adapter_has_the_number_format_of_the_model(folder: Path) -> None:
    model = load_model(folder / "base", adapter=folder / "adapter", dtype="bfloat16")
    assert {weight.dtype for weight in model.hf.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in model.hf.parameters())
    assert not model.hf.training


def test_an_adapter_over_an_adapter_is_refused(folder: Path) -> None:
    edit_settings(folder, base_model_name_or_path=str(folder / "adapter"))
    assert refusal(folder / "adapter").code == "model-adapter-stacked"


@pytest.mark.parametrize(
    "changes",
    [{"peft_type": "PREFIX_TUNING"}, {"alora_invocation_tokens": [1]}, {"megatron_config": {"a": 1}}],
    ids=["prefix", "prompt-dependent", "imports"],
)
def test_other_kinds_of_adapter_are_refused(changes: dict[str, object], folder: Path) -> None:
    edit_settings(folder, **changes)
    assert refusal(folder / "base", adapter=folder / "adapter").code == "model-adapter-kind"


def test_a_missing_or_strange_weight_is_never_passed_over(folder: Path) -> None:
    place = folder / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(place)
    name = min(name for name in tensors if "lora_A" in name)
    for change in ({}, {name: tensors[name], "base_model.model.elsewhere.lora_A.weight": tensors[name].clone()}):
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        safetensors.torch.save_file({**rest, **change}, place)
        assert refusal(folder / "base", adapter=folder / "adapter").code == "model-adapter-misfit"
    place.write_bytes(b"no safetensors")
    assert refusal(folder / "base", adapter=folder / "adapter").code == "model-adapter-weights"


def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    other = base_model("llama" if kind == "gpt2" else "gpt2")
    save_model(other, tmp_path / "other")
    assert refusal(tmp_path / "other", adapter=folder / "adapter").code == "model-adapter-misfit"


def test_a_model_with_an_adapter_is_neither_trained_nor_saved(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder / "base", adapter=folder / "adapter")
    with pytest.raises(InputError, match="model-adapted"):
        save_model(model, tmp_path / "saved")
    with pytest.raises(InputError, match="model-adapted"):
        finetune(model, ["a"], ["a"], TrainingSettings(), tmp_path / "training", seed=0)
    assert not (tmp_path / "saved").exists()


class Canary:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.place)!r}, 'w').write('it ran')",))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model, and a folder with the settings of an adapter but no weights: enough for what peft never sees."""
    save_model(base_model("gpt2"), tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    return tmp_path


def test_pickled_adapters_are_refused_unread(bare: Path) -> None:
    pickled = bare / "adapter" / "adapter_model.bin"
    pickled.write_bytes(pickle.dumps(Canary(bare / "canary")))
    error = refusal(bare / "base", adapter=bare / "adapter")
    assert (error.code, str(error.where)) == ("model-pickle", str(pickled))
    assert not (bare / "canary").exists()


def test_a_folder_without_an_adapter_is_refused(bare: Path) -> None:
    assert refusal(bare / "base", adapter=bare / "base").code == "model-adapter"
    assert refusal(bare / "base", adapter=bare / "adapter").code == "model-adapter-weights"
    (bare / "adapter" / "adapter_config.json").write_text("[1")
    assert refusal(bare / "base", adapter=bare / "adapter").code == "model-adapter"


def test_without_peft_the_line_that_installs_it_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    safetensors.torch.save_file({"a": torch.zeros(1)}, bare / "adapter" / "adapter_model.safetensors")
    with pytest.raises(EnvironmentProblem, match=r"pip install 'patchlight\[lora\]'"):
        load_model(bare / "base", adapter=bare / "adapter")
