"""From files to segments: what a model reads, where a target stands, and what is said of an example that does not fit.

Tokens are bytes, so that texts can be read off them.
"""

import dataclasses
import json

import numpy as np
import pytest

from gptjax.data.tokenizer import ByteTokenizer
from gptjax.registry import Choice
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Heads, Prediction, Setting
from gptjax.types import Batch, UserError

END = ByteTokenizer.eos_id


@pytest.fixture
def task(tmp_path):
    """Makes a task that learns from a file of this text and is scored on it."""

    def make(name, file, content, /, **options):
        path = tmp_path / file
        path.write_text(content)
        choice = Choice(name, {"train": str(path), "valid": str(path), **options})
        return build_tasks({"it": choice}, Setting("", ByteTokenizer())).tasks["it"]

    return make


def only(task, seq_len=64, number=0):
    """Returns the one segment of an example."""
    (segment,) = task.segments(task.examples("train")[number], seq_len)
    return segment


def text_of(ids):
    return bytes(int(i) for i in ids if i != END).decode()


def counted(segment):
    """Returns (text of what was read so far, target) at each counted position."""
    places = np.flatnonzero(segment.loss_mask_T)
    return [(text_of(segment.tokens_T[: place + 1]), int(segment.targets_T[place])) for place in places]


# ---- classification

COLUMNS = {"text": ("0",), "label": "1"}


def test_a_label_is_read_at_the_end_of_its_text(task):
    it = task("classification", "a.tsv", "fine\tgood\ndull\tbad\n", **COLUMNS, template="Review: {text}")
    assert it.classes == ["bad", "good"]
    assert counted(only(it)) == [("Review: fine", 1)]
    assert only(it).tokens_T[-1] == END


def test_a_long_text_is_cut_and_keeps_its_end(task):
    segment = only(task("classification", "a.tsv", "0123456789\tx\n", **COLUMNS), seq_len=6)
    assert text_of(segment.tokens_T) == "01234"
    assert segment.tokens_T[-1] == END


def test_a_template_stays_whole_around_a_text_that_is_cut(task):
    it = task("classification", "a.tsv", "0123456789\tx\n", **COLUMNS, template="say {text}!\n")
    assert text_of(only(it, seq_len=11).tokens_T) == "say 0123!\n"
    with pytest.raises(UserError, match=r"a\.tsv:1: tasks\.it\.template leaves no room within 6 tokens"):
        only(it, seq_len=6)


def test_several_labels_are_an_array(task):
    it = task("classification", "a.tsv", "both\tx,z\nnone\t\nmore\ty\n", **COLUMNS, separator=",")
    assert it.classes == ["x", "y", "z"]
    assert only(it).labels["it.labels"][-1].tolist() == [1, 0, 1]
    assert only(it, number=1).labels["it.labels"][-1].tolist() == [0, 0, 0]


def test_labels_by_number_have_their_names_in_a_file(task, tmp_path):
    (tmp_path / "names.txt").write_text("joy\nfear\nrage")
    it = task("classification", "a.tsv", "b\t2\n", **COLUMNS, label_names=str(tmp_path / "names.txt"))
    assert it.classes == ["0", "1", "2"]


def test_the_auxiliary_loss_weighs_each_text_alike(task):
    """GPT-1's: as a mean over the tokens that have a next one."""
    it = task("classification", "a.tsv", "abc\tx\n", **COLUMNS, lm_weight=0.5)
    np.testing.assert_allclose(only(it).labels["it.next"], [1 / 3, 1 / 3, 1 / 3, 0])
    assert it.unembeds


def test_an_unknown_label_is_said_with_file_and_line(task):
    it = task("classification", "a.tsv", "fine\tgood\nodd\tgodo\n", **COLUMNS, labels=("good", "bad"))
    with pytest.raises(UserError, match=r"a\.tsv:2: the label 'godo' is unknown to tasks\.it; valid: good, bad; mend"):
        it.training_rows(64)


def test_only_the_first_examples(task):
    it = task("classification", "a.tsv", "".join(f"t{i}\tx\n" for i in range(9)), **COLUMNS, train_examples=4)
    assert (len(it.examples("train")), len(it.examples("valid")), len(it.examples("valid", 3))) == (4, 9, 3)


# ---- spans

NAMES = "Ann B-PER\nmet O\nBob B-PER\n\n"


