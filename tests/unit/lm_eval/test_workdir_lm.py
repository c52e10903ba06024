"""A workdir's model answers the harness as the model itself would: log-probabilities, windows, and what it writes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from gptjax import model
from gptjax.data.bpe import BPETokenizer
from gptjax.data.tokenizer import ByteTokenizer, CharTokenizer
from gptjax.interop.imports import write_model
from gptjax.model.config import ModelConfig
from gptjax.sample.config import SampleConfig
from gptjax.sample.generate import generate, sample_text
from gptjax.tasks.multiple_choice import MultipleChoice
from gptjax.tasks.task import Setting
from gptjax.types import UserError
from tests import pretrained

pytest.importorskip("lm_eval", reason="the extra `lm-eval` is not installed")

import lm_eval.api.registry
from lm_eval.api.instance import Instance
from lm_eval.utils import get_rolling_token_windows

from gptjax.lm_eval import workdir_lm
from gptjax.lm_eval.workdir_lm import SEED, WorkdirLM, sample_config

CFG = ModelConfig(vocab_size=pretrained.VOCAB_SIZE, d_model=16, num_layers=2, num_heads=4, seq_len=64)
END = "<|endoftext|>"
apply = jax.jit(model.apply, static_argnums=0)


def with_bos():
    """A tokenizer whose texts begin with a token, as Llama's do."""
    library = Tokenizer.from_str(json.dumps(pretrained.tokenizer().settings()["tokenizer"]))
    return BPETokenizer(library, bos=END)


