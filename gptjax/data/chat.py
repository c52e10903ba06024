"""Conversations as tokens, through a tokenizer's chat template. What a message says never becomes a special token.

The whole conversation is rendered, with marks around its contents and placeholders for special tokens that they spell.
Then the special tokens that the template wrote are taken out, and each stretch of text between them is encoded. The
ids are those of the rendered text encoded whole with special tokens allowed, but for three things: a special token
spelled in a message stays text; an answer starts and ends at a token's border, as it does where a model writes it; and
white space beside special tokens stays, though some tokenizers have it swallowed (`lstrip`, `rstrip`).
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gptjax.data.tokenizer import Tokenizer
from gptjax.registry import did_you_mean
from gptjax.types import UserError

Message = Mapping[str, Any]
"""Who speaks (`role`: system, user, assistant, or what else a template knows) and what (`content`)."""

TEMPLATES = {
    "chatml": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "alpaca": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ m.content ~ '\n\n' }}"
        "{% elif m.role == 'assistant' %}{{ '### Response:\n' ~ m.content ~ eos_token ~ '\n\n' }}"
        "{% else %}{{ '### Instruction:\n' ~ m.content ~ '\n\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ m.role.capitalize() ~ ': ' ~ m.content ~ (eos_token if m.role == 'assistant') ~ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}
"""For tokenizers without one, by name."""

_BORDER, _BEGIN, _END, _START, _STOP = map(chr, range(0xF0000, 0xF0005))
"""Marks: around contents of others; around those of answers; around what {% generation %} says is an answer."""
_OPEN, _CLOSE = "\x1c", "\x1d"
"""Around answers with their white space. To Python they are such, and go where a template strips it."""
_MARK = re.compile(f"[{_BEGIN}{_END}{_START}{_STOP}{_OPEN}{_CLOSE}]")
_FIRST_PLACEHOLDER, _MOST_PLACEHOLDERS = 0xF0005, 0xFFF0
_PRIVATE = re.compile("[\U000f0000-\U000fffff]")
"""The plane of Unicode that marks and placeholders are of."""


class Encoded(NamedTuple):
    """A conversation of L tokens."""

    ids_L: np.ndarray
    answers_L: np.ndarray
    """True for what an assistant has to write: the contents of its messages, and what ends its turn."""


class _Rendered(NamedTuple):
    """The text of a conversation without marks, but for borders and placeholders."""

    text: str
    contents: list[tuple[int, int]]
    """Where assistants' contents start and stop."""
    generated: list[tuple[int, int]]
    """What the template says that assistants wrote."""
    originals: dict[str, str]
    """What placeholders stand for."""


