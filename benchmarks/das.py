"""Steps of distributed alignment search a second: Patchlight beside pyvene and plain hooks.

    python -m benchmarks.das --pyvene .venv-bench/pyvene/bin/python    (`make .venv-bench/pyvene/installed` first)

One model in the shape of GPT-2 small with random weights, the same pairs, site, size, start, loss (both directions of
an exchange), optimiser and batches for all. First everyone takes ten steps on one batch of all pairs, and the loss of
what came out is measured for all in the same way, by plain hooks. Then rounds in turn, each with a fresh start, in CPU
time of the process, so that other work on the machine counts little; the figure is the median over rounds.

Patchlight is called as people call it, so that its time holds the capture of all runs before the first step and, after
each epoch, the loss on a quarter of the pairs that is kept aside. pyvene runs both prompts through the model at every
step, with its hooks on. Plain hooks have the donor's activation from one forward before the clock starts, and read
the last position's logits only; neither measures anything but steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.nn.utils import parametrizations

from benchmarks.speed.models import model_folder
from benchmarks.speed.work import Prompts, random_prompts

RATE, AGREEING_STEPS = 0.02, 10
KEPT_ASIDE = 4  # one pair in so many
Timed = Callable[[int, int], tuple[list[list[float]], float]]  # batch and steps -> directions, CPU seconds

PEER = """
import json, sys, time, torch
import pyvene
from torch.nn.functional import softplus
from torch.nn.utils import parametrizations
from transformers import AutoModelForCausalLM
job = json.load(sys.stdin)
torch.set_num_threads(job["threads"])
model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval()
torch.manual_seed(0)
start = parametrizations.orthogonal(torch.nn.Linear(model.config.n_embd, job["size"], bias=False)).weight.detach()
place = pyvene.RepresentationConfig(job["layer"], "block_output", "pos", 1, low_rank_dimension=job["size"])
both = pyvene.IntervenableModel(
    pyvene.IntervenableConfig([place], pyvene.LowRankRotatedSpaceIntervention), model
)
both.disable_model_gradients()
(intervention,) = both.interventions.values()
intervention.rotate_layer.weight = start.T
optimiser = torch.optim.Adam(intervention.parameters(), lr=job["rate"])
ids = {name: torch.tensor(job[name]) for name in ("donor", "recipient", "answers")}
def step(rows):
    given = torch.cat([ids["donor"][rows], ids["recipient"][rows]])
    own = torch.cat([ids["recipient"][rows], ids["donor"][rows]])
    sign = torch.ones(len(own)).index_fill(0, torch.arange(len(rows), len(own)), -1.0)
    optimiser.zero_grad()
    _, out = both({"input_ids": own}, [{"input_ids": given}], {"sources->base": job["position"]})
    right, wrong = out.logits[:, -1].gather(1, ids["answers"][rows].repeat(2, 1)).unbind(1)
    softplus(-sign * (right - wrong)).mean().backward()
    optimiser.step()
batches = torch.arange(job["pairs"]).split(job["batch"])
begun = time.process_time()
for number in range(job["steps"]):
    step(batches[number % len(batches)])
seconds = time.process_time() - begun
print(json.dumps({"seconds": seconds, "basis": intervention.rotate_layer.weight.T.tolist()}))
"""


def pyvene(python: str, job: dict[str, Any], batch: int, steps: int) -> tuple[list[list[float]], float]:
    """The directions that pyvene comes to, and its seconds for all steps."""
    asked = json.dumps({**job, "batch": batch, "steps": steps})
    done = subprocess.run([python, "-c", PEER], input=asked, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["basis"], answer["seconds"]


def plain_hooks(job: dict[str, Any], batch: int, steps: int) -> tuple[list[list[float]], float]:
    """The same with one hook on the stock model, the donors' activations taken before the clock starts."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval().requires_grad_(False)
    torch.manual_seed(0)
    rotation = parametrizations.orthogonal(torch.nn.Linear(model.config.n_embd, job["size"], bias=False))
    optimiser = torch.optim.Adam(rotation.parameters(), lr=RATE)
    loss, batches = _loss(model, job), torch.arange(job["pairs"]).split(batch)
    begun = time.process_time()
    for number in range(steps):
        basis: Any = rotation.weight
        optimiser.zero_grad()
        loss(basis, batches[number % len(batches)]).backward()
        optimiser.step()
    seconds = time.process_time() - begun
    found: Any = rotation.weight
    return found.tolist(), seconds