def test_words_stand_twice_and_tags_are_read_at_the_first_sub_word_of_the_second(task):
    it = task("tagging", "a.conll", NAMES)
    assert it.classes == ["O", "B-PER", "I-PER"]
    first = " Ann met Bob\n"
    assert counted(only(it)) == [(f"{first} ", 1), (f"{first} Ann ", 0), (f"{first} Ann met ", 1)]


def test_once_and_at_the_last_sub_word(task):
    it = task("tagging", "a.conll", NAMES, twice=False, sub_word="last", scheme="BIOES")
    tags = [(text, it.classes[target]) for text, target in counted(only(it))]
    assert tags == [(" Ann", "S-PER"), (" Ann met", "O"), (" Ann met Bob", "S-PER")]


def test_words_that_do_not_fit_are_in_no_span(task):
    it = task("tagging", "a.conll", NAMES, twice=False)
    segment = only(it, seq_len=8)
    assert segment.loss_mask_T.sum() == 2
    outputs = np.log(np.full((2, 3), 1 / 3))
    assert it.predict(it.examples("train")[0], [outputs + np.array([0, 1, 0])]).value[-1].end == 2
    with pytest.raises(UserError, match=r"a\.conll:1: no word fits into model\.seq_len=0"):
        only(it, seq_len=0)


def test_the_predicate_stands_in_brackets(task):
    roles = "0\tAnn\tX\t-\t-\t(ARG0*)\n1\tsaw\tX\tsee\tsee.01\t(V*)\n2\tBob\tX\t-\t-\t(ARG1*)\n\n"
    it = task("roles", "a.conll", roles)
    assert text_of(only(it).tokens_T) == " Ann [ saw ] Bob\n Ann [ saw ] Bob"
    assert [it.classes[target] for _, target in counted(only(it))] == ["B-ARG0", "O", "B-ARG1"]


def test_a_span_of_an_unknown_label_is_said_with_file_and_line(task):
    it = task("tagging", "a.conll", NAMES.replace("Bob B-PER", "Bob B-PRE"), labels=("PER",))
    with pytest.raises(UserError, match=r"a\.conll:3: the label of 'B-PRE' is unknown to tasks\.it; valid: O, B-PER"):
        only(it)


# ---- text to text

PAIR = {"source": ("0",), "target": ("1",), "template": "en: {source}\nde:"}


def test_the_answer_and_its_end_alone_are_targets(task):
    segment = only(task("seq2seq", "a.tsv", "red\trot\n", **PAIR))
    assert text_of(segment.tokens_T) == "en: red\nde: rot"
    assert [target for _, target in counted(segment)] == [*b" rot", END]
    assert counted(segment)[0][0] == "en: red\nde:"


def test_a_long_source_is_cut_and_never_the_answer(task):
    it = task("seq2seq", "a.tsv", "0123456789\trot\n", **PAIR, max_tokens=4)
    assert text_of(only(it, seq_len=18).tokens_T) == "en: 012345\nde: rot"
    assert text_of(it.prompt(it.examples("valid")[0], 14)) == "en: 01\nde:"
    with pytest.raises(UserError, match=r"a\.tsv:1: the answer has 5 tokens, which leave no room for its prompt"):
        only(it, seq_len=10)


def test_translations_of_one_source_are_its_references(task):
    it = task("seq2seq", "a.tsv", "hi\thallo\nbye\ttschau\nhi\tservus\n", **PAIR)
    assert len(it.examples("train")) == 3
    assert [(pair.source, pair.targets) for pair in it.examples("valid")] == [
        ("hi", ["hallo", "servus"]),
        ("bye", ["tschau"]),
    ]


# ---- candidates


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_each_choice_follows_the_question(task):
    it = task("multiple_choice", "a.jsonl", jsonl({"query": "1+1=", "choices": ["two", "four"], "gold": 0}))
    segments = it.segments(it.examples("valid")[0], 64)
    assert [text_of([s.tokens_T[0], *s.targets_T]) for s in segments] == ["1+1= two", "1+1= four"]
    assert [int(s.loss_mask_T.sum()) for s in segments] == [4, 5]
    assert not it.has_training


def test_the_loss_is_of_the_right_choice_alone_whatever_the_others_are(task):
    it = task("multiple_choice", "a.jsonl", jsonl({"query": "1+1=", "choices": ["two", "four"], "gold": 0}))
    rows = it.validation_rows(64, None)
    batch = rows.read(np.arange(1))
    logits_BTV = np.random.default_rng(0).standard_normal((1, 64, 257)).astype(np.float32)
    total, count = it.metrics(Heads(lambda x_BTD: x_BTD, lambda *_: None), logits_BTV, batch)["loss"]
    first = rows.places[0]
    logits_TV, targets_T = logits_BTV[0, first.start : first.stop], batch.targets_BT[0, first.start : first.stop]
    nll_T = np.log(np.exp(logits_TV).sum(-1)) - logits_TV[np.arange(len(targets_T)), targets_T]
    assert count == len(" two")
    np.testing.assert_allclose(total, nll_T[-4:].sum(), rtol=1e-5)