class Chat:
    """A tokenizer's way to write conversations."""

    def __init__(self, tokenizer: Tokenizer, template: str | None = None):
        """Takes a template in Jinja, or a name in TEMPLATES; None is the tokenizer's own.

        Raises UserError where there is none, and for what is no template.
        """
        template = tokenizer.chat_template if template is None else template
        if template is None:
            raise UserError(f"the tokenizer has no chat template; choose one of {', '.join(TEMPLATES)}")
        if template not in TEMPLATES and "{" not in template:
            raise UserError(f"there is no chat template {template!r}; {did_you_mean(template, TEMPLATES)}")
        from gptjax.data.template import Template  # Jinja, an extra, is needed only where somebody chats

        self._tokenizer = tokenizer
        self._names = {i: name for name, i in tokenizer.special_tokens.items()}
        self._template = Template(
            TEMPLATES.get(template, template),
            generation=(_START, _STOP),
            bos_token=self._name(tokenizer.bos_id),
            eos_token=self._name(tokenizer.eos_id),
        )
        special = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a conversation up to where an assistant answers."""
        rendered = self._render(messages, add_generation_prompt=True)
        return [i for i, _ in self._tokens(rendered, self._answers(rendered))]

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Returns a conversation to train on; raises UserError where the template does not show its answers whole.

        An answer is all that a model has to write after the prompt: the content, what the template puts between the
        prompt and it, and what ends the turn. Templates with {% generation %} say themselves what it is.
        """
        rendered = self._render(messages, add_generation_prompt=False)
        num_answers = sum(message["role"] == "assistant" for message in messages)
        if not rendered.generated and len(rendered.contents) != num_answers:
            raise UserError(
                f"of {num_answers} answers of the conversation, {len(rendered.contents)} are whole in what the chat "
                "template makes of it; shorten them as it does, or put {% generation %} into the template"
            )
        tokens = list(self._tokens(rendered, self._answers(rendered)))
        return Encoded(np.array([i for i, _ in tokens], np.int32), np.array([answer for _, answer in tokens], bool))

    @cached_property
    def ends(self) -> frozenset[int]:
        """The ids that end an answer: the end of a text, and the special token that ends a turn."""
        ids = [self._tokenizer.eos_id, *(self._tokenizer.special_tokens[name] for name in self._closing[:1])]
        return frozenset(i for i in ids if i is not None)

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """The texts that end an answer where no special token does: what ends a turn, or else what starts the next."""
        tail = self._turn[1].strip()
        if tail:
            return () if self._closing else (tail,)
        rendered = self._render([*_PROBE, _PROBE[0]], add_generation_prompt=False)
        following = rendered.text[rendered.contents[0][1] :]
        return (before,) if (before := following.partition(_PROBE[0]["content"])[0].rstrip()) else ()

    def _answers(self, rendered: _Rendered) -> list[tuple[int, int]]:
        """Returns where answers start and stop."""
        if rendered.generated:
            return rendered.generated
        answers = []
        for start, stop in rendered.contents:
            lead, tail = self._turn
            leads, ends = rendered.text.endswith(lead, 0, start), rendered.text.startswith(tail, stop)
            answers.append((start - len(lead) if leads else start, stop + len(tail) if ends else stop))
        return answers

    @cached_property
    def _turn(self) -> tuple[str, str]:
        """What the template writes between prompt and content of an answer, and what ends the turn."""
        prompt = self._render(_PROBE[:1], add_generation_prompt=True).text
        text, contents, *_ = self._render(_PROBE, add_generation_prompt=False)
        if len(contents) != 1:
            return "", ""
        ((start, stop),) = contents
        return text[len(prompt) : start] if text.startswith(prompt) else "", text[stop:].rstrip()

    @property
    def _closing(self) -> list[str]:
        """The special tokens in what ends a turn."""
        return self._special.findall(self._turn[1])

    def _name(self, i: int | None) -> str:
        return "" if i is None or i not in self._names else self._names[i]

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> _Rendered:
        originals: dict[str, str] = {}
        marked = [self._marked(message, number, originals) for number, message in enumerate(messages, 1)]
        text = self._template.render(marked, add_generation_prompt=add_generation_prompt)
        return _without_marks(text, {placeholder: original for original, placeholder in originals.items()})

    def _marked(self, message: Message, number: int, originals: dict[str, str]) -> dict[str, Any]:
        """Returns a message with marks and placeholders; originals gains what they stand for, the other way round."""
        for field in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(field), str):
                raise UserError(f"message {number} has no text as its {field}; a message has a role and a content")
        safe = self._safe(message, originals)
        assert isinstance(safe, dict)
        content, is_answer = safe["content"], message["role"] == "assistant"
        core = content.strip()
        before, after = (
            content[: len(content) - len(content.lstrip())],
            content[len(content.rstrip()) :] if core else "",
        )
        if is_answer:
            safe["content"] = f"{_OPEN}{before}{_BEGIN}{core}{_END}{after}{_CLOSE}"
        else:
            left = _BORDER * any(
                core.startswith(name[n:]) for name in self._names.values() for n in range(1, len(name))
            )
            right = _BORDER * any(core.endswith(name[:n]) for name in self._names.values() for n in range(1, len(name)))
            safe["content"] = f"{before}{left}{core}{right}{after}"
        return safe

    def _safe(self, value: Any, originals: dict[str, str]) -> Any:
        """Returns a part of a message in which no text spells a special token, or holds a mark."""
        if isinstance(value, Mapping):
            return {key: self._safe(part, originals) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._safe(part, originals) for part in value]
        if not isinstance(value, str):
            return value

        def placeholder(found: re.Match) -> str:
            if len(originals) == _MOST_PLACEHOLDERS:
                raise UserError("a conversation is made of private characters of Unicode; leave them out")
            return originals.setdefault(found[0], chr(_FIRST_PLACEHOLDER + len(originals)))

        return re.sub(f"{_MARK.pattern}|{_PRIVATE.pattern}|{self._special.pattern}", placeholder, value)

    def _tokens(self, rendered: _Rendered, answers: Sequence[tuple[int, int]]) -> Iterator[tuple[int, bool]]:
        """Yields ids, and whether they belong to an answer."""
        inside = [False] * len(rendered.text)
        for start, stop in answers:
            inside[start:stop] = [True] * (stop - start)
        cuts = sorted({0, len(rendered.text), *(place for span in answers for place in span)})
        begins = True
        for start, stop in itertools.pairwise(cuts):
            place = start
            for found in self._special.finditer(rendered.text, start, stop):
                yield from self._encoded(rendered, place, found.start(), inside, begins)
                yield self._tokenizer.special_tokens[found[0]], inside[found.start()]
                place, begins = found.end(), self._tokenizer.begins_anew
            yield from self._encoded(rendered, place, stop, inside, begins)
            begins = begins and place == stop

    def _encoded(
        self, rendered: _Rendered, start: int, stop: int, inside: Sequence[bool], begins: bool
    ) -> Iterator[tuple[int, bool]]:
        if start < stop:
            text = _PRIVATE.sub(lambda mark: rendered.originals.get(mark[0], mark[0]), rendered.text[start:stop])
            yield from ((int(i), inside[start]) for i in self._tokenizer.encode(text, continued=not begins))


_PROBE = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"})
"""A conversation that shows what a template writes around an answer."""


def _without_marks(marked: str, originals: dict[str, str]) -> _Rendered:
    """Takes the marks out of a text and returns where they stood."""
    text, length, place, end = [], 0, 0, 0
    contents, generated = [], []
    opened: dict[str, int] = {}
    for found in _MARK.finditer(marked):
        text.append(marked[place : found.start()])
        length += found.start() - place
        place = found.end()
        mark = found[0]
        if mark in (_OPEN, _BEGIN, _START):
            opened[mark] = length
        elif mark == _STOP and _START in opened:
            generated.append((opened.pop(_START), length))
        elif mark == _END:
            start = opened.pop(_OPEN, length)
            if _BEGIN in opened:
                contents.append((min(start, opened.pop(_BEGIN)), length))
                end = len(text)
        elif mark == _CLOSE and contents and not "".join(text[end:]).strip():
            contents[-1] = contents[-1][0], length
    text.append(marked[place:])
    return _Rendered("".join(text), contents, generated, {_BORDER: "", **originals})
