"""Looks for the best way to run a config on a fleet: rules, mesh, remat and sequences per device; prints nothing.

The global batch stays as it is: it belongs to the recipe. What an estimate of memory and time promises most is compiled
first, for as long as the limit allows.
"""

import dataclasses
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gptjax import config, sharding
from gptjax.config import ExperimentConfig
from gptjax.model import accounting, attention, logical_axes, param_shapes
from gptjax.model.config import ModelConfig
from gptjax.plan.collectives import Transfer
from gptjax.plan.forecast import Forecast, sized_without_text
from gptjax.plan.roofline import interconnect_seconds
from gptjax.plan.topology import Fleet
from gptjax.types import UserError

REMATS = ("none", "dots", "minimal", "full")

# Per token and block, in widths of the residual stream: what is kept for the backward pass, and the share of the
# forward pass that is computed again. Rough, since they only order what is compiled.
_KEPT = {"none": 40, "dots": 20, "minimal": 12, "full": 1}
_AGAIN = {"none": 0.0, "dots": 0.05, "minimal": 0.1, "full": 1.0}
_SLACK = 1.5  # an estimate of memory above the capacity by this factor is believed


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to run the config, and what the estimate says of it."""

    cfg: ExperimentConfig
    sizes: Mapping[str, int]
    bytes: float
    wire_bytes: float
    seconds: float

    @property
    def memory_class(self) -> tuple[sharding.MeshConfig, str]:
        """Candidates of one class differ in the sequences at a time alone: one's memory tells of the others'."""
        return self.cfg.mesh, self.cfg.model.remat


class Objective(NamedTuple):
    """What makes one way better than another: in words, by the estimate, and by the forecast."""

    words: str
    estimated: Callable[[Candidate], float]
    forecast: Callable[[Forecast], float]


OBJECTIVES: Mapping[str, Objective] = {
    "time": Objective(
        "the least time of a step", lambda found: found.seconds, lambda plan: max(_known(plan.step_seconds))
    ),
    # for networks that are shared, or slower than they are said to be
    "wires": Objective(
        "the fewest bytes on the wires",
        lambda found: found.wire_bytes,
        lambda plan: sum(_known(plan.wire_bytes_per_chip)),
    ),
    "memory": Objective("the least memory", lambda found: found.bytes, lambda plan: plan.peak_hbm_bytes),
}


def search(
    cfg: ExperimentConfig,
    fleet: Fleet,
    by: str,
    limit_seconds: float,
    attempt: Callable[[ExperimentConfig, str], Forecast | Exception],
) -> Iterator[tuple[str, Forecast | Exception]]:
    """Attempts candidates until the limit, at least one, and gives each in words, with its forecast or what failed.

    `attempt` is given the words too. Estimates of memory are corrected by what was measured; what cannot fit by them
    is left out.
    """
    waiting = candidates(cfg, fleet, by)
    if not waiting:
        raise UserError(
            f"--search: no mesh of {len(fleet.devices)} devices suits the model, its batch of {cfg.data.batch_size} "
            f"sequences and the memory; take another --topology"
        )
    start, longest = time.monotonic(), 0.0
    corrections: dict[tuple[sharding.MeshConfig, str], float] = {}
    for number, candidate in enumerate(waiting, 1):
        began = time.monotonic()
        if longest and began - start + longest > limit_seconds:
            return
        if candidate.bytes * corrections.get(candidate.memory_class, 0.0) > fleet.chip.hbm_bytes:
            continue
        label = f"{number}/{len(waiting)}  {describe(candidate)}"
        found = attempt(candidate.cfg, label)
        longest = max(longest, time.monotonic() - began)
        if not isinstance(found, Exception):
            corrections[candidate.memory_class] = found.peak_hbm_bytes / candidate.bytes
        yield label, found


def rank(plan: Forecast, by: str) -> tuple[bool, float, float]:
    """Sorts plans: first those that fit, the best of them first, of equals the one with the least on the wires."""
    if plan.bound is None:
        return not plan.fits, math.inf, math.inf
    return not plan.fits, OBJECTIVES[by].forecast(plan), OBJECTIVES["wires"].forecast(plan)


def _known(values: Mapping[str, Any] | None) -> list[Any]:
    return [value for value in (values or {}).values() if value is not None]


def describe(candidate: Candidate) -> str:
    """Returns what a candidate is, in the words of its flags."""
    cfg = candidate.cfg
    mesh = " ".join(f"{axis}={size}" for axis, size in candidate.sizes.items() if size > 1) or "one device"
    return f"{cfg.mesh.rules} {mesh} remat={cfg.model.remat} sequences={cfg.train.max_sequences_per_device}"


def candidates(cfg: ExperimentConfig, fleet: Fleet, by: str) -> list[Candidate]:
    """Returns the ways to run the config that its checks allow and whose memory may suffice, most promising first."""
    found, model = [], sized_without_text(cfg)
    params, flops = (
        accounting.num_params(model),
        accounting.flops_per_token(model) * cfg.data.batch_size * model.seq_len,
    )
    for rules, sizes in _meshes(fleet):
        on_mesh = dataclasses.replace(cfg, mesh=sharding.MeshConfig(**sizes, rules=rules))
        rows = sizes["replica"] * sizes["fsdp"]
        if not _suits(on_mesh, model, sizes, fleet):
            continue
        for remat, sequences in itertools.product(REMATS, _divisors(cfg.data.batch_size // rows)):
            changed = dataclasses.replace(
                on_mesh,
                model=dataclasses.replace(cfg.model, remat=remat),
                train=dataclasses.replace(cfg.train, max_sequences_per_device=sequences),
            )
            found.append(_estimate(changed, sizes, fleet, params, flops))
    return _in_order([candidate for candidate in found if candidate.bytes < _SLACK * fleet.chip.hbm_bytes], fleet, by)


def _in_order(found: Sequence[Candidate], fleet: Fleet, by: str) -> list[Candidate]:
    """Sorts by the estimate; doubtful memory costs a quarter, and each better one on the same mesh a tenth."""
    tried: Counter[sharding.MeshConfig] = Counter()
    promises, cost = [], OBJECTIVES[by].estimated
    for candidate in sorted(found, key=lambda candidate: (cost(candidate), candidate.seconds, candidate.bytes)):
        doubtful = candidate.bytes > fleet.chip.hbm_bytes
        price = (1.25 if doubtful else 1.0) * (1 + tried[candidate.cfg.mesh] / 10)
        promises.append((cost(candidate) * price, candidate))
        tried[candidate.cfg.mesh] += not doubtful
    return [candidate for _, candidate in sorted(promises, key=lambda promise: promise[0])]


def _meshes(fleet: Fleet) -> Iterator[tuple[str, dict[str, int]]]:
    """Gives each set of rules with the meshes that use all of its axes; expert stays 1, as blocks are dense."""
    count = len(fleet.devices)
    for rules in sharding.RULES:
        axes = sharding.axes_of(rules)
        tensors = [size for size in _divisors(count) if (size > 1) == ("tensor" in axes)]
        contexts = [size for size in _divisors(count) if (size > 1) == (rules == "context")]
        for replica, context, tensor in itertools.product(_divisors(count), contexts, tensors):
            taken = replica * context * tensor
            if count % taken or replica % fleet.slices or (rules == "dp" and replica > fleet.slices):
                continue
            yield rules, dict(replica=replica, fsdp=count // taken, expert=1, context=context, tensor=tensor)


def _suits(cfg: ExperimentConfig, model: ModelConfig, sizes: Mapping[str, int], fleet: Fleet) -> bool:
    """Whether batch, positions and every weight divide over a mesh, and a kernel that is required can run there."""
    try:
        attention.kernel(model, fleet.chip.platform, model.seq_len // sizes["context"])
        config.validate(cfg, math.prod(sizes.values()))
        sharding.shardings(_layout(cfg, sizes), logical_axes(model), param_shapes(model))
    except UserError:
        return False
    return True


def _layout(cfg: ExperimentConfig, sizes: Mapping[str, int]) -> sharding.Layout:
    """Returns the layout on a mesh without devices, of which sizes alone can be asked."""
    mesh: Any = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
    return sharding.Layout(mesh, cfg.mesh.rules)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _estimate(cfg: ExperimentConfig, sizes: Mapping[str, int], fleet: Fleet, params: int, flops: int) -> Candidate:
    """Works out memory and time from the shapes alone.

    Weights are gathered in the compute dtype, forwards and backwards, and their gradients summed; a tensor axis sums
    activations four times a block (once more where it is computed again); a context axis gathers keys and values.
    """
    model, layout = sized_without_text(cfg), _layout(cfg, sizes)
    assert model.num_kv_heads is not None
    assert model.d_head is not None
    assert model.vocab_size is not None
    context, tensor, rows = sizes["context"], sizes["tensor"], layout.parts("act_batch")
    sequences = cfg.train.max_sequences_per_device or cfg.data.batch_size // rows
    accumulation = cfg.data.batch_size // rows // sequences
    tokens = sequences * model.seq_len / context
    width = {"bfloat16": 2, "float32": 4}[model.dtype]
    again, weights = _AGAIN[model.remat], params / tensor
    gathered, sharded = layout.axes("embed"), layout.parts("embed")
    copied = [axis for axis in (*layout.axes("act_batch"), *layout.axes("act_seq")) if axis not in gathered]
    parallel = layout.parts("act_stream_seq") // layout.parts("act_seq")
    kept = tokens * model.d_model * width * model.num_layers * _KEPT[model.remat]
    kept /= tensor if _KEPT[model.remat] > 1 else parallel
    kernel, _ = attention.kernel(model, fleet.chip.platform, model.seq_len // context)
    if kernel == "xla" and model.remat in ("none", "dots"):  # the scores are kept, in float32 and as weights
        kept += tokens * model.seq_len * model.num_heads * (4 + width) * model.num_layers / tensor
    logits = 2 * 4 * tokens * model.vocab_size / tensor / cfg.train.loss_chunks
    memory = 16 * weights / sharded + kept + logits  # weights, gradients and two moments in float32
    # Over a whole slice XLA for TPUs sums gradients on each device, twice the bytes, before it cuts each part out.
    whole = fleet.chip.platform == "tpu" and sharded == len(fleet.devices) // fleet.slices
    stream, keys = tokens * model.d_model * width, 2 * tokens * context * model.num_kv_heads * model.d_head * width
    moved = [
        (gathered, weights * width * (4 if whole else 3)),
        (copied, 2 * 4 * weights / sharded),
        (("tensor",), 2 * stream * model.num_layers * (4 + again)),
        (("context",), keys / tensor * model.num_layers * (3 + again)),
    ]
    transfers = [
        Transfer("all-gather", _group(sizes, axes), tuple(axes), int(volume), accumulation)
        for axes, volume in moved
        if math.prod(sizes[axis] for axis in axes) > 1
    ]
    times = (
        flops * (3 + again) / 3 / len(fleet.devices) / fleet.chip.flops,
        sum(interconnect_seconds(fleet, fleet.devices, transfers).values()),
        2 * (kept + 2 * width * weights) * accumulation / fleet.chip.hbm_bandwidth,  # each is written and read
    )
    wire_bytes = sum(transfer.bytes * transfer.times for transfer in transfers)
    return Candidate(cfg, sizes, memory, wire_bytes, 0.9 * max(times) + 0.1 * sum(times))  # little overlaps whole


def _group(sizes: Mapping[str, int], axes: Sequence[str]) -> tuple[int, ...]:
    """Returns the first group along some axes, the devices taken in their own order: near enough to their places."""
    ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    return tuple(ids[tuple(slice(None) if axis in axes else 0 for axis in sizes)].reshape(-1).tolist())