def test_shots_stand_before_the_question_with_their_answers(task):
    rows = [{"query": f"Q{i}", "choices": ["yes", "no"], "gold": i % 2, "subject": "ab"[i // 2]} for i in range(4)]
    options = {
        "shots": 1,
        "letters": True,
        "group": "subject",
        "template": "{query}\n{choices}\n>",
        "preamble": "{group}: ",
    }
    it = task("multiple_choice", "a.jsonl", jsonl(*rows), **options)
    first, second = it.segments(it.examples("valid")[3], 99)
    shown = "b: Q2\nA. yes\nB. no\n> A\n\nQ3\nA. yes\nB. no\n>"
    assert text_of([first.tokens_T[0], *first.targets_T]) == f"{shown} A"
    assert text_of([second.tokens_T[0], *second.targets_T]) == f"{shown} B"


class LetterTokenizer(ByteTokenizer):
    """Bytes, and a token for each capital after a space."""

    vocab_size = 257 + 26

    def encode(self, text, *, continued=False):
        is_letter = len(text) == 2 and text[0] == " " and text[1].isupper()
        return np.array([257 + ord(text[1]) - ord("A")]) if is_letter else super().encode(text, continued=continued)


def test_letters_of_one_token_are_read_after_one_context(task):
    rows = jsonl({"query": "1+1=", "choices": ["four", "two", "one"], "gold": 1})
    it = task("multiple_choice", "a.jsonl", rows, letters=True, template="{query}")
    it = dataclasses.replace(it, setting=it.setting._replace(tokenizer=LetterTokenizer()))
    example = it.examples("valid")[0]
    (segment,) = it.segments(example, 64)
    assert counted(segment) == [("1+1=", 257 + 1)]
    logits_BTV = np.random.default_rng(0).standard_normal((1, len(segment.tokens_T), 257 + 26)).astype(np.float32)
    batch = Batch(*(x[None] for x in segment[:3]), np.ones((1, len(segment.tokens_T))), segment.tokens_T[None], {})
    outputs_BTL = np.asarray(it.outputs(Heads(lambda x_BTD: x_BTD, lambda *_: None), logits_BTV, batch))
    prediction = it.predict(example, [outputs_BTL[0][segment.loss_mask_T > 0]])
    probabilities_V = np.exp(logits_BTV[0, -1]) / np.exp(logits_BTV[0, -1]).sum()
    np.testing.assert_allclose(np.exp(prediction.detail[0]), probabilities_V[257:260], rtol=1e-5)
    assert prediction.value == np.argmax(probabilities_V[257:260])


def test_words_of_one_token_share_their_context_and_others_do_not(task):
    words = {"text": ("0",), "label": "1", "words": (("x", "A"), ("y", "B"))}
    it = task("prompted", "a.tsv", "fine\tx\ndull\ty\n", **words)
    assert [len(it.segments(example, 64)) for example in it.examples("valid")] == [2, 2]  # a space and a letter
    it = dataclasses.replace(it, setting=it.setting._replace(tokenizer=LetterTokenizer()))
    assert [counted(*it.segments(example, 64)) for example in it.examples("valid")] == [
        [("fine\nLabel:", 257)],
        [("dull\nLabel:", 258)],
    ]


def test_shots_of_contexts_and_of_cloze_are_shown_with_their_continuation(task):
    rows = jsonl(
        {"query": ["A b", "C b"], "gold": 1, "continuation": "d"}, {"query": ["E", "F"], "gold": 0, "continuation": "g"}
    )
    it = task("multiple_choice", "a.jsonl", rows, choices=None, shots=1)
    assert it.pairs(it.examples("valid")[1]) == [("C b d\n\nE", "g"), ("C b d\n\nF", "g")]
    rows = jsonl({"query": "one two", "continuation": "three"})
    it = task("multiple_choice", "b.jsonl", rows, choices=None, answer="", shots=1)
    assert it.pairs(it.examples("valid")[0]) == [("one two three\n\none two", "three")]


def test_of_a_context_that_is_too_long_the_end_is_kept(task):
    it = task("multiple_choice", "a.jsonl", jsonl({"query": "0123456789", "choices": ["ab"], "gold": 0}))
    (segment,) = it.segments(it.examples("valid")[0], 7)
    assert text_of([segment.tokens_T[0], *segment.targets_T]) == "56789 ab"


def test_a_gold_number_beyond_the_choices_is_said(task):
    it = task("multiple_choice", "a.jsonl", jsonl({"query": "q", "choices": ["a", "b"], "gold": 2}))
    with pytest.raises(UserError, match=r"a\.jsonl:1: gold='2' is none of its 2 candidates, from 0"):
        it.gold(it.examples("valid")[0])


def test_a_cloze_is_right_where_greedy_search_would_write_it(task):
    rows = jsonl({"context": "the cat sat on the", "continuation": "mat"}, {"context": "a", "continuation": "b"})
    it = task("multiple_choice", "a.jsonl", rows, query=("context",), choices=None, answer="")
    examples = it.examples("valid")
    right = it.predict(examples[0], [np.array([[-0.5, 1.0], [-0.5, 1.0]])])
    wrong = it.predict(examples[1], [np.array([[-1.0, 1.0], [-2.0, 0.0]])])
    (counts,) = it.counts(examples, [right, wrong])
    assert counts.values() == pytest.approx({"accuracy": 0.5, "perplexity": np.exp(2.0)})


# ---- conversations and preferences


def test_answers_alone_are_learned_in_all_turns(task):
    messages = [
        {"role": role, "content": content}
        for role, content in (("user", "hi"), ("assistant", "ho"), ("user", "who?"), ("assistant", "me"))
    ]
    it = task("chat", "a.jsonl", jsonl({"m": messages}), messages="m", template="plain")
    segment = only(it)
    learned = text_of(segment.targets_T[segment.loss_mask_T > 0])
    assert "ho" in learned
    assert "me" in learned
    assert "hi" not in learned
    assert "who" not in learned


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x": 1}, r"a\.jsonl:1: the field 'm' holds no messages"),
        ({"m": []}, r"holds no messages"),
        ({"m": [{"role": "user", "content": "hi"}]}, r"the last message is no assistant's"),
    ],
)
def test_what_is_no_conversation_is_said(task, row, message):
    it = task("chat", "a.jsonl", jsonl(row), messages="m", template="plain")
    with pytest.raises(UserError, match=message):
        it.training_rows(64)


def test_a_conversation_that_does_not_fit_is_an_error_or_cut(task):
    row = jsonl({"prompt": "hi", "response": "a long answer"})
    with pytest.raises(UserError, match=r"a\.jsonl:1: the conversation has \d+ tokens and model\.seq_len is 24"):
        only(task("chat", "a.jsonl", row, template="plain"), seq_len=24)
    assert len(only(task("chat", "a.jsonl", row, template="plain", cut=True), seq_len=24).tokens_T) == 24


def test_of_a_question_beyond_the_context_its_end_is_kept_with_the_answer(task):
    row = jsonl({"prompt": "what is " * 9, "response": "yes"})
    whole, cut = (only(task("chat", "a.jsonl", row, template="plain", cut=True), seq_len=n) for n in (128, 24))
    np.testing.assert_array_equal(cut.tokens_T, whole.tokens_T[-24:])
    np.testing.assert_array_equal(cut.loss_mask_T, whole.loss_mask_T[-24:])
    assert 0 < cut.loss_mask_T.sum() < 24


def test_a_pair_has_to_fit_into_one_row(task):
    row = jsonl({"prompt": "hi", "chosen": "yes", "rejected": "no"})
    it = task("preference", "a.jsonl", row, template="plain", loss="simpo")
    chosen, rejected = it.segments(it.examples("train")[0], 64)
    assert "yes" in text_of(chosen.tokens_T)
    assert "no" in text_of(rejected.tokens_T)
    with pytest.raises(UserError, match=r"a\.jsonl:1: the pair has \d+ tokens, which have to fit into one row"):
        it.training_rows(32)


# ---- options


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("classification", {"train": "no.tsv"}, "train='no.tsv' is no file that exists; give the file's path"),
        ("classification", {"weight": -1.0}, "weight=-1.0 is not 0 or more"),
        ("classification", {"template": "x"}, "template='x' must have {text} once"),
        ("classification", {"separator": ""}, "separator='' parts no labels"),
        ("classification", {"labels": ("a", "a")}, "labels=('a', 'a') holds a label twice"),
        ("classification", {"label_names": "no"}, "label_names='no' is no file that exists"),
        ("prompted", {"template": "x"}, "template='x' has no {text}"),
        ("multiple_choice", {"letters": True}, "template='{query}' shows no {choices}"),
        ("tagging", {"scheme": "BILOU"}, "scheme='BILOU' is unknown; valid: BIO, IOB1, BIOES"),
        ("tagging", {"sub_word": "any"}, "sub_word='any' is unknown; valid: first, last"),
        ("seq2seq", {"measures": ("blue",)}, "measures holds 'blue'; valid: bleu, chrf, rouge, exact_match"),
        ("multiple_choice", {"shots": 2}, "shots=2 are taken from train=None"),
        ("preference", {"loss": "ppo"}, "loss='ppo' is unknown; valid: dpo, ipo, simpo, orpo"),
        ("chat", {"measures": ("f1",)}, "measures holds 'f1'"),
    ],
)
def test_options_that_do_not_fit_are_said(name, options, problem):
    it = build_tasks({"it": Choice(name, options)}, Setting("")).tasks["it"]
    assert any(found.startswith(problem) for found in it.problems()), it.problems()


