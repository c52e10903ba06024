"""Where the cache is."""

from pathlib import Path

import pytest

from gptjax.cache import cache_home


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GPTJAX_CACHE": "/one", "XDG_CACHE_HOME": "/two"}, "/one"),
        ({"GPTJAX_CACHE": "~/one", "HOME": "/three"}, "/three/one"),
        ({"XDG_CACHE_HOME": "/two"}, "/two/gptjax"),
        ({"HOME": "/three"}, "/three/.cache/gptjax"),
        # Empty is unset, as the XDG specification wants it: a cache in the current folder would surprise.
        ({"GPTJAX_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/three"}, "/three/.cache/gptjax"),
    ],
)
def test_the_variables_have_their_order(monkeypatch, environment, expected):
    for name in ("GPTJAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_home() == Path(expected)
