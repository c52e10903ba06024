"""Real data for experiments, in a folder that the variable GPTJAX_DATA names."""

import os

from gptjax.types import UserError


def path(name: str) -> str | None:
    """Returns the path of a text for `data.path`; without GPTJAX_DATA None, which is the standard library's source."""
    folder = os.environ.get("GPTJAX_DATA")
    return None if folder is None else os.path.join(folder, name)


def examples(name: str) -> str:
    """Returns the path of a file of examples; raises UserError without GPTJAX_DATA, for nothing stands in for them."""
    found = path(name)
    if found is None:
        raise UserError(f"GPTJAX_DATA is not set; set it to the folder that holds {name}")
    return found


def shakespeare() -> str | None:
    """Tiny Shakespeare (Karpathy 2015): 1.1 MB of plays in one file, of which the last tenth is held out."""
    return path("pretrain/tinyshakespeare.txt")


def wikitext() -> str | None:
    """The first 162 articles of WikiText-103's training text (Merity et al. 2016): 2.9 MB, the last tenth held out."""
    return path("pretrain/wikitext-train.txt.gz")


def novels() -> str | None:
    """Seventeen English novels, 1847 to 1912, of the Computational Stylistics Group: 13.3 MB."""
    return path("pretrain/novels-train.txt.gz")
