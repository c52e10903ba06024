"""Which steps a trace holds."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from gptjax.train.config import ProfileConfig
from gptjax.train.profile import Profiler


def run(directory, steps, error=None, first=1):
    """A run until step 5 whose steps are annotated by their numbers; it ends with an error where one is given."""
    with Profiler(ProfileConfig(steps=steps), directory) as profiler:
        for step in range(first, 6):
            profiler.before(step)
            with jax.profiler.TraceAnnotation(f"step-{step}"):
                result = jnp.ones(3) * step
            profiler.after(step, result)
        if error is not None:
            raise error


def traced(directory):
    """Returns the steps in each trace in a directory."""
    found = []
    for path in sorted(directory.glob("plugins/profile/*/*.trace.json.gz")):
        names = [event.get("name", "") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
        found.append(sorted({int(name.removeprefix("step-")) for name in names if name.startswith("step-")}))
    return found


@pytest.mark.parametrize(("steps", "expected"), [((2, 4), [2, 3, 4]), ((3,), [3]), ((1, 1), [1])])
def test_the_trace_holds_the_steps_that_are_named(tmp_path, steps, expected):
    """In the folder where TensorBoard looks for it."""
    run(tmp_path, steps)
    assert traced(tmp_path) == [expected]


def test_a_run_that_resumes_within_traces_what_is_left(tmp_path):
    run(tmp_path, (2, 4), first=3)
    assert traced(tmp_path) == [[3, 4]]


def test_nothing_is_traced_where_no_step_is_named_or_reached(tmp_path):
    run(tmp_path, ())
    run(tmp_path, (7, 9))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [None, ValueError()])
@pytest.mark.slow
def test_a_run_that_ends_within_keeps_its_trace_and_stops_tracing(tmp_path, error):
    """jax has one trace at a time: one that was left open would fail the next."""
    if error is None:
        run(tmp_path / "a", (4, 9))
    else:
        with pytest.raises(ValueError):
            run(tmp_path / "a", (4, 9), error=error)
    assert traced(tmp_path / "a") == [[4, 5]]
    run(tmp_path / "b", (1,))
    assert traced(tmp_path / "b") == [[1]]
