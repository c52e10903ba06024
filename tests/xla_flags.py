"""How programs are compiled that run once: compiling takes most of the time of a test. Imports no jax."""

import importlib.metadata

DEVICES = "--xla_force_host_platform_device_count"
# Loops that the older of two emitters writes compile in half the time; jax 0.11 has the newer one alone.
_EMITTER = ("--xla_cpu_use_fusion_emitters=false",) * importlib.metadata.version("jax").startswith("0.10.")


def compile_flags(level: int) -> str:
    """Returns XLA_FLAGS for a level of optimisation: 0 for a few steps, 1 for programs that several runs share."""
    return " ".join((f"--xla_backend_optimization_level={level}", *_EMITTER))
