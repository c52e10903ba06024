"""Units of text into tokens, in one process and in several."""

import os
import signal

import numpy as np
import pytest

from gptjax.data import units as module
from gptjax.data.bpe import BPETokenizer
from gptjax.data.scored_bpe import scored_bpe
from gptjax.data.text import Piece
from gptjax.data.tokenizer import ByteTokenizer, CharTokenizer
from gptjax.data.units import Unit, tokenize, tokenized, units
from gptjax.types import UserError


def test_units_keep_pieces_in_order_and_are_as_long_as_they_should(monkeypatch):
    monkeypatch.setattr(module, "UNIT_CHARS", 10)
    pieces = [Piece("x" * n, ends=n % 2 == 0) for n in (3, 4, 5, 12, 1, 1)]
    made = list(units(iter(pieces)))
    assert [list(map(len, unit.texts)) for unit in made] == [[3, 4, 5], [12], [1, 1]]
    assert [end for unit in made for end in unit.ends] == [piece.ends for piece in pieces]


def test_a_document_ends_with_the_end_token_and_its_place_is_kept():
    tokens = tokenize(ByteTokenizer(), Unit(["ab", "c", "dé"], [False, True, True]))
    assert tokens.ids_L.tolist() == [*b"abc", 256, *"dé".encode(), 256]
    assert tokens.ids_L.dtype == np.dtype("<u2")
    assert tokens.ends.tolist() == [4, 8]
    assert tokens.counts == {"documents": 2, "characters": 5, "bytes": 6}


def test_without_an_end_token_the_place_alone_is_kept():
    tokens = tokenize(CharTokenizer("abc"), Unit(["ab", "c", "b"], [False, True, False]))
    assert tokens.ids_L.tolist() == [0, 1, 2, 1]
    assert tokens.ends.tolist() == [3]


@pytest.fixture
def saved(tmp_path):
    ByteTokenizer().save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("first", [0, 3])
def test_workers_give_the_same_tokens_in_the_same_order(saved, first):
    made = [Unit([chr(97 + i) * (40 - i)], [True]) for i in range(12)]
    results = []
    for workers in (1, 2):
        with tokenized(saved, ByteTokenizer(), workers) as tokens_of:
            results.append([(t.ids_L.tolist(), t.ends.tolist(), t.counts) for t in tokens_of(iter(made), first)])
    assert len(results[0]) == 12 - first
    assert results[0] == results[1]


def test_few_units_are_under_way_at_a_time(saved):
    """So that memory does not grow with the text, however slow the taker is."""
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield Unit(["x"], [True])

    with tokenized(saved, ByteTokenizer(), 2) as tokens_of:
        tokens = tokens_of(endless(), 0)
        for _ in range(5):
            next(tokens)
        assert read <= 5 + 2 * 2


def test_a_killed_worker_is_a_plain_error(saved):
    def units_that_kill():
        yield Unit(["x"], [True])
        children = module.multiprocessing.active_children()
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        while True:
            yield Unit(["x"], [True])

    with (
        pytest.raises(UserError, match=r"worker process was killed.*--workers"),
        tokenized(saved, ByteTokenizer(), 2) as tokens_of,
    ):
        list(tokens_of(units_that_kill(), 0))


@pytest.mark.parametrize("end", ["</s>", "<s>"])
def test_documents_begin_with_their_token_and_one_that_goes_on_does_not(end):
    """Where it is the end too, one stands between two documents; a space in front is for beginnings."""
    tokens = ["<s>", "</s>", "a", " a", " "]
    library = scored_bpe(tokens, [0.0] * 5, special=tokens[:2], space=" ")
    tokenizer = BPETokenizer(library, eos=end, bos="<s>")
    made = tokenize(tokenizer, Unit(["a", "a", "aa"], [True, True, False], continues=True))
    bos, eos = [0] * (end == "</s>"), tokenizer.eos_id
    assert made.ids_L.tolist() == [2, eos, *bos, 3, eos, *bos, 3, 2]
    assert made.ends.tolist() == [2, 4 + len(bos)]


def test_units_know_whether_they_go_on_with_a_document(monkeypatch):
    monkeypatch.setattr(module, "UNIT_CHARS", 2)
    made = list(units(iter([Piece("ab", ends=False), Piece("cd", ends=True), Piece("ef", ends=True)])))
    assert [unit.continues for unit in made] == [False, True, False]