def _loss(model: Any, job: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean loss of directions over pairs, by one hook on the stock model, donors' activations being kept."""
    ids = {name: torch.tensor(job[name]) for name in ("donor", "recipient", "answers")}
    at, layer = job["position"], job["layer"]
    with torch.no_grad():
        runs = {name: model(ids[name], output_hidden_states=True).hidden_states for name in ("donor", "recipient")}
    seen = {name: states[layer + 1][:, at] for name, states in runs.items()}

    def loss(basis: Tensor, rows: Tensor) -> Tensor:
        given = torch.cat([seen["donor"][rows], seen["recipient"][rows]])
        sign = torch.ones(len(given)).index_fill(0, torch.arange(len(rows), len(given)), -1.0)

        def move(_: Any, __: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[:, at] = output[:, at] + (given - output[:, at]) @ basis.T @ basis
            return changed

        handle = model.transformer.h[layer].register_forward_hook(move)
        own = torch.cat([ids["recipient"][rows], ids["donor"][rows]])
        logits = model(own, use_cache=False, logits_to_keep=1).logits[:, -1]
        handle.remove()
        right, wrong = logits.gather(1, ids["answers"][rows].repeat(2, 1)).unbind(1)
        return softplus(-sign * (right - wrong)).mean()

    return loss


def patchlight(job: dict[str, Any], batch: int, steps: int) -> tuple[list[list[float]], float]:
    """What `find_subspaces` gives, and its seconds: with one batch of all pairs none is kept aside."""
    from patchlight import TokenPair, find_subspaces, load_model
    from patchlight.trace.das import Training

    model = load_model(job["folder"])
    rows = zip(job["donor"], job["recipient"], job["answers"], strict=True)
    together = batch == job["pairs"]
    pairs = [
        TokenPair(tuple(one), tuple(other), (right,), (wrong,), fact="one" if together else str(number))
        for number, (one, other, (right, wrong)) in enumerate(rows)
    ]
    trained = len(pairs) if together else len(pairs) - len(pairs) // KEPT_ASIDE
    epochs = steps // (trained // batch)
    training = Training(epochs=epochs, patience=epochs, batch=batch, learning_rate=RATE, kept_aside=1 / KEPT_ASIDE)
    site, size = f"blocks.{job['layer']}.resid_post@{job['position']}", (job["size"],)
    begun = time.process_time()
    (found,) = find_subspaces(model, pairs, site, methods=("das",), dimensions=size, training=training)
    return found.basis.tolist(), time.process_time() - begun


def main() -> None:
    """Prints the loss that everyone comes to in the same steps, and the median steps a second."""
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as made:
        job = _job(model_folder("gpt2-small", None, Path(made)), asked)
        peers: dict[str, Timed] = {"patchlight": partial(patchlight, job), "plain hooks": partial(plain_hooks, job)}
        if asked.pyvene:
            peers["pyvene"] = partial(pyvene, asked.pyvene, job)
        found = {name: run(asked.pairs, AGREEING_STEPS)[0] for name, run in peers.items()}
        for name, loss in _losses(job, found).items():
            steps = AGREEING_STEPS if name in peers else 0
            print(f"{name:12s} loss {loss:.6f} after {steps} steps", flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in peers}
        for number in range(asked.rounds):
            for name, run in peers.items():
                seconds[name].append(run(asked.batch, asked.steps)[1])
                print(f"round {number + 1}: {name} {seconds[name][-1]:.1f} s", file=sys.stderr)
    _print(asked, seconds)


def _job(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    prompts: Prompts = random_prompts(asked.pairs, asked.tokens, [4, asked.position], 50257)
    settings = {name: getattr(asked, name) for name in ("pairs", "layer", "position", "size", "threads")}
    return {**asdict(prompts), **settings, "folder": str(folder), "rate": RATE}


@torch.no_grad()
def _losses(job: dict[str, Any], found: dict[str, list[list[float]]]) -> dict[str, float]:
    """The loss over all pairs of no direction at all, and of what everyone found."""
    from transformers import AutoModelForCausalLM

    loss = _loss(AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval(), job)
    bases = {"no exchange": torch.zeros(1, 768), **{name: torch.tensor(basis) for name, basis in found.items()}}
    return {name: float(loss(basis, torch.arange(job["pairs"]))) for name, basis in bases.items()}


def _print(asked: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    print(
        f"{asked.steps} steps of {asked.batch} pairs, {asked.rounds} rounds in turn, CPU time,"
        f" {asked.threads} thread(s)"
    )
    ours = statistics.median(seconds["patchlight"])
    for name, each in seconds.items():
        middle = statistics.median(each)
        print(
            f"{name:12s} {asked.steps / middle:6.2f} steps a second ({asked.steps / max(each):.2f} to"
            f" {asked.steps / min(each):.2f}), {middle / ours:.2f} of Patchlight's time"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.das", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--layer", type=int, default=6, help="the residual stream behind this layer")
    parser.add_argument("--position", type=int, default=9)
    parser.add_argument("--size", type=int, default=4, help="directions that are learned")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30, help="a multiple of the batches in an epoch of Patchlight")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pyvene", help="the Python of an environment with pyvene 0.1.8")
    return parser


if __name__ == "__main__":
    main()