def test_a_task_without_files_says_which_option_to_set():
    it = build_tasks({"it": Choice("tagging")}, Setting("")).tasks["it"]
    with pytest.raises(UserError, match=r"tasks\.it\.valid=None names no file of examples; give one"):
        it.examples("valid")


def test_what_is_no_tag_is_named_with_its_line(task):
    it = task("tagging", "a.conll", "Ann NNP B-PER\n\n", tag=1)
    with pytest.raises(UserError, match=r"a\.conll:1: 'NNP' is no tag of BIO, IOB1, BIOES, .* tasks\.it\.tag=1"):
        it.examples("train")


def test_a_prompt_needs_room_beside_the_longest_answer(task):
    it = task("seq2seq", "a.tsv", "red\trot\n", **PAIR)
    with pytest.raises(UserError, match=r"tasks\.it\.max_tokens=128 leaves no room for a prompt .* model\.seq_len=64"):
        it.prompt(it.examples("valid")[0], 64)


def test_texts_are_written_in_the_order_of_the_file(task, tmp_path):
    """Although those of one source are scored as one."""
    it = task("seq2seq", "a.tsv", "dog\tHund\ncat\tKatze\ndog\tKöter\n", **PAIR)
    examples = it.examples("valid")
    assert [example.targets for example in examples] == [["Hund", "Köter"], ["Katze"]]
    written = it.write(tmp_path / "it", it.valid, examples, [Prediction("DOG"), Prediction("CAT")])
    assert written.read_text() == "dog\tDOG\ncat\tCAT\ndog\tDOG\n"


