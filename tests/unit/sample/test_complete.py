"""Many prompts at once: order and batches do not matter, shapes are few."""

from itertools import chain

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.sample import complete as module
from gptjax.sample.complete import complete
from gptjax.sample.config import SampleConfig
from gptjax.sample.generate import decode, generate
from gptjax.sample.prefill import prefill

EOS = 7
CFG = ModelConfig(vocab_size=40, d_model=16, num_layers=2, num_heads=4, seq_len=64)


class Parrot:
    """Stands in for a model: a row's text is its number and its prompt, in two chunks; an even one ends with EOS."""

    def __init__(self):
        self.sizes = []

    def __call__(self, cfg, params, prompts, sample_cfg, seed, *, eos_id, vocab_size, numbers):
        self.sizes.append([len(prompt) for prompt in prompts])
        yield [[number] for number in numbers]
        yield [[*prompt] + [EOS] * (number % 2 == 0) for number, prompt in zip(numbers, prompts, strict=True)]


@given(st.lists(st.lists(st.integers(8, 30), min_size=1, max_size=9), max_size=20), st.integers(1, 9))
def test_texts_come_in_the_order_of_the_prompts(prompts, batch_size):
    """Without the token that ends them; batches have one size, and the longest prompts come first."""
    parrot = Parrot()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "generate", parrot)
        texts = complete(CFG, {}, prompts, SampleConfig(), 0, eos_id=EOS, batch_size=batch_size)
    assert texts == [[number, *prompt] for number, prompt in enumerate(prompts)]
    assert len({len(lengths) for lengths in parrot.sizes}) <= 1
    assert sum(map(len, parrot.sizes)) < max(2 * len(prompts), len(prompts) + batch_size) or not prompts
    lengths = list(chain.from_iterable(parrot.sizes))
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_texts_are_those_of_generate_whatever_the_batches(temperature):
    """Each row with its own number, which picks what is drawn; of prompts of many lengths one program is compiled."""
    params = jax.tree.map(lambda x: 6 * x, model.init_params(CFG, jax.random.key(1)))
    rules = SampleConfig(temperature=temperature, max_tokens=12)
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 40, random.integers(1, 51)).tolist() for _ in range(10)]
    before = prefill._cache_size(), decode._cache_size()
    texts = complete(CFG, params, prompts, rules, 3, eos_id=EOS, batch_size=4)
    assert (prefill._cache_size(), decode._cache_size()) <= (before[0] + 1, before[1] + 1)
    some = [7, 2, 9, 4]
    chunks = generate(CFG, params, [prompts[i] for i in some], rules, 3, eos_id=EOS, numbers=some)
    whole = [list(chain.from_iterable(news)) for news in zip(*chunks, strict=True)]
    assert [texts[i] for i in some] == [tokens[:-1] if tokens[-1] == EOS else tokens for tokens in whole]
    assert min(map(len, texts)) < max(map(len, texts)) == 12
