"""What docs/formats.md shows is read, written and printed as it says."""

import re
from pathlib import Path

import pytest

from gptjax.data import conll, propbank, records
from gptjax.tasks import spans

PAGE = (Path(__file__).parents[2] / "docs/formats.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
TSV, JSONL, TXT, CONLL, ROLES = (text for kind, text in BLOCKS if not kind)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Holds the files of the page."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("reviews.tsv", TSV), ("papers.jsonl", JSONL), ("t.txt", TXT), ("n", CONLL), ("r", ROLES)):
        Path(name).write_text(text)
    Path("valid.en").write_text("a\nb\n")
    Path("valid.de").write_text("A\nB\n")


def test_the_code_runs_and_gives_what_it_says():
    """A comment behind an expression is its value, where it is a literal."""
    names = {**vars(records), "translations": ["x", "y"]}
    codes = [text.replace(".gz", "") for kind, text in BLOCKS if kind == "python"]
    assert len(codes) == 3
    for code in codes:
        exec(code, names)
        for shown, comment in re.findall(r"^(\S.*?) +# ('.*)$", code, re.MULTILINE):
            assert repr(eval(shown, names)) == f"({comment})"
    assert Path("guess.tsv").read_text() == TSV.replace("\t1", "\t0")
    assert Path("guess.de").read_text() == "x\ny\n"
    one, two = records.read_records("papers.jsonl", {"target": "target"})
    assert (len(one.texts("target")), len(two.texts("target"))) == (2, 1)


def test_the_other_files_are_read():
    labels = [record.text("label") for record in records.read_records("t.txt", {"label": "class", "text": "rest"})]
    assert labels == ["HUM", "DESC"]
    (sentence,) = conll.read_conll("n")
    assert spans.read_spans(sentence.tags, spans.detect_scheme([sentence.tags])) == [conll.Span(0, 2, "LOC")]
    (sentence,) = propbank.read_propbank("r")
    assert [len(proposition.roles) for proposition in sentence.propositions] == [2, 1]


def test_the_table_of_scores_names_every_function_and_name():
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    from gptjax.tasks import label_scores, perplexity, span_scores, text_scores

    found = [
        label_scores.single_label(["a"], ["a"]),
        label_scores.several_labels([["a"]], [["a"]]),
        span_scores.tag_spans([["B-a"]], [["B-a"]], "BIO"),
        span_scores.roles([[conll.Span(0, 1, "ARG0")]], [[]]),
        text_scores.bleu([["a"]], ["a"]),
        text_scores.chrf([["a"]], ["a"]),
        text_scores.rouge([["a"]], ["a"]),
        text_scores.exact_match([["a"]], ["a"]),
        perplexity.perplexities([1.0], [1], [1], [1]),
    ]
    for counts in found:
        for name in counts.values():
            assert f"`{name}`" in PAGE or "/" in name, name
