"""Marks for tests that compile for absent chips: without the compiler they are skipped, and say which extra has it."""

import importlib.util

import pytest

_GPU_PLUGINS = [f"jax_cuda{version}_plugin" for version in (12, 13)]

needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu: pip install 'gptjax[tpu]'"
)
needs_gpu_compiler = pytest.mark.skipif(
    not any(importlib.util.find_spec(plugin) for plugin in _GPU_PLUGINS),
    reason="needs the extra plan-gpu: pip install 'gptjax[plan-gpu]'",
)
