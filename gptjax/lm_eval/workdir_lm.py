"""A workdir's model as the lm-eval harness asks models: text in, log-probabilities and text out. Knows no task.

Importing it makes the name `gptjax` known to the harness.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import lm_eval.models  # noqa: F401 - the harness knows its own models by name only where nobody has added one before
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from gptjax import inference, model
from gptjax.registry import did_you_mean
from gptjax.sample.batches import batches
from gptjax.sample.config import SampleConfig
from gptjax.sample.generate import Text, stream_rows
from gptjax.sample.likelihood import Likelihood, likelihoods
from gptjax.types import UserError

SEED = 0
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What the most new tokens are called; the first that there is counts."""
RULES = ("top_k", "top_p", "min_p", "repetition_penalty", "num_beams", "length_penalty")
"""The harness's names that are ours too."""


@register_model("gptjax")
class WorkdirLM(LM):
    """Texts begin as in training; they are cut from the left where the model has no room for them."""

    def __init__(
        self,
        workdir: str,
        step: str | int = "latest",
        batch_size: int | str = 16,
        *,
        max_batch_size: int | None = None,
        device: str | None = None,
    ):
        """Loads a checkpoint, to score or continue so many texts at a time; raises UserError where there is none.

        `max_batch_size` and `device`, of which the harness tells every model, say nothing to jax.
        """
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise UserError(f"batch_size={batch_size} is no number of rows from 1 on; 16 is the default")
        self.batch_size = int(batch_size)
        self.cfg, self.params, self.tokenizer, _ = inference.load(workdir, step)
        self.cfg.refuse_both_ways()
        self._about = {"workdir": workdir, "step": step, "model_num_parameters": model.num_params(self.cfg)}

    def get_model_info(self) -> dict[str, Any]:
        """Returns what the harness writes into its results."""
        return self._about

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Scores continuations after their contexts, each given as (context, continuation).

        They are encoded together, as the harness does it; where a token would span the border, each alone.
        """
        pairs = [request.args for request in requests]
        befores = self.tokenizer.encode_many([context.rstrip() for context, _ in pairs])
        wholes = self.tokenizer.encode_many([context + continuation for context, continuation in pairs])
        rows, starts = [], []
        for (context, continuation), before, whole in zip(pairs, map(list, befores), map(list, wholes), strict=True):
            if whole[: len(before)] != before:
                white = context[len(context.rstrip()) :]
                whole = before + list(self.tokenizer.encode(white + continuation, continued=True))
            begin = self._begun(before)
            rows.append(begin + whole[len(before) :])
            starts.append(len(begin))
        scores = self._likelihoods(rows, starts, "loglikelihood")
        return [(score.logprob, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Scores whole texts, each given as (text,), in windows in which every token is scored once."""
        tokens = self.tokenizer.encode_many([text for (text,) in (request.args for request in requests)])
        begin = self._begun([])
        rows = [begin + list(row) for row in tokens]
        return [score.logprob for score in self._likelihoods(rows, [len(begin)] * len(rows), "loglikelihood_rolling")]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Continues contexts, each given as (context, generation_kwargs)."""
        texts = [""] * len(requests)
        numbers_of = collections.defaultdict(list)
        for number, request in enumerate(requests):
            numbers_of[sample_config(request.args[1])].append(number)
        for rules, numbers in numbers_of.items():
            contexts = [requests[number].args[0] for number in numbers]
            for number, text in zip(numbers, self._continued(contexts, rules, numbers), strict=True):
                texts[number] = text
        return texts

    def _continued(self, contexts: Sequence[str], rules: SampleConfig, numbers: Sequence[int]) -> list[str]:
        """Returns what follows each context, which is drawn by its number."""
        # A context that gets full goes on with its latest half: no more room is left for new tokens than that.
        room = max(self.cfg.max_context - rules.max_tokens, self.cfg.max_context // 2, 1)
        rows = [self._begun(list(row))[-room:] for row in self.tokenizer.encode_many(contexts)]
        special = self.tokenizer.special_tokens
        ends = {self.tokenizer.eos_id, *(special[text] for text in rules.stop if text in special)} - {None}
        texts = [""] * len(rows)
        todo = list(batches([len(row) for row in rows], self.batch_size))
        for batch in _shown("generate_until")(todo):
            pieces = stream_rows(
                self.cfg,
                self.params,
                self.tokenizer,
                [rows[i] for i in batch],
                [Text(self.tokenizer, rules.stop, continued=contexts[i] != "") for i in batch],
                rules,
                SEED,
                ends=ends,
                numbers=[numbers[i] for i in batch],
            )
            for i, *text in zip(batch, *pieces, strict=True):
                texts[i] = "".join(text)
        return texts

    def _begun(self, tokens: list[int]) -> list[int]:
        """Returns tokens after what a text begins with; where that is nothing, an empty text is an end of document."""
        return self.tokenizer.begin + tokens or [self.tokenizer.eos_id or 0]

    def _likelihoods(self, rows: Sequence[list[int]], starts: Sequence[int], name: str) -> list[Likelihood]:
        return likelihoods(self.cfg, self.params, rows, starts, batch_size=self.batch_size, progress=_shown(name))


def sample_config(kwargs: Mapping[str, Any]) -> SampleConfig:
    """Returns our rules for a task's generation_kwargs; raises UserError for what is unknown or makes no sense.

    Without `do_sample` a temperature above 0 draws, as the harness has it. Stop strings are called `until`.
    """
    valid = ("until", "do_sample", "temperature", *LENGTHS, *RULES)
    problems = [f"{name} is unknown; {did_you_mean(name, valid)}" for name in kwargs if name not in valid]
    if problems:
        raise UserError("\n".join(f"generation_kwargs: {problem}" for problem in problems))
    given = {name: value for name, value in kwargs.items() if value is not None}
    until, draws = given.get("until", ()), given.get("do_sample")
    stop = (until,) if isinstance(until, str) else tuple(until)
    temperature = given.get("temperature", 1.0 if draws else 0.0)
    length = next((given[name] for name in LENGTHS if name in given), SampleConfig.max_tokens)
    rules = {name: given[name] for name in RULES if name in given}
    if "top_k" in rules and rules["top_k"] < 1:
        rules["top_k"] = None  # what others call no limit
    cfg = SampleConfig(
        temperature=0.0 if draws is False else float(temperature),
        max_tokens=int(length),
        stop=tuple(text for text in stop if text),
        **rules,
    )
    if problems := cfg.validate():
        raise UserError("\n".join(f"generation_kwargs: {problem}" for problem in problems))
    return cfg


def _shown(name: str) -> Callable[[Sequence[list[int]]], Iterable[list[int]]]:
    """Returns what shows on a terminal how batches go by."""
    return partial(tqdm, desc=name, unit="batch", disable=None)
