"""Eight virtual CPU devices, so that meshes are tested on any machine, and golden files.

Most of the time of small tests goes into making programs fast that run once: here they are compiled plainly, and kept
for tests that come later and for the next time. `pytest --cache-clear` forgets them.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.xla_flags import DEVICES, compile_flags

os.environ["JAX_PLATFORMS"] = os.environ.get("GPTJAX_TEST_PLATFORMS", "cpu")
FLAGS = f"{DEVICES}=8 {compile_flags(0)}"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()  # before jax is imported

os.environ.setdefault("MALLOC_ARENA_MAX", "8")  # threads that compile side by side do not wait for each other

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs beside what else pytest remembers; jax reads these variables when it is imported."""
    if getattr(config, "cache", None) is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("programs")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --update-golden."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the reviewed results in tests/golden")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips the tests of a chip that the platform has not."""
    for chip, platform in (("gpu", "cuda"), ("tpu", "tpu")):
        if item.get_closest_marker(chip) and os.environ["JAX_PLATFORMS"] != platform:
            pytest.skip(f"needs a {chip.upper()}; where there is one, set GPTJAX_TEST_PLATFORMS={platform}")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], str]:
    """Gives (name, text) -> the reviewed text of that name, which --update-golden replaces by the new one first."""

    def reviewed(name: str, text: str) -> str:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.relative_to(GOLDEN.parent)} is missing; pytest --update-golden writes it"
        return path.read_text(encoding="utf-8")

    return reviewed
