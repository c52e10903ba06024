"""Fleets of chips that are not here: their names, how they are cabled, and the devices that stand for them.

Nothing is started: libtpu and the CUDA plugin are loaded for their compilers alone.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from gptjax.chips import CHIPS, Chip
from gptjax.plan.gpu_target import target_config
from gptjax.registry import did_you_mean
from gptjax.types import UserError

EXAMPLES = "v5p:8x8x8, v5e:16x16, h100:8x8 (hosts x GPUs) or cpu:8"

# libtpu asks the machine which TPU it is part of and complains where it is none; this is what a plain host answers. The
# lock is for those that start the chips: plans may be made side by side, and beside a program that uses them.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Torus(NamedTuple):
    """How a kind of TPU is cabled."""

    dims: int
    megacore: bool
    """Two cores that jax sees as one device."""
    wraps_at: int
    """A dim whose size is a multiple of this closes into a ring."""


TORI = {
    "v4": Torus(3, True, 4),
    "v5p": Torus(3, True, 4),
    "tpu7x": Torus(3, False, 4),
    "v5e": Torus(2, False, 16),
    "v6e": Torus(2, False, 16),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices to compile for, and what lies between them."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    """Sizes of the torus of one slice (TPU), hosts x GPUs, or the number of devices (CPU)."""
    wraps: tuple[bool, ...]
    """Whether each dim of the torus closes into a ring; empty where there is no torus."""
    slices: int
    devices: Sequence[jax.Device]

    @property
    def num_chips(self) -> int:
        """Chips in the whole fleet."""
        return len(self.devices) // self.chip.devices

    def place(self, device: jax.Device) -> tuple[int, tuple[int, ...]]:
        """Returns the island of fast links that a device is on (slice or host), and where it is on its torus."""
        if self.chip.platform == "tpu":
            island = device.slice_index if self.slices > 1 else 0
            return island, tuple(device.coords[: len(self.shape)])  # type: ignore[attr-defined]
        return (device.id // self.shape[-1], ()) if self.chip.platform == "cuda" else (0, ())


def start_no_chip() -> None:
    """Keeps jax from starting any chip, though one be there; before anything asks for a device."""
    jax.config.update("jax_platforms", "cpu")


def open_fleet(name: str, slices: int = 1) -> Fleet:
    """Returns the fleet called `chip:AxBxC`; raises UserError where there is none, or its compiler is missing."""
    kind, _, sizes = name.partition(":")
    if kind not in CHIPS:
        raise UserError(f"--topology={name}: there is no chip {kind!r}; {did_you_mean(kind, CHIPS)}")
    chip = CHIPS[kind]
    shape = _shape(name, sizes, {"tpu": TORI[kind].dims if kind in TORI else 0, "cuda": 2, "cpu": 1}[chip.platform])
    if slices < 1 or (slices > 1 and chip.platform != "tpu"):
        raise UserError(f"--slices={slices}: only TPUs come in slices, one or more")
    wraps: tuple[bool, ...] = ()
    if chip.platform == "tpu":
        wraps = tuple(size % TORI[kind].wraps_at == 0 for size in shape)
        devices = _tpus(name, kind, shape, wraps, slices)
    elif chip.platform == "cuda":
        devices = _gpus(kind, shape)
    else:
        devices = _cpus(shape[0])
    return Fleet(name=name, chip=chip, shape=shape, wraps=wraps, slices=slices, devices=devices)


def _shape(name: str, text: str, dims: int) -> tuple[int, ...]:
    sizes = text.split("x")
    if len(sizes) != dims or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        wanted = ":".join((name.partition(":")[0], "x".join("ABC"[:dims])))
        raise UserError(f"--topology={name} is not of the form {wanted} with positive sizes, such as {EXAMPLES}")
    return tuple(map(int, sizes))


def _tpus(name: str, kind: str, shape: Sequence[int], wraps: Sequence[bool], slices: int) -> Sequence[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={name} needs the TPU compiler; pip install 'gptjax[tpu]'")
    for variable, value in _LIBTPU.items():
        os.environ.setdefault(variable, value)
    arguments: dict[str, Any] = {"chip_config_name": "megacore"} if TORI[kind].megacore else {}
    if any(wraps):  # without it the compiler knows no ring, and turns all-gathers into all-reduces
        arguments["wrap"] = (*wraps, False)[:3]
    try:
        return topologies.get_topology_desc(
            platform="tpu",
            topology_name=name,
            num_slices=slices,
            chips_per_host_bounds=(1, 1, 1) if math.prod(shape) == 1 else (2, 2, 1),
            **arguments,
        ).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"--topology={name}: there is no such TPU slice ({reason}); try {EXAMPLES}") from None


def _gpus(kind: str, shape: Sequence[int]) -> Sequence[jax.Device]:
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise UserError(f"--topology={kind}:... needs the GPU compiler; pip install 'gptjax[plan-gpu]'")
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=target_config(CHIPS[kind]),
        topology=f"1 x {shape[0]} x {shape[1]}",
    ).devices


def _cpus(count: int) -> Sequence[jax.Device]:
    with contextlib.suppress(RuntimeError):  # where jax has started, with those that there are
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"--topology=cpu:{count}: jax has started with {len(devices)} devices; ask for that many")
    return devices[:count]
