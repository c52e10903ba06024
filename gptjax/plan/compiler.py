"""Asks XLA what a training step needs: compiles it for its absent devices and keeps what is known of the result."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax._src.cudnn import fused_attention_stablehlo  # there is no public way past its search for the library

from gptjax.plan import hlo
from gptjax.plan.flops import count_flops
from gptjax.plan.gpu_target import CUDNN
from gptjax.program import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What was measured; bytes are one device's. Without a module, the compiler refused: the memory is too small."""

    flops: int
    """Of all devices, in the traced step."""
    peak_bytes: int
    param_bytes: int
    optimizer_bytes: int
    argument_bytes: int
    temp_bytes: int | None
    """What lies beside the arguments at the peak."""
    module: hlo.Module | None
    seconds: float


def compile_step(program: Program) -> Compiled:
    """Traces, lowers and compiles the training step."""
    start, platform = time.perf_counter(), program.layout.platform
    with _any_cudnn():
        traced = program.trace_train_step()
        lowered = traced.lower(lowering_platforms=(platform,))
    param_bytes = device_bytes(program.abstract.params)
    optimizer_bytes = device_bytes(program.abstract.opt_state)
    options = {"xla_gpu_autotune_level": "0"} if platform == "cuda" else None  # there is no GPU to time kernels on
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        needed_bytes = _needed_bytes(str(error))
        if needed_bytes is None:
            raise
        argument_bytes, temp_bytes, peak_bytes, module = param_bytes + optimizer_bytes, None, needed_bytes, None
    else:
        memory = compiled.memory_analysis()
        argument_bytes, peak_bytes = memory.argument_size_in_bytes, _peak_bytes(memory, platform)
        temp_bytes, module = peak_bytes - argument_bytes, hlo.parse(compiled.as_text())
    return Compiled(
        flops=count_flops(traced.jaxpr.jaxpr),
        peak_bytes=peak_bytes,
        param_bytes=param_bytes,
        optimizer_bytes=optimizer_bytes,
        argument_bytes=argument_bytes,
        temp_bytes=temp_bytes,
        module=module,
        seconds=time.perf_counter() - start,
    )


def device_bytes(tree: Any) -> int:
    """Returns the bytes of one device's parts of some arrays."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _peak_bytes(memory: Any, platform: str) -> int:
    """Returns the most memory in use at once.

    The TPU compiler overlays what it frees and what it is given to overwrite, and says what that comes to; its other
    figures, added up, count some of it twice. On GPUs and CPUs a program takes its arguments and all its temporaries.
    """
    if platform == "tpu":
        return memory.peak_memory_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + results


def _needed_bytes(message: str) -> int | None:
    """Returns what a program that was refused would need, from the TPU compiler's words; None for other errors."""
    found = re.search(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])", message)
    if "RESOURCE_EXHAUSTED" not in message or found is None:
        return None
    return int(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found[2]])


@contextlib.contextmanager
def _any_cudnn() -> Iterator[None]:
    """Lets attention be lowered for GPUs where there is no cuDNN: of the library, jax asks its version alone."""
    check = fused_attention_stablehlo.check_cudnn_version
    major, minor, patch = CUDNN
    fused_attention_stablehlo.check_cudnn_version = lambda: 10_000 * major + 100 * minor + patch
    try:
        yield
    finally:
        fused_attention_stablehlo.check_cudnn_version = check
