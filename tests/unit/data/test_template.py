"""Chat templates: what transformers gives them, and what they may not do."""

import time
import tracemalloc

import pytest

pytest.importorskip("jinja2", reason="the extra `interop` is not installed")

from gptjax.data import template as module
from gptjax.data.template import Template
from gptjax.types import UserError

MESSAGES = [{"role": "user", "content": "é & <b>"}, {"role": "assistant", "content": "yes"}]


def render(source, **options):
    return Template(source, **options).render(MESSAGES, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m['role'] + '|' + m.content }};{% endfor %}", "user|é & <b>;assistant|yes;"),
        ("  {% if add_generation_prompt %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ loop.index0 }}{% endfor %}", "0"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "é & <b>"}'),
        ("{{ bos_token ~ eos_token ~ 1 }}", "<s></s>1"),
        ("{% if tools is none and not documents %}none{% endif %}{{ more is defined }}", "noneFalse"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 %}{% endfor %}{{ ns.n }}", "4"),
        ("{{ messages[-1].content.upper().strip('S') * 2 }}", "YEYE"),
        ("{% macro say(m) %}[{{ m.content | trim }}]{% endmacro %}{{ say(messages[1]) }}", "[yes]"),
        ("a{% generation %}{{ messages[1].content }}{% endgeneration %}b", "a<yes>b"),
    ],
)
def test_what_templates_know(source, expected):
    assert render(source, bos_token="<s>", eos_token="</s>", generation=("<", ">")) == expected


def test_a_template_knows_the_date():
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for", "is no Jinja"),
        ("{{ nothing_like | it }}", "is no Jinja .*'it'"),
        ("{{" * 1000, "nested too deeply"),
        ("{{ raise_exception('only user and assistant') }}", "refuses .*: only user and assistant; correct"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update({}) }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ missing.field }}", "'missing' is undefined"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses"),
    ],
)
def test_what_goes_wrong_is_a_user_error(source, words):
    with pytest.raises(UserError, match=words):
        render(source)


TOO_MUCH = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops over a list": "{% set l = range(9999) | list %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "powers": "{{ 9 ** 9 ** 9 ** 9 }}",
    "products": "{{ 'x' * 9999999999 }}",
    "lists": "{{ ([0] * 99999999) | length }}",
    "output": "{% for a in range(9999) %}{{ 'x' * 9999999 }}{% endfor %}",
    "doubling": "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "sums": "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "joins": "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = [n.x, n.x] | join %}{% endfor %}",
    "methods": "{{ 'x'.ljust(9999999999) }}",
    "formats": "{{ '%9999999999d' % 1 }}",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_templates_end(name, monkeypatch):
    """In less than the time, and the memory, that would be noticed."""
    monkeypatch.setattr(module, "MOST_STEPS", 500)
    template = Template(TOO_MUCH[name])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="refuses"):
            template.render(MESSAGES, add_generation_prompt=False)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2**27


def test_steps_are_counted_anew_for_each_conversation(monkeypatch):
    monkeypatch.setattr(module, "MOST_STEPS", 3)
    template = Template("{% for m in messages %}{{ m.role }}{% endfor %}")
    assert [template.render(MESSAGES, add_generation_prompt=False) for _ in range(3)] == ["userassistant"] * 3