def test_roles_are_written_beside_sentences_without_a_predicate(task, tmp_path):
    plain = "0\tYes\tX\t-\t-\n\n"
    rows = f"{plain}0\tAnn\tX\t-\t-\t(ARG0*)\n1\tsaw\tX\tsee\tsee.01\t(V*)\n\n{plain}"
    it = task("roles", "a.conll", rows)
    examples = it.examples("valid")
    predictions = [Prediction(it.spans_of(example)) for example in examples]
    assert it.write(tmp_path / "it", it.valid, examples, predictions).read_text().rstrip() == rows.rstrip()


def test_several_labels_are_written_as_they_were_parted(task, tmp_path):
    it = task("classification", "a.tsv", "both\tx;z\n", **COLUMNS, separator=";")
    written = it.write(tmp_path / "it", it.valid, it.examples("valid"), [Prediction(["x", "z"])])
    assert written.read_text() == "both\tx;z\n"


def test_a_message_without_content_is_named_with_its_line(task):
    row = jsonl({"m": [{"role": "user", "content": "hi"}, {"role": "assistant"}]})
    it = task("chat", "a.jsonl", row, messages="m", template="plain")
    with pytest.raises(UserError, match=r"a\.jsonl:1: message 2 has no text as its content"):
        only(it)


def test_files_of_targets_make_a_task_another(task, tmp_path):
    prints = []
    for text in ("rot\n", "Rot\n"):
        (tmp_path / "a.de").write_text(text)
        options = {"train_target": str(tmp_path / "a.de"), "valid_target": str(tmp_path / "a.de")}
        prints.append(task("seq2seq", "a.en", "red\n", **options).fingerprint)
    assert prints[0] != prints[1]
