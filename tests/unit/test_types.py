"""Streams of randomness."""

import subprocess
import sys

import jax

from gptjax.types import stream_key


def test_streams_and_steps_differ_and_repeat():
    keys = [stream_key(0, "init", 0), stream_key(0, "dropout", 0), stream_key(0, "init", 1), stream_key(1, "init", 0)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 4
    assert jax.random.key_data(stream_key(0, "init", 0)).tolist() == jax.random.key_data(keys[0]).tolist()


def test_a_stream_is_the_same_in_another_process():
    code = (
        "import jax; from gptjax.types import stream_key; print(jax.random.key_data(stream_key(7, 'init', 3)).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == str(jax.random.key_data(stream_key(7, "init", 3)).tolist())


def test_importing_the_package_does_not_import_jax():
    code = "import sys, gptjax; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
