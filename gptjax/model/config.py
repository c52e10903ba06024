"""The shape of a model: one frozen dataclass, its derived dimensions and its consistency. Knows no jax, no flax."""

import dataclasses

from gptjax import registry
from gptjax.registry import Choice, choice_field

REMAT_POLICIES = ("none", "dots", "minimal", "offload", "full")
KERNELS = ("xla", "splash", "cudnn")
DTYPES = ("float32", "bfloat16")
NORM_PLACEMENTS = ("pre", "post")
UNLIMITED = 2**31 - 1
"""As many tokens as an int32 can count: the context of a model without slots or positions to run out of."""


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
    """Normalisation before (or after) every sub-layer and at the end."""
    norm_placement: str = "pre"
    """pre (GPT-2) or post (GPT-1, Vaswani et al. 2017)."""
    mlp: Choice = choice_field("gptjax.model.mlp:MLPS", "gelu")
    """The position-wise feed-forward layer."""
    use_bias: bool = True
    """Biases in the projections of attention and feed-forward."""
    head: Choice = choice_field("gptjax.model.heads:HEADS", "lm")
    """What reads the features at the top; the task says which one it needs."""
    tie_embeddings: bool = True
    """The output projection is the token embedding, transposed."""
    dropout: float = 0.0
    """Dropout probability on embeddings and on each sub-layer's output."""
    init_std: float = 0.02
    """Standard deviation of initial weights; projections into the residual stream divide it by sqrt(2 num_layers)."""
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
    def has_stream(self) -> bool:
        """Whether layers add to a residual stream, rather than each replace what the one before it made."""
        return self.num_states == 0 or dict(self.block.kwargs)["residual"]

    @property
    def max_context(self) -> int:
        """Most tokens that the next one can depend on; a state takes any number, beyond the seq_len of training too."""
        return UNLIMITED if self.num_states else self.seq_len

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
        )

    def ignored(self) -> list[str]:
        """Returns, by name, the options that a recurrent block has no use for and that are not at their default."""
        if not self.num_states:
            return []
        unused = {"num_heads", "num_kv_heads", "d_head", "d_ff", "mlp", "attention", "positions", "norm_placement"}
        if not self.resolve().has_stream:
            unused |= {"norm"}

        def whole(field: dataclasses.Field, value: object) -> object:
            return registry.resolve(field.metadata["table"], value) if isinstance(value, Choice) else value

        fields = (field for field in dataclasses.fields(self) if field.name in unused | {"require_kernel"})
        return [f.name for f in fields if whole(f, getattr(self, f.name)) != whole(f, f.default)]

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this" (empty where the config fits together)."""
        problems = []
        for name in ("d_model", "num_layers", "num_heads", "seq_len", "vocab_multiple"):
            if getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)} is less than 1; choose a positive number")
        for name in ("vocab_size", "num_kv_heads", "d_head", "d_ff"):
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
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout={self.dropout} is not a probability below 1; 0.1 is usual")
        if not self.init_std > 0:
            problems.append(f"init_std={self.init_std} is not positive; 0.02 is GPT-2's")
        for field, option in (
            ("attention", "window"),
            ("positions", "base"),
            ("norm", "epsilon"),
            ("block", "d_hidden"),
        ):
            value = dict(getattr(self, field).kwargs).pop(option, None)
            if value is not None and not value > 0:
                problems.append(f"{field}.{option}={value} is not positive; leave it out for the default")
        d_head = self.d_head or self.d_model // self.num_heads
        if self.positions.name == "rotary" and d_head % 2 and not self.num_states:
            problems.append(f"positions.name='rotary' turns pairs of channels and d_head={d_head} is odd; make it even")
        for name, valid in (("remat", REMAT_POLICIES), ("dtype", DTYPES), ("norm_placement", NORM_PLACEMENTS)):
            if getattr(self, name) not in valid:
                problems.append(f"{name}={getattr(self, name)!r} is unknown; valid: {', '.join(valid)}")
        if self.require_kernel not in (None, *KERNELS):
            problems.append(f"require_kernel={self.require_kernel!r} is unknown; valid: {', '.join(KERNELS)}, or None")
        return problems
