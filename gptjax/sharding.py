"""Where arrays live: mesh axes, logical names and the rules that join them. Knows no model, no optimiser and no flax.

A tensor's dims carry logical names. `RULES` is the only place where such a name meets a mesh axis: a new layout is one
entry there. Names are strict: an unknown one raises, since a misspelt name would be replicated in silence.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gptjax.registry import did_you_mean
from gptjax.types import UserError

AXES = ("replica", "fsdp", "expert", "context", "tensor")
"""Mesh axes, slowest network first; all are always present, size 1 allowed."""

WEIGHT_NAMES = frozenset({"vocab", "embed", "q_heads", "kv_heads", "head_dim", "ff", "experts", "layers"})
ACTIVATION_NAMES = frozenset(
    {"act_batch", "act_seq", "act_stream_seq", "act_embed", "act_q_heads", "act_kv_heads", "act_ff", "act_vocab"}
    | {"act_experts", "act_expert_batch"}
)
LOGICAL_NAMES = WEIGHT_NAMES | ACTIVATION_NAMES

_DATA = ("replica", "fsdp", "expert")  # the batch is split over every axis that is not a model axis
_TENSOR_WEIGHTS = {"vocab": "tensor", "q_heads": "tensor", "kv_heads": "tensor", "ff": "tensor", "experts": "expert"}
_TENSOR_ACTIVATIONS = {
    **{"act_q_heads": "tensor", "act_kv_heads": "tensor", "act_ff": "tensor", "act_vocab": "tensor"},
    **{"act_experts": "expert", "act_expert_batch": ("replica", "fsdp")},  # at the experts, batches go over the rest
}

Rules = Mapping[str, str | tuple[str, ...]]

RULES: Mapping[str, Rules] = {
    # weights replicated, batch split
    "dp": {"act_batch": _DATA},
    # weights and optimiser state split over the data axis as well (ZeRO-3, arXiv 1910.02054)
    "fsdp": {"act_batch": _DATA, "embed": "fsdp"},
    # the same, the weights gathered and their gradients scattered by hand (gptjax/manual.py)
    "fsdp_manual": {"act_batch": _DATA, "act_seq": "context", "embed": "fsdp"},
    # and heads, feed-forward and vocabulary over the tensor axis (Megatron-LM, arXiv 1909.08053)
    "fsdp_tp": {"act_batch": _DATA, "embed": "fsdp", **_TENSOR_WEIGHTS, **_TENSOR_ACTIVATIONS},
    # and the positions of norms and of the residual stream (arXiv 2205.05198)
    "fsdp_tp_sp": {
        **{"act_batch": _DATA, "embed": "fsdp", "act_stream_seq": "tensor"},
        **{**_TENSOR_WEIGHTS, **_TENSOR_ACTIVATIONS},
    },
    # and the sequence over the context axis, for those that are too long for one device
    "context": {
        **{"act_batch": _DATA, "embed": ("fsdp", "context"), "act_seq": "context"},
        **{"act_stream_seq": ("context", "tensor"), **_TENSOR_WEIGHTS, **_TENSOR_ACTIVATIONS},
    },
}

MANUAL = frozenset({"fsdp_manual"})
"""The rules under which the loss is written for one device, with its collectives; the others leave those to XLA."""


def axes_of(rules: str) -> set[str]:
    """Returns the mesh axes that the rules make use of."""
    return {axis for entry in RULES[rules].values() for axis in _axes(entry)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices are arranged; no part of a run's identity, so a checkpoint moves between fleets."""

    replica: int | None = 1
    """Copies of the weights across slow links."""
    fsdp: int | None = None
    """Data parallelism with sharded weights; None takes all devices that are left over."""
    expert: int | None = 1
    """Expert parallelism."""
    context: int | None = 1
    """Sequence parallelism."""
    tensor: int | None = 1
    """Tensor parallelism."""
    rules: str = "fsdp"
    """The layout: an entry of sharding.RULES."""

    def shape(self, device_count: int) -> dict[str, int]:
        """Returns the size of each axis on `device_count` devices; raises UserError where they do not fit."""
        sizes = {axis: getattr(self, axis) for axis in AXES}
        free = [axis for axis, size in sizes.items() if size is None]
        wrong = [f"{axis}={size}" for axis, size in sizes.items() if size is not None and size < 1]
        if wrong:
            raise UserError(f"mesh.{wrong[0]} is less than 1; choose a positive number or None")
        if len(free) > 1:
            raise UserError(
                f"mesh.{free[0]} and mesh.{free[1]} are both None; only one axis can take what is left over"
            )
        taken = math.prod(size for size in sizes.values() if size is not None)
        if free and device_count % taken == 0:
            sizes[free[0]] = device_count // taken
        elif free or taken != device_count:
            text = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size is not None)
            raise UserError(
                f"mesh.* ({text}) needs {'a multiple of ' if free else ''}{taken} devices and there are "
                f"{device_count}; change mesh.* so that it divides (mesh.fsdp=None takes what is left over)"
            )
        return sizes  # type: ignore[return-value]

    def validate(self, device_count: int) -> list[str]:
        """Returns every problem in words; empty where the mesh fits the devices."""
        problems = []
        try:
            sizes = self.shape(device_count)
        except UserError as error:
            return [*problems, str(error).removeprefix("mesh.")]
        if self.rules not in RULES:
            return [f"rules={self.rules!r} is unknown; {did_you_mean(self.rules, RULES)}"]
        for axis in sorted({axis for axis, size in sizes.items() if size > 1} - axes_of(self.rules)):
            fitting = [name for name in RULES if axis in axes_of(name)]
            problems.append(
                f"{axis}={sizes[axis]} splits nothing under rules {self.rules!r}; "
                f"set mesh.{axis}=1 or mesh.rules to {' or '.join(fitting)}"
            )
        return problems


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges the devices (all by default) as `cfg` says; raises UserError where they do not fit.

    On several TPU slices `replica` goes from slice to slice, so that the slow network carries gradients alone.
    """
    devices = jax.devices() if devices is None else devices
    sizes = cfg.shape(len(devices))
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes["replica"] % num_slices:
        raise UserError(
            f"mesh.replica={sizes['replica']} is no multiple of the {num_slices} slices; "
            f"set it to {num_slices}, so that only gradients go from slice to slice"
        )
    # Where the axes cannot have whole dims of the torus, they share some.
    if num_slices == 1:
        grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    else:
        inside = {**sizes, "replica": sizes["replica"] // num_slices}
        across = {**dict.fromkeys(AXES, 1), "replica": num_slices}
        grid = mesh_utils.create_hybrid_device_mesh(
            tuple(inside.values()), tuple(across.values()), devices, allow_split_physical_axes=True
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def in_words(sizes: Mapping[str, int]) -> str:
    """Returns the axes of more than one device, for people."""
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "one device"


def canonical_platform(name: str) -> str:
    """Returns the name by which a platform is lowered for: devices say gpu, lowering says cuda."""
    return "cuda" if name == "gpu" else name


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and the name of the rules by which logical names become shardings on it."""

    mesh: Mesh
    rules: str = "fsdp"

    def spec(self, names: Sequence[str | None]) -> PartitionSpec:
        """Returns the partition of a tensor whose dims are called `names`; raises ValueError on an unknown name."""
        rules = RULES[self.rules]
        for name in names:
            if name is not None and name not in LOGICAL_NAMES:
                raise ValueError(f"{name!r} is not a logical name; {did_you_mean(name, LOGICAL_NAMES)}")
        return PartitionSpec(*(rules.get(name) if name is not None else None for name in names))

    def sharding(self, names: Sequence[str | None]) -> NamedSharding:
        """Returns the sharding of a tensor whose dims are called `names`."""
        return NamedSharding(self.mesh, self.spec(names))

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def platform(self) -> str:
        """What the devices are: cpu, tpu, or cuda where they call themselves gpu."""
        return canonical_platform(self.mesh.devices.flat[0].platform)

    @property
    def is_manual(self) -> bool:
        """Whether the loss is written for one device."""
        return self.rules in MANUAL

    def axes(self, name: str) -> tuple[str, ...]:
        """Returns the mesh axes, of more than one device, that split a dim of this name."""
        return tuple(axis for axis in _axes(self.spec((name,))[0]) if self.mesh.shape[axis] > 1)

    def parts(self, name: str) -> int:
        """Returns the number of parts that a dim of this name is split into."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes(name))


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def shardings(layout: Layout, names_tree: Any, shapes_tree: Any) -> Any:
    """Returns a tree of shardings for a tree of arrays (or their shapes) and the tree of their dims' names.

    Raises UserError where an axis would split two dims of one array, or does not divide a dim.
    """

    def one(path, shape, names):
        label = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = layout.spec(names)
        assert len(names) == len(shape.shape), f"{label}: {names} names {len(names)} dims of {shape.shape}"
        used: set[str] = set()
        for dim, (name, size, entry) in enumerate(zip(names, shape.shape, spec, strict=True)):
            axes = _axes(entry)
            parts = math.prod(layout.mesh.shape[axis] for axis in axes)
            if used & set(axes):
                raise UserError(f"{label}: rules {layout.rules!r} split two of its dims over axis {(used & set(axes))}")
            if size % parts:
                raise UserError(
                    f"{label}: dim {dim} ({name}) of size {size} does not divide over axis {'+'.join(axes)} of size "
                    f"{parts}; change mesh.{axes[0]} or the model's dimension"
                )
            used |= set(axes)
        return NamedSharding(layout.mesh, spec)

    return jax.tree_util.tree_map_with_path(one, shapes_tree, names_tree)


_LAYOUT: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


@contextlib.contextmanager
def use(layout: Layout | None) -> Iterator[None]:
    """Makes `constrain` follow `layout`, or none; entered inside a traced function, since jit's cache misses it."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def in_use() -> Layout | None:
    """Returns the layout in use, if there is one and its mesh has more than one device."""
    layout = _LAYOUT.get()
    return None if layout is None or layout.mesh.size == 1 else layout


def platform() -> str:
    """Returns the platform that is being traced for: that of the layout in use, or jax's own."""
    layout = _LAYOUT.get()
    return canonical_platform(jax.default_backend()) if layout is None else layout.platform


def constrain(x: Any, *names: str | None) -> Any:
    """Pins an activation to the layout in use by its dims' logical names; the identity where none is in use."""
    layout = in_use()
    if layout is None or layout.is_manual:
        return x
    return jax.lax.with_sharding_constraint(x, layout.sharding(names))


def local_rows(sharding: NamedSharding, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the sorted rows (indices of dim 0) of a global array that this process's devices hold."""
    parts = sharding.addressable_devices_indices_map(shape).values()
    return np.unique(np.concatenate([np.arange(shape[0])[part[0]] for part in parts if part is not None]))
