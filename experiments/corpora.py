"""Real texts for experiments, where the variable GPTJAX_DATA names a folder of them."""

import os


def path(name: str) -> str | None:
    """Returns the path of a text for `data.path`; without GPTJAX_DATA None, which is the standard library's source."""
    folder = os.environ.get("GPTJAX_DATA")
    return None if folder is None else os.path.join(folder, "pretrain", name)


def shakespeare() -> str | None:
    """Tiny Shakespeare (Karpathy 2015): 1.1 MB of plays in one file, of which the last tenth is held out."""
    return path("tinyshakespeare.txt")


def wikitext() -> str | None:
    """The first 162 articles of WikiText-103's training text (Merity et al. 2016): 2.9 MB, the last tenth held out."""
    return path("wikitext-train.txt.gz")