TOKENIZERS = {
    "byte": ByteTokenizer,
    "char": lambda: CharTokenizer("".join(sorted(set("the cat sat on mat;dog.")))),
    "bpe": pretrained.tokenizer,
    "bpe_bos": with_bos,
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Gives the harness's view of a model of random weights with a tokenizer."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def make(name="bpe", **options) -> WorkdirLM:
        if name not in made:
            tokenizer = TOKENIZERS[name]()
            params = jax.tree.map(lambda x: 6 * x, model.init_params(CFG, jax.random.key(1)))
            write_model(folder / name, CFG, params, tokenizer, imported_from="a test")
            made[name] = str(folder / name)
        return WorkdirLM(made[name], **options)

    return make


def requests(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def logprob(lm, row, start):
    """The log-probability of a row's tokens from `start` on, by the whole model, and whether they are greedy."""
    inputs_T = jnp.zeros(CFG.seq_len, int).at[: len(row) - 1].set(jnp.array(row[:-1]))
    logits_TV = apply(lm.cfg, lm.params, inputs_T[None])[0][0, start - 1 : len(row) - 1]
    targets_T = np.array(row[start:])
    logprob_T = jax.nn.log_softmax(logits_TV)[np.arange(len(targets_T)), targets_T]
    return float(logprob_T.sum()), bool((logits_TV.argmax(-1) == targets_T).all())


@pytest.mark.parametrize(("name", "begin"), [("byte", []), ("char", []), ("bpe", []), ("bpe_bos", [0])])
def test_continuations_are_scored_after_their_contexts(make, name, begin):
    """Texts begin as in training; a space at the end of a context belongs to the continuation."""
    lm = make(name, batch_size=2)
    encode = lm.tokenizer.encode
    pairs = [("the cat", " sat"), ("the cat sat on ", "the mat"), ("the dog", " sat on the mat; the dog")]
    answers = lm.loglikelihood(requests("loglikelihood", *pairs))
    for (context, continuation), answer in zip(pairs, answers, strict=True):
        row = [*begin, *encode(context + continuation)]
        expected = logprob(lm, row, len(begin) + len(encode(context.rstrip())))
        assert answer == (pytest.approx(expected[0], rel=1e-4), expected[1])


@pytest.mark.parametrize(("name", "first"), [("byte", 256), ("char", 0), ("bpe", 0), ("bpe_bos", 0)])
def test_an_empty_context_is_the_beginning_of_a_text(make, name, first):
    """Or, where a tokenizer has no token for it, the end of the document before; white space alone is no context."""
    lm = make(name)
    (empty,) = lm.loglikelihood(requests("loglikelihood", ("", "the mat")))
    assert empty[0] == pytest.approx(logprob(lm, [first, *lm.tokenizer.encode("the mat")], 1)[0], rel=1e-4)
    (white,) = lm.loglikelihood(requests("loglikelihood", (" ", "the mat")))
    assert white[0] == pytest.approx(logprob(lm, [first, *lm.tokenizer.encode(" the mat")], 1)[0], rel=1e-4)
    assert lm.loglikelihood(requests("loglikelihood", ("the", ""))) == [(0.0, True)]


def test_a_token_that_would_span_the_border_is_split(make):
    """`the` is a token: after `th` comes an `e` of its own, not nothing."""
    lm = make("bpe")
    before, after = list(lm.tokenizer.encode("on th")), list(lm.tokenizer.encode("e cat"))
    assert list(lm.tokenizer.encode("on the cat"))[: len(before)] != before
    (answer,) = lm.loglikelihood(requests("loglikelihood", ("on th", "e cat")))
    assert answer[0] == pytest.approx(logprob(lm, before + after, len(before))[0], rel=1e-4)


def test_a_long_context_keeps_its_end(make):
    lm = make("byte")
    row = list(lm.tokenizer.encode("the dog sat on the log; " * 5 + "the cat"))
    (answer,) = lm.loglikelihood(requests("loglikelihood", ("the dog sat on the log; " * 5 + "the", " cat")))
    assert answer[0] == pytest.approx(logprob(lm, row[-65:], 61)[0], rel=1e-4)


@pytest.mark.parametrize(("name", "first"), [("byte", 256), ("bpe", 0), ("bpe_bos", 0)])
def test_whole_texts_are_scored_in_the_harness_s_windows(make, name, first):
    lm = make(name, batch_size=3)
    texts = ["", "the cat", "the dog sat on the log; " * 20]
    answers = lm.loglikelihood_rolling(requests("loglikelihood_rolling", *[(text,) for text in texts]))
    for text, answer in zip(texts, answers, strict=True):
        found = get_rolling_token_windows(lm.tokenizer.encode(text).tolist(), first, lm.cfg.seq_len, 1)
        expected = [logprob(lm, [*inputs, targets[-1]], len(inputs) + 1 - len(targets))[0] for inputs, targets in found]
        assert answer == pytest.approx(sum(expected), rel=1e-4)


def test_texts_are_those_of_sampling(make):
    """Each context with its own rules, until its stop string; drawn texts depend on the request's number alone."""
    lm = make("bpe", batch_size=2)
    contexts = ["the cat", "the dog sat on the log; the", "", "the mat"]
    greedy = {"until": ["zzz"], "max_gen_toks": 20}
    drawn = {"max_new_tokens": 5, "temperature": 1.0, "do_sample": True}
    kwargs = [greedy, greedy, {**greedy, "max_gen_toks": 7, "until": None}, drawn]
    texts = lm.generate_until(requests("generate_until", *zip(contexts, kwargs, strict=True)))
    for context, rules, text in zip(contexts[:3], kwargs, texts, strict=False):
        cfg = SampleConfig(temperature=0, max_tokens=rules["max_gen_toks"])
        assert [text] == sample_text(lm.cfg, lm.params, lm.tokenizer, [context], cfg, 0)
    prompt = lm.tokenizer.encode("the mat").tolist()
    rules = SampleConfig(max_tokens=5)
    rows = generate(lm.cfg, lm.params, [prompt], rules, SEED, eos_id=0, vocab_size=lm.tokenizer.vocab_size, numbers=[3])
    assert texts[3] == lm.tokenizer.decode([i for ((*new,),) in rows for i in new], continued=True)

    stop = texts[0][3:5]
    (stopped,) = lm.generate_until(requests("generate_until", ("the cat", {**greedy, "until": stop})))
    assert stopped == texts[0][: texts[0].index(stop)]


def test_a_special_token_s_name_stops_a_text(make, monkeypatch):
    """Special tokens stand for no text, in which their names could be found."""
    lm = make("bpe")
    asked = []
    monkeypatch.setattr(workdir_lm, "stream_rows", lambda *_, ends, **__: asked.append(ends) or [[""]])
    monkeypatch.setattr(lm.tokenizer, "special_tokens", {END: 0, "<|im_end|>": 5})
    lm.generate_until(requests("generate_until", ("the", {"until": ["\n", "<|im_end|>"]}), ("the", {"until": "\n"})))
    assert asked == [{0, 5}, {0}]


def test_a_context_leaves_room_for_what_is_written(make, monkeypatch):
    """As much as the new tokens need, but no more than half of what the model sees."""
    lm = make("byte")
    seen = []
    monkeypatch.setattr(workdir_lm, "stream_rows", lambda *inputs, **_: seen.append(inputs[3]) or [[""]])
    context = "".join(chr(65 + i % 26) for i in range(100))
    for length in (10, 200):
        lm.generate_until(requests("generate_until", (context, {"max_gen_toks": length})))
    assert seen == [[list(context[-54:].encode())], [list(context[-32:].encode())]]


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, {"temperature": 0.0}),
        ({"until": ["\n", ""], "max_gen_toks": 9}, {"temperature": 0.0, "stop": ("\n",), "max_tokens": 9}),
        ({"until": "a", "max_tokens": 3}, {"temperature": 0.0, "stop": ("a",), "max_tokens": 3}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"temperature": 0.5, "do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": True, "top_k": 0}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.0, "num_beams": 2}, {"temperature": 0.0, "num_beams": 2}),
    ],
)
def test_rules_are_translated(kwargs, expected):
    assert sample_config(kwargs) == SampleConfig(**expected)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"untill": "x", "topp": 1}, ["untill", "did you mean until", "topp"]),
        ({"temperature": -1}, ["temperature=-1"]),
        ({"max_gen_toks": 0}, ["max_tokens=0"]),
    ],
)
def test_rules_that_make_no_sense_are_refused(kwargs, words):
    with pytest.raises(UserError) as caught:
        sample_config(kwargs)
    assert all(word in str(caught.value) for word in ["generation_kwargs", *words])


