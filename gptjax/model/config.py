"""The shape of a model: one frozen dataclass, its derived dimensions and its consistency. Knows no jax, no flax."""

import dataclasses
import math
import re

from gptjax import registry
from gptjax.registry import Choice, choice_field
from gptjax.types import UserError

REMAT_POLICIES = ("none", "dots", "minimal", "offload", "full")
KERNELS = ("xla", "splash", "cudnn")
DTYPES = ("float32", "bfloat16")
LORA_BASES = ("float32", "int8", "int4", "nf4")
ROTARY_SCALINGS = ("none", "linear", "ntk", "yarn", "yarn_by_index", "llama3")
ONE_SIDED = ("alibi", "t5", "none")
"""Positions that know at most how far a key is, and not on which side."""
POSITIVE_OPTIONS = {
    "block": ("d_hidden",),
    "attention": ("window", "soft_cap"),
    "positions": ("base", "factor", "trained_len", "num_buckets", "max_distance"),
    "norm": ("epsilon",),
    "mlp": ("num_experts", "top_k", "d_expert", "capacity_factor"),
    "head": ("num_tokens",),
}
NORM_PLACEMENTS = ("pre", "post", "sandwich")
UNLIMITED = 2**31 - 1
"""As many tokens as an int32 can count: the context of a model without slots or positions to run out of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Adapters of low rank beside projections: x W + (alpha / rank) (x A) B (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = 0
    """Columns of A and rows of B; 0 adds no adapters."""
    alpha: float = 16.0
    """The adapter's part is multiplied by alpha / rank, so that one learning rate serves all ranks."""
    targets: str = r"blocks/.*"
    """Regular expression that matches the whole path of each adapted projection: '.*/(query|value)' is the paper's."""
    dropout: float = 0.0
    """Dropout probability on what A reads."""
    base: str = "float32"
    """What the adapted kernels, which stay frozen, are kept as: float32, or by qwix int8, int4 or nf4 (QLoRA)."""

    def adapts(self, path: str) -> bool:
        """Returns whether the projection of this path has an adapter."""
        return self.rank > 0 and re.fullmatch(self.targets, path) is not None

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this"."""
        problems = []
        if self.rank < 0:
            problems.append(f"rank={self.rank} is negative; 8 is usual, 0 adds no adapters")
        if not 0 < self.alpha < math.inf:
            problems.append(f"alpha={self.alpha} is not positive; twice the rank is usual")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout={self.dropout} is not a probability below 1; 0.05 is usual")
        try:
            re.compile(self.targets)
        except re.error as error:
            problems.append(f"targets={self.targets!r} is no regular expression: {error}")
        if self.base not in LORA_BASES:
            problems.append(f"base={self.base!r} is unknown; valid: {', '.join(LORA_BASES)}")
        return problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only language model; the first four numbers are enough, the rest has defaults in GPT-2's manner."""

    vocab_size: int | None = None
    """Number of token ids; None takes the tokenizer's."""
    d_model: int = 128
    """Width of the residual stream."""
    num_layers: int = 4
    """Number of blocks."""
    num_heads: int = 4
    """Number of query heads."""
    num_kv_heads: int | None = None
    """Number of key/value heads, a divisor of num_heads; None is num_heads (multi-head), 1 is multi-query."""
    d_head: int | None = None
    """Width of a head; None is d_model / num_heads."""
    d_ff: int | None = None
    """Hidden width of the feed-forward layer; None is 4 x d_model."""
    seq_len: int = 1024
    """Longest sequence, in tokens."""
    block: Choice = choice_field("gptjax.model.gpt:BLOCKS", "transformer")
    """What a layer is: a transformer's attention and feed-forward, or recurrent (lstm, gru)."""
    attention: Choice = choice_field("gptjax.model.attention:ATTENTIONS", "causal")
    """How positions are mixed."""
    positions: Choice = choice_field("gptjax.model.positions:POSITIONS", "learned")
    """How a token knows where it stands."""
    norm: Choice = choice_field("gptjax.model.layers:NORMS", "layernorm")
    """Normalisation of every sub-layer and, unless it comes after them, at the end."""
    norm_placement: str = "pre"
    """pre (GPT-2), post (GPT-1, Vaswani et al. 2017) or sandwich: both, on each sub-layer (arXiv 2105.13290)."""
    mlp: Choice = choice_field("gptjax.model.mlp:MLPS", "gelu")
    """The position-wise feed-forward layer."""
    use_bias: bool = True
    """Biases in the projections of attention and feed-forward."""
    qkv_bias: bool | None = None
    """Biases of queries, keys and values, where they differ from the others (Qwen2); None is use_bias."""
    head: Choice = choice_field("gptjax.model.heads:HEADS", "lm")
    """What reads the next token from the features at the top."""
    classifiers: tuple[tuple[str, int], ...] = dataclasses.field(default=(), metadata={"fingerprint": False})
    """Other outputs by name, and their sizes; an experiment takes them from its tasks."""
    tie_embeddings: bool = True
    """The output projection is the token embedding, transposed."""
    attention_scale: float | None = None
    """What the product of query and key is multiplied by; None is 1 / sqrt(d_head), and 8 / d_head with muP."""
    embedding_scale: float = 1.0
    """What token embeddings are multiplied by; Gemma's is sqrt(d_model)."""
    residual_scale: float = 1.0
    """What each sub-layer's output is multiplied by before it is added to the residual stream."""
    logit_scale: float = 1.0
    """What the logits are multiplied by, over d_model / mup_base_width with muP."""
    dropout: float = 0.0
    """Dropout probability on embeddings and on each sub-layer's output."""
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)
    """Adapters of low rank beside the projections of a model that is given."""
    init_std: float = 0.02
    """Standard deviation of initial weights; projections into the residual stream divide it by sqrt(2 num_layers)."""
    mup_base_width: int | None = None
    """Parametrises for widths to share their hyper-parameters, meant for this width (muP); None is the usual way."""
    vocab_multiple: int = 128
    """The embedding is padded to a multiple of this, to divide over any usual mesh; padded logits are masked."""
    dtype: str = "float32"
    """Dtype of activations and matrix products: float32 or bfloat16. Weights are float32."""
    remat: str = dataclasses.field(default="none", metadata={"fingerprint": False})
    """What the backward pass computes again instead of keeping: none, dots, minimal, offload or full."""
    scan_layers: bool = dataclasses.field(default=True, metadata={"fingerprint": False})
    """Loop over the blocks in one compiled body (quick to compile) instead of unrolling them (quicker on CPUs)."""

    require_kernel: str | None = dataclasses.field(default=None, metadata={"fingerprint": False})
    """The kernel that attention must run on: xla, splash (TPU) or cudnn (GPU); None takes what suits the platform."""

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up to vocab_multiple."""
        assert self.vocab_size is not None
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def num_states(self) -> int:
        """Number of vectors that a layer carries from token to token where it is recurrent, else 0."""
        return registry.lookup("gptjax.model.gpt:BLOCKS", self.block.name).num_states

    @property
    def both_ways(self) -> bool:
        """Whether a token sees those after it, so that the model cannot say what comes next."""
        attention = registry.lookup("gptjax.model.attention:ATTENTIONS", self.attention.name)
        return self.num_states == 0 and getattr(attention, "both_ways", False)

    @property
    def has_stream(self) -> bool:
        """Whether layers add to a residual stream, rather than each replace what the one before it made."""
        return self.num_states == 0 or dict(self.block.kwargs)["residual"]

    @property
    def max_context(self) -> int:
        """Most tokens that the next one can depend on; a state takes any number, beyond the seq_len of training too."""
        return UNLIMITED if self.num_states else self.seq_len

    @property
    def drops(self) -> bool:
        """Whether training draws what to drop."""
        return self.dropout > 0 or (self.lora.rank > 0 and self.lora.dropout > 0)

    @property
    def width_multiplier(self) -> float:
        """How many times wider than the width that hyper-parameters are meant for; 1 without muP (arXiv 2203.03466)."""
        return 1.0 if self.mup_base_width is None else self.d_model / self.mup_base_width

    @property
    def score_scale(self) -> float:
        """What the product of query and key is multiplied by."""
        d_head = self.d_head or self.d_model // self.num_heads
        return self.attention_scale or (1 / math.sqrt(d_head) if self.mup_base_width is None else 8 / d_head)

    @property
    def hidden_std(self) -> float:
        """Standard deviation of the initial weights of matrices inside the blocks, whose inputs are d_model wide."""
        return self.init_std / math.sqrt(self.width_multiplier)

    def resolve(self) -> "ModelConfig":
        """Returns the same config with every derived dimension and the block's options written out; idempotent.

        Recurrent blocks need no positions, and have their norms, if any, before them.
        """
        return dataclasses.replace(
            self,
            block=registry.resolve("gptjax.model.gpt:BLOCKS", self.block),
            positions=Choice("none") if self.num_states else self.positions,
            norm_placement="pre" if self.num_states else self.norm_placement,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            d_head=self.d_head or self.d_model // self.num_heads,
            d_ff=self.d_ff or 4 * self.d_model,
            qkv_bias=self.use_bias if self.qkv_bias is None else self.qkv_bias,
        )

    def ignored(self) -> list[str]:
        """Returns, by name, the options that a recurrent block has no use for and that are not at their default."""
        if not self.num_states:
            return []
        unused = {"num_heads", "num_kv_heads", "d_head", "d_ff", "mlp", "attention", "attention_scale", "positions"}
        unused |= {"qkv_bias"}
        if not self.resolve().has_stream:
            unused |= {"norm", "residual_scale"}

        def whole(field: dataclasses.Field, value: object) -> object:
            return registry.resolve(field.metadata["table"], value) if isinstance(value, Choice) else value

        fields = (
            field for field in dataclasses.fields(self) if field.name in unused | {"norm_placement", "require_kernel"}
        )
        return [f.name for f in fields if whole(f, getattr(self, f.name)) != whole(f, f.default)]

    def refuse_both_ways(self) -> None:
        """Raises UserError for a model that is to say what comes next and cannot."""
        if self.both_ways:
            raise UserError(
                f"model.attention.name={self.attention.name!r} sees the words that follow, so that this model reads "
                f"and does not write; score it on its tasks by python -m gptjax.main --config=FILE --workdir=DIR "
                f"--mode=evaluate"
            )

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this" (empty where the config fits together)."""
        problems = [f"lora.{problem}" for problem in self.lora.validate()]
        for name in ("d_model", "num_layers", "num_heads", "seq_len", "vocab_multiple"):
            if getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)} is less than 1; choose a positive number")
        for name in ("vocab_size", "num_kv_heads", "d_head", "d_ff", "mup_base_width"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)} is less than 1; choose a positive number or None")
        if problems:
            return problems
        if self.d_head is None and self.d_model % self.num_heads and not self.num_states:
            divisors = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            near = sorted(divisors, key=lambda n: abs(n - self.num_heads))[:3]
            problems.append(
                f"num_heads={self.num_heads} does not divide d_model={self.d_model}; "
                f"try {' or '.join(map(str, near))}, or set d_head"
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            divisors = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            problems.append(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}; "
                f"try one of {', '.join(map(str, divisors))}"
            )
        for name in ("attention_scale", "embedding_scale", "residual_scale", "logit_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                problems.append(f"{name}={value} is not positive; leave it out for the default")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout={self.dropout} is not a probability below 1; 0.1 is usual")
        if not self.init_std > 0:
            problems.append(f"init_std={self.init_std} is not positive; 0.02 is GPT-2's")
        for field, options in POSITIVE_OPTIONS.items():
            kwargs = dict(getattr(self, field).kwargs)
            for option in options:
                value = kwargs.pop(option, None)
                if value is not None and not value > 0:
                    problems.append(f"{field}.{option}={value} is not positive; leave it out for the default")
        if (variant_problems := self._variant_problems()) and not self.num_states:
            problems += variant_problems
        for name, valid in (("remat", REMAT_POLICIES), ("dtype", DTYPES), ("norm_placement", NORM_PLACEMENTS)):
            if getattr(self, name) not in valid:
                problems.append(f"{name}={getattr(self, name)!r} is unknown; valid: {', '.join(valid)}")
        if self.require_kernel not in (None, *KERNELS):
            problems.append(f"require_kernel={self.require_kernel!r} is unknown; valid: {', '.join(KERNELS)}, or None")
        return problems

    def _variant_problems(self) -> list[str]:
        """Returns what the options of variants lack, or have too much of, beside each other."""
        problems = []
        attention, positions, mlp = (dict(choice.kwargs) for choice in (self.attention, self.positions, self.mlp))
        d_head = self.d_head or self.d_model // self.num_heads
        if self.positions.name == "rotary":
            turned = int(d_head * positions.get("fraction", 1.0))
            if turned % 2 or not 0 < turned <= d_head:
                problems.append(
                    f"positions.name='rotary' turns pairs of channels and {turned} of d_head={d_head} are not pairs; "
                    f"change d_head or positions.fraction"
                )
            if (scaling := positions.get("scaling", "none")) not in ROTARY_SCALINGS:
                problems.append(f"positions.scaling={scaling!r} is unknown; valid: {', '.join(ROTARY_SCALINGS)}")
        if self.attention.name == "differential" and d_head % 4:
            problems.append(
                f"attention.name='differential' halves pairs of channels and d_head={d_head} is no multiple of 4"
            )
        if self.both_ways and self.positions.name in ONE_SIDED:
            problems.append(
                f"positions.name={self.positions.name!r} does not tell what follows from what came before, which "
                f"attention.name={self.attention.name!r} sees both of; set positions.name=rotary"
            )
        pattern = attention.get("pattern", "L")
        if not pattern or set(pattern) - {"L", "G"}:
            problems.append(f"attention.pattern={pattern!r} is not made of L (local) and G (global), as in LLLG")
        if self.mlp.name == "moe" and mlp.get("top_k", 2) > mlp.get("num_experts", 8):
            problems.append(f"mlp.top_k={mlp['top_k']} is more than mlp.num_experts={mlp.get('num_experts', 8)}")
        return problems
