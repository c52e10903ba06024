"""Conversations as tokens: special tokens, the mask of answers, templates of several families."""

import itertools

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

pytest.importorskip("jinja2", reason="the extra `interop` is not installed")

from gptjax.data.bpe import BPETokenizer
from gptjax.data.chat import TEMPLATES, Chat
from gptjax.data.scored_bpe import scored_bpe
from gptjax.data.tokenizer import ByteTokenizer, CharTokenizer
from gptjax.types import UserError

SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]"]
CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FAMILIES = {
    "chatml": (CHATML, "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n"),
    "llama2": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "<s>[INST] A [/INST][ B </s>]",
    ),
    "trimmed": (
        "{% for m in messages %}{{ m.role + ': ' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        "user: A<|im_end|>\nassistant: [B<|im_end|>]\n",
    ),
    "thinking": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{{ '<think>\n\n</think>\n\n' + m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\nB<|im_end|>]\n",
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ '>' + m.content + '\n' }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
        "A[>B\n]",
    ),
}


def tokenizer(**named):
    """Letters as tokens, beside special ones, with a merge across what may be a border."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġ[", "ĊĊ", "ĠB", "Hi"]
    vocab = {token: i for i, token in enumerate([*SPECIAL, *letters, *words])}
    library = tokenizers.Tokenizer(models.BPE(vocab, [("Ġ", "["), ("Ċ", "Ċ"), ("Ġ", "B"), ("H", "i")]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(SPECIAL)
    return BPETokenizer(library, **named)


LETTERS = tokenizer(eos="</s>", bos="<s>")


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def spelled(ids, of=LETTERS):
    """The text of some ids, special tokens by their names."""
    names = {i: name for name, i in of.special_tokens.items()}
    return b"".join(names[i].encode() if i in names else of.pieces[i] for i in map(int, ids)).decode()


def shown(encoded, of=LETTERS):
    """A conversation with its answers in brackets."""
    stretches = itertools.groupby(zip(encoded.answers_L.tolist(), encoded.ids_L.tolist(), strict=True), lambda x: x[0])
    texts = [(answer, spelled([i for _, i in stretch], of)) for answer, stretch in stretches]
    return "".join(f"[{text}]" if answer else text for answer, text in texts)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_of_several_turns(name):
    template, expected = FAMILIES[name]
    chat = Chat(LETTERS, template)
    assert shown(chat.encode([user("A"), assistant("B")])) == expected
    twice = [user("A"), assistant("B"), user("A2"), assistant("")]
    assert shown(chat.encode(twice)) == expected + expected.replace("A", "A2").replace("B", "")


@pytest.mark.parametrize("name", [*FAMILIES, *TEMPLATES])
def test_training_sees_the_tokens_that_answering_does(name):
    """The prompt's ids are the beginning of the conversation's, up to the answer."""
    chat = Chat(LETTERS, FAMILIES[name][0] if name in FAMILIES else name)
    messages = [user("A"), assistant("B\n"), user(" [C")]
    encoded = chat.encode([*messages, assistant(" Hi ")])
    last = np.flatnonzero(np.diff(encoded.answers_L, prepend=False) & encoded.answers_L)[-1]
    assert encoded.ids_L[:last].tolist() == chat.prompt(messages)


def test_a_conversation_is_what_the_library_makes_of_its_text():
    """Token for token, where no content spells a special token: the template's text is not cut up around contents."""
    library = tokenizers.Tokenizer.from_str(str(LETTERS._library.to_str()))
    library.encode_special_tokens = False
    text = "<|im_start|>user\n\nA [<|im_end|>\n<|im_start|>assistant\n"
    assert Chat(LETTERS, CHATML).prompt([user("\nA [")]) == library.encode(text, add_special_tokens=False).ids


CHATS = {name: Chat(LETTERS, FAMILIES[name][0] if name in FAMILIES else name) for name in (*FAMILIES, *TEMPLATES)}
PIECES = [*SPECIAL, "<|im", "_end|>", "<", ">", "s>", " ", "\n", "x", "\x1c", "\x1d", "\U000f0001", "é"]


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(st.sampled_from(PIECES), max_size=10),
    said=st.lists(st.sampled_from(["</s>", "<", "|>", " ", "y", "\U000f0000\U000f0002"]), max_size=6),
    name=st.sampled_from(list(CHATS)),
)
def test_messages_never_become_special_tokens(parts, said, name):
    """As many special tokens stand in it as without them, wherever a template puts the contents; all text is there."""
    chat = CHATS[name]
    content, answer = "".join(parts), "".join(said)
    ids = chat.encode([user(content), assistant(answer)]).ids_L
    bare = chat.encode([user("x"), assistant("y")]).ids_L
    assert sum(i < len(SPECIAL) for i in ids) == sum(i < len(SPECIAL) for i in bare)
    assert content.strip() in spelled(ids)
    assert answer.strip() in spelled(ids)


