"""Perplexities by hand, and WikiText as people would write it."""

import math

import numpy as np
import pytest

from gptjax.tasks.perplexity_scores import count_words, detokenize_wikitext, perplexities


def test_sums_are_divided_by_sums():
    found = perplexities(np.array([10.0, 20.0]), [5, 10], [4, 6], [20, 30]).values()
    assert found == pytest.approx(
        {
            "loss": 2,
            "perplexity": math.exp(2),
            "word_perplexity": math.exp(3),
            "bits_per_byte": 30 / math.log(2) / 50,
        }
    )


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (" = Homarus gammarus = ", "= Homarus gammarus ="),
        (" = = Life cycle = = ", "== Life cycle =="),
        (" = = = A = b = = = ", "=== A = b ==="),
        (
            " red @-@ tipped , 3 @,@ 462 t ( 79 % ) , 0 @.@ 7 – 2 @.@ 2 kg . ",
            "red-tipped, 3,462 t (79%), 0.7 – 2.2 kg.",
        ),
        (' the " crusher " , and " lobster red " on ', 'the "crusher", and "lobster red" on'),
        (" the lobster 's claws can 't ; Linnaeus ' concept ", "the lobster's claws can't; Linnaeus' concept"),
        (" $ 10 million and £ 5 : why ? Yes ! [ 1 ] ", "$10 million and £5: why? Yes! [1]"),
        (" the <unk> ' practice ", "the <unk> ' practice"),
        ("", ""),
    ],
)
def test_wikitext_becomes_plain_text(tokens, text):
    assert detokenize_wikitext(tokens) == text


def test_lines_stay_lines_and_plain_text_stays_as_it_is():
    text = detokenize_wikitext(" \n = A = \n \n It 's , well , so . \n")
    assert text == "\n= A =\n\nIt's, well, so.\n"
    assert detokenize_wikitext(text) == text


def test_words_are_counted_with_the_ends_of_lines():
    assert count_words(" a b \n c \n") == 5
    assert count_words(" a b \n c \n", line_ends=False) == 3
