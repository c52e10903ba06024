"""The order of a long row over devices, and back."""

import numpy as np
import pytest

from gptjax import zigzag


def test_a_device_holds_a_piece_from_the_front_and_its_mirror():
    assert zigzag.order(8, 2).tolist() == [0, 1, 6, 7, 2, 3, 4, 5]
    assert zigzag.order(6, 1).tolist() == list(range(6))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_what_was_spread_comes_back(parts):
    x_BTC = np.arange(2 * 16 * 3).reshape(2, 16, 3)
    spread_BTC = zigzag.spread(x_BTC, parts)
    np.testing.assert_array_equal(spread_BTC, x_BTC[:, zigzag.order(16, parts)])
    np.testing.assert_array_equal(zigzag.gathered(spread_BTC, parts), x_BTC)


def test_every_device_sees_the_same_number_of_keys():
    """A query at place p sees p + 1."""
    seen = (zigzag.order(32, 4) + 1).reshape(4, -1).sum(1)
    assert len(set(seen.tolist())) == 1
