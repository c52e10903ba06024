"""Checkpoints: what is kept, what is refused, what is chosen."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.optim.transforms import AverageState
from gptjax.train.checkpoint import Checkpoints
from gptjax.train.state import TrainState
from gptjax.types import UserError


def state(step):
    return TrainState(jnp.asarray(step, jnp.int32), {"w": jnp.full(1000, float(step))}, {"m": jnp.ones(3) * step})


def laid_out(state):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state)


def abstract():
    return laid_out(state(0))


def saved(path, losses, keep=2):
    checkpoints = Checkpoints(path, keep=keep)
    for step, loss in losses.items():
        checkpoints.save(state(step), step, 8 * step, {"identity": {}}, loss)
    checkpoints.wait()
    return checkpoints


def test_the_latest_and_the_best_are_kept(tmp_path):
    checkpoints = saved(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5})
    assert checkpoints.steps() == [2, 4, 5]
    assert (checkpoints.latest(), checkpoints.best()) == (5, (2, 1.0))


def test_the_best_is_still_known_after_a_restart(tmp_path):
    with saved(tmp_path, {1: 1.0, 2: 2.0, 3: 3.0}):
        pass
    checkpoints = saved(tmp_path, {4: 4.0, 5: None})
    assert checkpoints.steps() == [1, 4, 5]
    assert checkpoints.best() == (1, 1.0)


def test_restore_gives_state_cursor_and_meta(tmp_path):
    checkpoints = saved(tmp_path, {7: None})
    restored, cursor = checkpoints.restore(7, abstract())
    assert (int(restored.step), cursor) == (7, 56)
    np.testing.assert_array_equal(restored.params["w"], state(7).params["w"])
    assert checkpoints.meta(7) == {"step": 7, "identity": {}}


def test_parameters_alone(tmp_path):
    params = saved(tmp_path, {7: None}).restore_params(7, abstract().params)
    np.testing.assert_array_equal(params["w"], state(7).params["w"])


def test_where_an_average_is_kept_it_is_what_others_get(tmp_path):
    """To evaluate, to sample from or to start with; a run that goes on gets its parameters."""
    averaged = AverageState(optax.EmptyState(), {"w": jnp.full(1000, 0.5)}, jnp.ones((), jnp.int32))
    whole = state(3)._replace(opt_state=averaged)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(whole, 3, 24, {}, None)
    alone = Checkpoints(tmp_path, read_only=True).restore_params(3, abstract().params)
    np.testing.assert_array_equal(alone["w"], 0.5)
    restored, _ = Checkpoints(tmp_path, read_only=True).restore(3, laid_out(whole))
    np.testing.assert_array_equal(restored.params["w"], 3.0)
    np.testing.assert_array_equal(restored.evaluation_params["w"], 0.5)


def test_a_save_is_not_changed_by_what_comes_after(tmp_path):
    """The state may be donated as soon as save returns."""
    checkpoints = Checkpoints(tmp_path)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    current = state(3)
    checkpoints.save(current, 3, 0, {}, None)
    overwrite(current)
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore(3, abstract())[0].params["w"], state(3).params["w"])


def test_a_torn_save_is_never_chosen(tmp_path):
    """A folder that was not committed is no checkpoint, and opening sweeps it away."""
    with saved(tmp_path, {1: None}):
        pass
    torn = tmp_path / "2.orbax-checkpoint-tmp"
    (torn / "params").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(state(2), 2, 0, {}, None)
    assert not torn.exists()


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_an_unreadable_checkpoint_names_its_folder_and_the_cure(tmp_path, damage):
    with saved(tmp_path, {1: None, 2: None}):
        pass
    for file in Path(tmp_path / "2" / "params").rglob("d/*"):  # where the arrays' values are
        os.truncate(file, 10) if damage == "truncate" else file.unlink()
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match=r"/2 cannot be read .* remove it to go on from step 1"):
        checkpoints.restore(2, abstract())


def test_a_full_disk_is_said_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, {1: None})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(UserError, match=r"No space left on device.*committed steps: 1"):
        checkpoints.save(state(2), 2, 0, {}, None)
    assert checkpoints.latest() == 1
