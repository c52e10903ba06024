"""What a training step needs and takes on a fleet: compiled for it, then read and multiplied out. Prints nothing."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from gptjax import config
from gptjax.config import ExperimentConfig
from gptjax.data.tokenizer import ByteTokenizer
from gptjax.model import accounting
from gptjax.model.config import ModelConfig
from gptjax.plan import collectives, hlo
from gptjax.plan.flops import count_flops
from gptjax.plan.roofline import interconnect_seconds
from gptjax.plan.topology import Fleet
from gptjax.plan.traffic import hbm_bytes
from gptjax.program import Program, build_program
from gptjax.types import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """A plan's figures, the fields of its JSON; bytes are of one device, None where the compiler gave no program."""

    topology: str
    slices: int
    num_params: int
    num_chips: int
    num_devices: int
    mesh: dict[str, int]
    rules: str
    remat: str
    batch_size: int
    sequences_per_device: int
    accumulation: int
    tokens_per_step: int
    # memory, by the compiler (the parts of the arguments and the gradients: by the shardings)
    fits: bool
    peak_hbm_bytes: int
    hbm_capacity_bytes: int
    argument_bytes: int
    temp_bytes: int | None
    param_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    # work, counted: in the traced program, and in what the compiler made of it
    flops_per_step: int
    model_flops_per_step: int
    wire_bytes_per_chip: dict[str, int] | None
    wire_bytes_by_axis: dict[str, int] | None
    hbm_bytes_per_chip: int | None
    loops_of_unknown_length: int
    # time, by arithmetic
    step_seconds: dict[str, float | None]
    interconnect_seconds_by_axis: dict[str, float] | None
    bound: str | None
    mfu_bound: float | None
    tokens_per_second: float | None
    total_tokens: int
    days: float | None
    chip_hours: float | None
    chip_source: str
    compile_seconds: float
    jax_version: str

    @property
    def seconds(self) -> float | None:
        """The least time of a step; None where it was not compiled."""
        known = [seconds for seconds in self.step_seconds.values() if seconds is not None]
        return max(known) if self.bound is not None else None


def sized(cfg: ExperimentConfig) -> ModelConfig:
    """Returns the model config with its vocabulary, which is known without any text or else has to be given."""
    size = cfg.model.vocab_size
    if size is None and cfg.data.tokenizer.name == "byte":
        size = ByteTokenizer.vocab_size
    if size is None:
        raise UserError(
            f"model.vocab_size=None takes the {cfg.data.tokenizer.name} tokenizer's, which only its text can tell; "
            f"set --config.model.vocab_size=NUMBER"
        )
    return dataclasses.replace(cfg.model, vocab_size=size).resolve()


def forecast(cfg: ExperimentConfig, fleet: Fleet, source: str = "the config") -> Forecast:
    """Compiles the step of `cfg` for a fleet and works its figures out; raises UserError where they do not match."""
    config.validate(cfg, len(fleet.devices), source)
    program = build_program(cfg, sized(cfg), None, fleet.devices)
    start = time.perf_counter()
    with _without_cudnn():
        traced = program.trace_train_step()
        lowered = traced.lower(lowering_platforms=(program.layout.platform,))
    flops = count_flops(traced.jaxpr.jaxpr)
    options = {"xla_gpu_autotune_level": "0"} if fleet.chip.platform == "cuda" else None  # there is no GPU to try on
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        needed = _needed_bytes(str(error))
        if needed is None:
            raise
        compiled = None
    return _figures(program, fleet, flops, compiled, 0 if compiled else needed, time.perf_counter() - start)