def test_the_harness_makes_it_by_name(make):
    """With the harness's own arguments; and its own models are still known."""
    folder = make("byte").get_model_info()["workdir"]
    harness_class = lm_eval.api.registry.get_model("gptjax")
    lm = harness_class.create_from_arg_string(f"workdir={folder},step=0", {"batch_size": "4", "device": None})
    assert (lm.batch_size, lm.get_model_info()["step"]) == (4, 0)
    assert lm.get_model_info()["model_num_parameters"] == model.num_params(lm.cfg)
    assert lm_eval.api.registry.get_model("dummy")
    with pytest.raises(UserError, match="batch_size=auto is no number"):
        make("byte", batch_size="auto")


@pytest.mark.parametrize("name", ["byte", "bpe_bos"])
def test_choices_are_scored_as_by_the_task_multiple_choice(make, tmp_path, name):
    lm = make(name)
    questions = [("the cat sat on the", ["mat", "log and the log"]), ("the dog sat on the log; " * 6, ["cat", "dog"])]
    text = "".join(json.dumps({"query": query, "choices": both, "gold": 0}) + "\n" for query, both in questions)
    (tmp_path / "questions.jsonl").write_text(text)
    task = MultipleChoice(
        valid=str(tmp_path / "questions.jsonl"), template="{query}\nIs", setting=Setting("questions", lm.tokenizer)
    )
    for example, (query, both) in zip(task.examples("valid"), questions, strict=True):
        expected = []
        for segment in task.segments(example, CFG.seq_len):
            tokens_T, targets_T, is_scored_T = segment[:3]
            row = [*tokens_T, targets_T[-1]]
            expected.append(logprob(lm, row, len(row) - int(is_scored_T.sum())))
        answers = lm.loglikelihood(requests("loglikelihood", *[(f"{query}\nIs", f" {choice}") for choice in both]))
        np.testing.assert_allclose(answers, expected, rtol=1e-4)
