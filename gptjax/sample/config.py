"""How tokens are chosen and when a text ends. Knows no jax."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The rules of sampling; sample/logits.py says in which order they apply."""

    temperature: float = 1.0
    """Logits are divided by it: below 1 is safer, above 1 bolder, 0 always takes the likeliest token (greedy)."""
    top_k: int | None = None
    """Only the so many likeliest tokens; None: no limit."""
    top_p: float | None = None
    """Only the likeliest tokens that together have this probability (nucleus sampling); None: no limit."""
    min_p: float | None = None
    """Only tokens at least this fraction as likely as the likeliest; None: no limit."""
    repetition_penalty: float = 1.0
    """Makes tokens that are in the context already less likely; 1 changes nothing, 1.2 is usual."""
    num_beams: int = 1
    """Above 1: beam search for the likeliest text instead of drawing; the rules above then have no effect."""
    length_penalty: float = 1.0
    """Beam search ranks texts by log-probability / length ** length_penalty: above 0 favours longer ones, 0 neither."""
    max_tokens: int = 256
    """A text ends after so many new tokens at the latest."""
    stop: tuple[str, ...] = ()
    """A text ends before the first of these strings."""
    prompts: tuple[str, ...] = ("",)
    """What the samples written during training continue; an empty prompt starts a document, () writes none."""

    def ignored(self) -> list[str]:
        """Returns, by name, the rules that have no effect beside `num_beams` and that are not at their default."""
        unused = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        names = unused if self.num_beams > 1 else ("length_penalty",)
        return [name for name in names if getattr(self, name) != getattr(SampleConfig, name)]

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this"."""
        problems = []
        if not 0 <= self.temperature < math.inf:
            problems.append(f"temperature={self.temperature} is no number of 0 or more; 0 is greedy, 1 is the model's")
        if self.top_k is not None and not 1 <= self.top_k < 2**31:
            problems.append(f"top_k={self.top_k} is no number of tokens from 1 on; None is no limit")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                problems.append(f"{name}={value} is not above 0 and at most 1; None is no limit")
        if not 0 < self.repetition_penalty < math.inf:
            problems.append(f"repetition_penalty={self.repetition_penalty} is not positive; 1 changes nothing")
        if not 1 <= self.num_beams < 2**15:
            problems.append(f"num_beams={self.num_beams} is no number of beams from 1 on; 1 draws, 4 is usual")
        if not math.isfinite(self.length_penalty):
            problems.append(f"length_penalty={self.length_penalty} is no number; 1 ranks texts by their mean")
        if self.max_tokens < 1:
            problems.append(f"max_tokens={self.max_tokens} is less than 1; choose a number of tokens")
        if "" in self.stop:
            problems.append("stop holds an empty text, which would end everything at once; leave it out")
        return problems
