"""Where a model is put and in which number format, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.model.source import first_line

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
DeviceMap = str | Mapping[str, str | int]


def number_format(name: str, device: str) -> torch.dtype:
    """The type of weights with this name. Raises InputError for another name, or one that the device lacks."""
    if name not in DTYPES:
        raise InputError(
            "model-unknown-dtype", f"'{name}' is not a number format", fix=f"use one of {', '.join(DTYPES)}"
        )
    if name == "float64" and device.partition(":")[0] == "mps":
        raise InputError(
            "model-dtype-on-device", "the device 'mps' has no float64", fix="use float32, or the device 'cpu'"
        )
    return DTYPES[name]


def usable_device(name: str | int) -> torch.device:
    """The device with this name, once memory could be taken on it. Raises EnvironmentProblem where it is missing."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where CUDA is not built in
        raise EnvironmentProblem(
            "model-device-missing",
            f"device '{name}' cannot be used here: {first_line(error)}",
            fix="use 'cpu'",
        ) from error
    return device


def check_map(device_map: DeviceMap, device: str) -> None:
    """Raises the error of a spread over devices that cannot be; `device` is the single one asked for beside it."""
    if device != "cpu":
        what = f"both a device_map and the device '{device}' are given"
        raise InputError("model-device-twice", what, fix="give one of them")
    if isinstance(device_map, str):
        if device_map not in SPREADS:
            what = f"'{device_map}' is not a way to spread a model"
            raise InputError("model-device-map", what, fix=f"use one of {', '.join(SPREADS)}, or name the parts")
        return
    for name in set(device_map.values()):
        if name in ("disk", "meta"):
            what = f"the device_map leaves weights on '{name}', where they cannot be patched"
            raise InputError("model-offloaded", what, fix="use devices that hold weights: 'cpu', 0, 1, ...")
        usable_device(name)
