"""Where the cache is; tests/unit/data/test_sources.py has the order of the variables."""

from pathlib import Path

from gptjax.cache import cache_home


def test_an_empty_xdg_variable_is_none(monkeypatch):
    """As the XDG base directory specification wants it; a cache in the current folder would surprise."""
    monkeypatch.delenv("GPTJAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_home() == Path("/home/someone/.cache/gptjax")