def _figures(
    program: Program, fleet: Fleet, flops: int, compiled: Any, needed: int, compile_seconds: float
) -> Forecast:
    cfg, mesh, chip = program.cfg, program.layout.mesh, fleet.chip
    param_bytes, optimizer_bytes = (
        _device_bytes(part) for part in (program.abstract.params, program.abstract.opt_state)
    )
    argument_bytes, temp_bytes, peak = param_bytes + optimizer_bytes, None, needed
    wire = wire_by_axis = traffic = by_axis = None
    seconds: dict[str, float | None] = dict.fromkeys(("compute", "hbm", "interconnect"))
    seconds["compute"] = flops / (len(fleet.devices) * chip.flops)
    unknown_loops = 0
    if compiled is not None:
        memory = compiled.memory_analysis()
        argument_bytes, temp_bytes = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        peak = _peak_bytes(memory, chip.platform)
        module = hlo.parse(compiled.as_text())
        found = collectives.transfers(module, mesh.shape)
        wire, wire_by_axis, traffic = collectives.by_kind(found), collectives.by_axes(found), hbm_bytes(module)
        by_axis = interconnect_seconds(fleet, list(mesh.devices.flat), found)
        seconds |= {"hbm": traffic / chip.hbm_bandwidth, "interconnect": sum(by_axis.values())}
        unknown_loops = module.loops_of_unknown_length
    bound = max(seconds, key=lambda name: seconds[name] or 0.0) if compiled is not None else None
    step = seconds[bound] if bound else None
    total_tokens = cfg.optim.num_steps * program.tokens_per_step
    days = cfg.optim.num_steps * step / 86_400 if step else None
    return Forecast(
        topology=fleet.name,
        slices=fleet.slices,
        num_params=accounting.num_params(program.model),
        num_chips=fleet.num_chips,
        num_devices=len(fleet.devices),
        mesh=dict(mesh.shape),
        rules=cfg.mesh.rules,
        remat=cfg.model.remat,
        batch_size=cfg.data.batch_size,
        sequences_per_device=cfg.data.batch_size // program.layout.parts("act_batch") // program.accumulation,
        accumulation=program.accumulation,
        tokens_per_step=program.tokens_per_step,
        fits=compiled is not None and peak <= chip.hbm_bytes,
        peak_hbm_bytes=peak,
        hbm_capacity_bytes=int(chip.hbm_bytes),
        argument_bytes=argument_bytes,
        temp_bytes=temp_bytes,
        param_bytes=param_bytes,
        optimizer_bytes=optimizer_bytes,
        gradient_bytes=param_bytes,
        flops_per_step=flops,
        model_flops_per_step=int(program.flops_per_step),
        wire_bytes_per_chip=wire,
        wire_bytes_by_axis=wire_by_axis,
        hbm_bytes_per_chip=traffic,
        loops_of_unknown_length=unknown_loops,
        step_seconds=seconds,
        interconnect_seconds_by_axis=by_axis,
        bound=bound,
        mfu_bound=program.flops_per_step / (len(fleet.devices) * chip.flops * step) if step else None,
        tokens_per_second=program.tokens_per_step / step if step else None,
        total_tokens=total_tokens,
        days=days,
        chip_hours=days * 24 * fleet.num_chips if days else None,
        chip_source=chip.source,
        compile_seconds=compile_seconds,
        jax_version=jax.__version__,
    )


def _device_bytes(tree: Any) -> int:
    """Returns the bytes of one device's parts of some arrays."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _peak_bytes(memory: Any, platform: str) -> int:
    """Returns the most memory in use at once.

    The TPU compiler overlays what it donates and what it frees, and says what that comes to; its other figures, added
    up, count some of it twice. On GPUs and CPUs a program takes its arguments and all its temporaries at once.
    """
    if platform == "tpu":
        return memory.peak_memory_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + results


def _needed_bytes(message: str) -> int | None:
    """Returns the memory that a refused program would need, from the TPU compiler's words; None for other errors."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"Used ([\d.]+)([KMGT])|temporaries \(([\d.]+)([KMGT])\)", message)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit])


@contextlib.contextmanager
def _without_cudnn() -> Iterator[None]:
    """Lets attention be lowered for GPUs where there is no cuDNN: jax asks the library only for its version."""
    from jax._src.cudnn import fused_attention_stablehlo as attention

    check = attention.check_cudnn_version
    attention.check_cudnn_version = lambda: 91000
    try:
        yield
    finally:
        attention.check_cudnn_version = check


def to_json(plan: Forecast) -> Mapping[str, Any]:
    """Returns the plan as plain values."""
    return dataclasses.asdict(plan)
