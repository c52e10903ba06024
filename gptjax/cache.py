"""Where things are kept that can be made again: prepared corpora and compiled programs."""

import os
from pathlib import Path


def cache_home() -> Path:
    """Returns $GPTJAX_CACHE, else gptjax/ in $XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get("GPTJAX_CACHE"):
        return Path(os.environ["GPTJAX_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gptjax"
