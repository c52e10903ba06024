"""What XLA has to know of an NVIDIA GPU that is not here: a GpuTargetConfigProto, written from a table of figures.

The figures are the devices' own, as the CUDA runtime reports them; openxla/xla lists the same under
xla/backends/gpu/target_config/specs. Knows no jax.
"""

from typing import NamedTuple

from gptjax.chips import Chip

CUDNN = (9, 10, 0)  # no library is loaded: a version that has every attention kernel


class Target(NamedTuple):
    """A GPU as its compiler sees it; every generation in the table has 65,536 registers and 1,024 threads a block."""

    name: str
    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    clock_ghz: float
    l2_bytes: int
    shared_bytes_per_core: int
    shared_bytes_per_block: int


TARGETS = {
    "a100": Target("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 41943040, 167936, 166912),
    "h100": Target("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 52428800, 233472, 232448),
    "h200": Target("NVIDIA H200 141GB HBM3e", (9, 0), 132, 128, 1.98, 52428800, 233472, 232448),
    "b200": Target("NVIDIA B200", (10, 0), 148, 128, 1.965, 132644864, 233472, 232448),
}


def target_config(chip: Chip) -> str:
    """Returns the description of a GPU in the table as the protocol buffer's text."""
    target = TARGETS[chip.name]
    major, minor = target.capability
    accelerated = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    version = "major: {} minor: {} patch: {}".format(*CUDNN)
    return f"""\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {target.shared_bytes_per_core}
  shared_memory_per_block_optin: {target.shared_bytes_per_block}
  threads_per_core_limit: 2048
  core_count: {target.cores}
  fpus_per_core: {target.fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {int(chip.hbm_bandwidth)}
  device_memory_size: {int(chip.hbm_bytes)}
  l2_cache_size: {target.l2_bytes}
  clock_rate_ghz: {target.clock_ghz}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {accelerated} }}
  dnn_version: "{".".join(map(str, CUDNN))}"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
}}
platform_name: "CUDA"
dnn_version_info {{ {version} }}
device_description_str: "{target.name}"
"""
