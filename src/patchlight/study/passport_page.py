"""The calibration passport as a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patchlight.study.passport import ELSEWHERE, TARGETS, TRUTH
from patchlight.verify.calibration import meets, recorded

ROWS = {
    "hit": "Facts taught in one layer: the place is among the confirmed findings",
    "nothing": "Facts never taught: nothing is found",
    "false": "All models: a place is confirmed that was not taught",
    "right.a": "Taught in one layer: the verdict is `localised`",
    "right.b": "Taught in every layer: the verdict is `distributed`",
    "right.c": "Never taught: the verdict is `no knowledge to localise`",
    "right": "All models: the verdict is right",
    "wrong": "All models: the verdict is confident and wrong",
}
WORDS = ("localised", "distributed", "undetermined", "no knowledge to localise", ELSEWHERE)
CLASSES = {"a": "taught in one layer", "b": "taught in every layer", "c": "never taught"}
PAGE = """# The calibration passport

A scale is trusted because it was put under known weights. This page does the same with Patchlight: it makes small
models in which the right answer is known, because the project taught them itself, and runs the tool's own rule over
them. Everything here was made by `patchlight passport`.

## Weights of models that were taught

Made on {date}, seeds {seeds}, {seconds} s of computing.

The models are GPT-2s of six layers. Each learns who lives where among made-up people; then 48 new homes are taught with
the MLP of one layer open, or of every layer, or not at all (other people move instead). Afterwards every weight matrix
is moved by chance by 2 % of its norm, so that the place which was taught isn't the only one that differs. The rule sees
the weights of 12 modules exchanged between the model before and after (six attentions, six MLPs); half of the facts
choose, the other half confirm.

| question | models | share | 95 % interval | target |
|---|---|---|---|---|
{rates}

The intervals are exact (Clopper-Pearson). A target counts as shown only where the whole interval meets it: {shown}.
{not_learnt} models did not learn their facts and were left out.

| truth | localised | distributed | undetermined | no knowledge to localise |
|---|---|---|---|---|
{verdicts}

Models built by hand have no chance in them. In {circuits[models]} circuits (AND, OR, redundant, cancelling, chain)
{circuits[effects]} total, direct and indirect effects were measured: the bias is {circuits[bias]:.1e} logits, the
largest error {circuits[largest]:.1e}. In {programs[models]} compiled programs the sweep found
{programs[hit]} of {programs[working]} working heads and MLPs, and {programs[false]} of {programs[idle]} idle ones.

{activations}
## What this does not show

- The rates hold for small models: taught one kind of fact where weights are exchanged, built by hand where activations
  are. Larger models, and knowledge from real training, may err more often.
- The thresholds in force are {thresholds}. `patchlight passport --calibrate` weighs others on seeds of its own, never
  on those reported here.
"""

ON_MAPS = """## Activations of circuits that were built by hand

Made on {date}, seeds {seeds}. Each circuit has 24 or 32 facts, 6 or 9 layers and noise in its
weights, and is judged as a study is: maps of the attention and MLP outputs in both directions, their null maps, sets
grown on half of the facts and tried on the others. What is right was written down before: [why](../design/verdict.md).
A verdict that names a set which isn't the one that works counts as wrong (`localised elsewhere`).

| question | circuits | share | 95 % interval | target |
|---|---|---|---|---|
{rates}

| circuit | right | localised | distributed | undetermined | no knowledge to localise | localised elsewhere |
|---|---|---|---|---|---|---|
{verdicts}

Weights and activations together: right in {right[count]} of {right[n]} ({right_low:.1f} to {right_high:.1f} %),
confident and wrong in {wrong[count]} of {wrong[n]} ({wrong_low:.1f} to {wrong_high:.1f} %). {calibrated}
"""
CALIBRATED = {
    True: "The targets are met by the whole intervals: the thresholds count as calibrated.",
    False: "The targets aren't met by the whole intervals: the thresholds do not count as calibrated.",
}
ON_MAPS_ROWS = {
    "right": "Circuits with a clear answer: the verdict is right",
    "wrong": "All circuits: the verdict is confident and wrong",
    "undetermined": "Circuits of which nothing can be said: the verdict is `undetermined`",
}


def page(passport: Mapping[str, Any]) -> str:
    """The passport in Markdown."""
    words = WORDS[:4]
    verdicts = [f"| {CLASSES[group]} | {_counts(passport['verdicts'][group], words)} |" for group in TRUTH]
    return PAGE.format(
        date=passport["date"],
        seeds=", ".join(map(str, passport["seeds"])),
        seconds=passport["seconds"],
        rates="\n".join(_row(name, passport["rates"][name]) for name in ROWS),
        shown=_shown(passport["rates"]),
        not_learnt=passport["not_learnt"],
        verdicts="\n".join(verdicts),
        circuits=passport["effects"],
        programs=passport["places"],
        activations=_on_maps(passport) if "activations" in passport else "",
        thresholds=", ".join(f"{name} {value:g}" for name, value in passport["thresholds"].items()),
    )


def _on_maps(passport: Mapping[str, Any]) -> str:
    part, together = passport["activations"], passport["together"]
    verdicts = [
        f"| {name} | {part['truth'][name]} | {_counts(counts, WORDS)} |" for name, counts in part["verdicts"].items()
    ]
    ends = {f"{name}_{end}": 100 * together[name][end] for name in together for end in ("low", "high")}
    return ON_MAPS.format(
        date=part["date"],
        seeds=", ".join(map(str, part["seeds"])),
        rates="\n".join(_row(name, part["rates"][name], ON_MAPS_ROWS) for name in ON_MAPS_ROWS),
        verdicts="\n".join(verdicts),
        **together,
        **ends,
        calibrated=CALIBRATED[meets(passport, recorded())],
    )


def _counts(counts: Mapping[str, int], words: Sequence[str]) -> str:
    return " | ".join(str(counts.get(word, 0)) for word in words)


def _row(name: str, rate: Mapping[str, float], rows: Mapping[str, str] = ROWS) -> str:
    target = {"wrong": "at most 2 %"}.get(name, f"at least {100 * TARGETS[name]:.0f} %" if name in TARGETS else "")
    share = f"{100 * rate['count'] / rate['n']:.0f} %" if rate["n"] else "not tried"
    interval = f"{100 * rate['low']:.1f} to {100 * rate['high']:.1f} %"
    return f"| {rows[name]} | {rate['count']} of {rate['n']} | {share} | {interval} | {target} |"


def _shown(rates: Mapping[str, Mapping[str, float]]) -> str:
    found = [name for name in ("hit", "nothing", "right") if rates[name]["low"] >= TARGETS[name]]
    found += ["wrong"] if rates["wrong"]["high"] <= TARGETS["wrong"] else []
    return "; ".join(ROWS[name].lower() for name in found) or "no target yet, for want of models"
