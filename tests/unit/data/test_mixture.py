"""The order of windows."""

import numpy as np
import pytest

from gptjax.data.mixture import order


def take(places, count, start=0):
    return [int(places[i]) for i in range(start, start + count)]


def test_each_epoch_is_another_permutation():
    places = order([50], [1.0], seed=3)
    epochs = [take(places, 50, start) for start in (0, 50, 100)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert len({tuple(epoch) for epoch in [*epochs, range(50)]}) == 4


def test_a_place_is_a_function_of_the_seed_alone():
    assert take(order([50], [1.0], 3), 120) == take(order([50], [1.0], 3), 120)
    assert take(order([50], [1.0], 3), 50) != take(order([50], [1.0], 4), 50)


def test_neighbouring_seeds_share_no_epoch():
    """The second epoch of a seed is not the first of the next."""
    assert take(order([50], [1.0], 3), 50, 50) != take(order([50], [1.0], 4), 50)


def test_texts_of_a_mixture_take_turns_by_weight_and_repeat_by_themselves():
    places = np.array(take(order([20, 300], [3.0, 1.0], 0), 400))
    first, second = places[places < 20], places[places >= 20]
    assert abs(len(first) - 300) <= 2
    for epoch in first[:300].reshape(15, 20):
        assert sorted(epoch) == list(range(20))
    assert len(set(second)) == len(second)
    assert second.max() < 320
    # evenly, not in blocks
    assert abs((places[:40] < 20).sum() - 30) <= 1


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1e-3, 1.0), (5.0, 5.0)])
def test_weights_are_kept_to_a_hundredth(weights):
    places = np.array(take(order([1000, 1000], weights, 0), 3000))
    assert (places < 1000).mean() == pytest.approx(weights[0] / sum(weights), rel=0.02, abs=1e-3)
