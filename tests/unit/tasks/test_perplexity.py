"""Documents of a text: where they begin, which tokens of them count, and what is measured. Tokens are bytes."""

import math

import numpy as np
import pytest

from gptjax.data.tokenizer import ByteTokenizer
from gptjax.registry import Choice
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Setting
from gptjax.types import UserError

WIKITEXT = " \n = Ant = \n ants , and \n = = Home = = \n = Bee = \n a bee \n"


@pytest.fixture
def task(tmp_path):
    """Makes a task of a file with this text."""

    def make(text, **options):
        path = tmp_path / "text.txt"
        path.write_text(text)
        return build_tasks({"it": Choice("perplexity", {"valid": str(path), **options})}, Setting("", ByteTokenizer()))

    return lambda text, **options: make(text, **options).tasks["it"]


def test_documents_begin_where_it_is_said_and_empty_ones_are_none(task):
    found = task(WIKITEXT, begins="^ = [^=]").examples("valid")
    assert [document.text for document in found] == [
        " = Ant = \n ants , and \n = = Home = = \n",
        " = Bee = \n a bee \n",
    ]
    assert [document.where[-2:] for document in found] == [":2", ":5"]
    assert [document.text for document in task(WIKITEXT).examples("valid")] == [WIKITEXT]


def test_every_token_counts_once_and_the_first_follows_the_end_of_a_text(task):
    it = task("abcdefgh\n")
    (document,) = it.examples("valid")
    first, second, third = it.segments(document, 4)
    assert [first.tokens_T[0], bytes(first.targets_T.tolist())] == [ByteTokenizer.eos_id, b"abcd"]
    assert [bytes(x.targets_T[x.loss_mask_T > 0].tolist()) for x in (second, third)] == [b"efgh", b"\n"]
    assert bytes(third.tokens_T.tolist()) == b"efgh"


def test_figures_are_by_the_words_of_the_file_and_the_bytes_that_are_read(task, tmp_path):
    it = task(WIKITEXT, begins="^ = [^=]", detokenize="wikitext")
    documents = it.examples("valid")
    assert it.plain(documents[0]) == "= Ant =\nants, and\n== Home ==\n"
    predictions = [it.predict(document, [np.full(3, 2.0)]) for document in documents]
    (counts,) = it.counts(documents, predictions)
    words, num_bytes = (3 + 3 + 5 + 3) + (3 + 2 + 2), 29 + 14
    assert counts.values() == pytest.approx(
        {
            "loss": 2.0,
            "perplexity": math.exp(2),
            "word_perplexity": math.exp(12 / words),
            "bits_per_byte": 12 / math.log(2) / num_bytes,
        }
    )
    lines = it.write(tmp_path / "it", it.valid, documents, predictions).read_text().splitlines()
    assert lines[0] == "document\tnats\ttokens\twords\tbytes"
    assert lines[1].split("\t")[1:] == ["6.0000", "3", "14", "29"]


def test_mistakes_are_said(task):
    assert task("x", detokenize="ptb").problems() == ["detokenize='ptb' is unknown; valid: none, wikitext"]
    assert "begins='(' is no regular expression" in task("x", begins="(").problems()[0]
    with pytest.raises(UserError, match="holds no text"):
        task(" \n").examples("valid")
