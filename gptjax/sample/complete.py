"""Completes many prompts, in batches of similar lengths and few shapes. Token ids in, token ids out; knows no text."""

from collections.abc import Collection, Sequence

from gptjax.model.config import ModelConfig
from gptjax.sample.batches import batches
from gptjax.sample.config import SampleConfig
from gptjax.sample.generate import generate
from gptjax.sample.prefill import all_of
from gptjax.types import Params


def complete(
    cfg: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    sample_cfg: SampleConfig,
    seed: int,
    *,
    eos_id: int | Collection[int] | None = None,
    vocab_size: int | None = None,
    batch_size: int = 64,
) -> list[list[int]]:
    """Returns the new tokens of every prompt, in the prompts' order, without the one that ends a text.

    Texts are drawn, or found by beam search, as the config says; `eos_id` and `vocab_size` as in `generate`. Up to
    rounding, a text depends on its prompt, its place among the prompts and the seed alone, whatever the batches are.
    """
    texts: list[list[int]] = [[]] * len(prompts)
    for rows in batches([len(prompt) for prompt in prompts], batch_size):  # a copy of a row ends when the row does
        chunks = generate(
            cfg,
            params,
            [prompts[i] for i in rows],
            sample_cfg,
            seed,
            eos_id=eos_id,
            vocab_size=vocab_size,
            numbers=rows,
        )
        for i, *news in zip(rows, *chunks, strict=True):
            tokens = [token for new in news for token in new]
            texts[i] = tokens[:-1] if tokens and tokens[-1] in all_of(eos_id) else tokens
    return texts