def test_neither_do_roles_and_other_fields():
    template = "{% for m in messages %}{{ m.role + m.name + m.tools[0].text + m.content }}{% endfor %}"
    message = {"role": "</s>", "name": "<s>", "tools": [{"text": "[INST]"}], "content": "x"}
    ids = Chat(LETTERS, template).prompt([message])
    assert min(ids) >= len(SPECIAL)
    assert spelled(ids) == "</s><s>[INST]x"


def test_a_special_token_is_not_made_of_a_template_and_a_message():
    template = "{% for m in messages %}{{ '<' + m.content + '/s>' }}{% endfor %}"
    chat = Chat(LETTERS, template)
    for content in ("/s>", "s>", "<"):
        ids = chat.prompt([user(content)])
        assert min(ids) >= len(SPECIAL)
        assert spelled(ids) == f"<{content}/s>"


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_text_behind_a_special_token_begins_as_the_library_has_it(scheme):
    vocab = {token: i for i, token in enumerate(["[INST]", "<s>", "▁", "a", "▁a"])}
    library = tokenizers.Tokenizer(models.BPE(vocab, [("▁", "a")]))
    library.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    library.add_special_tokens(["[INST]", "<s>"])
    text = "a[INST]a<s> aa[INST]"
    expected = library.encode(text, add_special_tokens=False).ids
    assert Chat(BPETokenizer(library), "{#-#}" + text).prompt([user("x")]) == expected


def test_a_template_may_look_at_what_a_message_says():
    template = "{% for m in messages %}{{ 'tool' if m.content.startswith('<tool>') else 'no' }}{% endfor %}"
    assert spelled(Chat(LETTERS, template).prompt([user("<tool>x")])) == "tool"


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("of", [LETTERS, ByteTokenizer()], ids=["bpe", "byte"])
def test_named_templates(name, of):
    chat = Chat(of, name)
    messages = [{"role": "system", "content": "Be brief."}, user("A"), assistant("B"), user("C")]
    assert "[B<" in shown(chat.encode(messages[:3]), of).replace("[ ", "[")
    text = spelled(chat.prompt(messages), of)
    assert text.startswith("<s>") is (of is LETTERS)
    assert all(message["content"] in text for message in messages)
    assert chat.stop == (("<|im_end|>",) if name == "chatml" and of is not LETTERS else ())
    assert of.eos_id in chat.ends


def test_what_ends_an_answer():
    end = LETTERS.special_tokens
    chatml = Chat(LETTERS, CHATML)
    assert (chatml.ends, chatml.stop) == ({end["<|im_end|>"], end["</s>"]}, ())
    assert (Chat(ByteTokenizer(), "chatml").ends, Chat(ByteTokenizer(), "chatml").stop) == ({256}, ("<|im_end|>",))
    letters = CharTokenizer("".join(sorted(set("User: Assistant:\nHello Hi"))))
    plain = Chat(letters, "plain")
    assert (plain.ends, plain.stop) == (frozenset(), ("\nUser:",))


def test_scores_put_no_space_before_an_answer():
    """A space in front belongs to the beginning of a text, and to what follows a special token."""
    tokens = ["<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *"▁[INSTAB]/", "▁A", "▁B"]
    library = scored_bpe(tokens, [0.0] * len(tokens), special=tokens[:2])
    scored = BPETokenizer(library, bos="<s>", eos="</s>")
    template = (
        "{% for m in messages %}{{ bos_token ~ '[I]' if m.role == 'user' else '[/I]' }}{{ m.content }}{% endfor %}"
    )
    assert spelled(Chat(scored, template).prompt([user("A"), assistant("B")]), scored) == "<s> [I]A[/I]B"


def test_the_tokenizers_own_template_or_none():
    assert Chat(tokenizer(chat_template=CHATML)).prompt([user("A")]) == Chat(LETTERS, CHATML).prompt([user("A")])
    with pytest.raises(UserError, match="has no chat template; choose one of chatml, alpaca, plain"):
        Chat(LETTERS)
    with pytest.raises(UserError, match="no chat template 'chatlm'; did you mean chatml"):
        Chat(LETTERS, "chatlm")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user"}], "message 1 has no text as its content"),
        ([user("x"), {"content": "x"}], "message 2 has no text as its role"),
        ([user(["x"])], "message 1 has no text as its content"),
        (["x"], "message 1 has no text as its role"),
        ([user("".join(map(chr, range(0xF0000, 0xFFFFE))))], "private characters"),
    ],
)
def test_what_is_no_conversation(messages, words):
    with pytest.raises(UserError, match=words):
        Chat(LETTERS, CHATML).prompt(messages)


def test_an_answer_that_the_template_cuts_is_no_example():
    """A model can still be asked to go on with it."""
    chat = Chat(LETTERS, FAMILIES["thinking"][0])
    messages = [user("A"), assistant("hm</think>B")]
    assert spelled(chat.prompt(messages)).endswith("B<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(UserError, match="of 1 answers of the conversation, 0 are whole"):
        chat.encode(messages)
