"""The position-wise feed-forward layer and its activations. Knows nothing of attention, of depth or of meshes.

Shapes: B batch, T position, D model width, F feed-forward width.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax.model.config import ModelConfig
from gptjax.model.layers import Projection, widen
from gptjax.model.moe import MixtureOfExperts
from gptjax.sharding import constrain


class FeedForward(nn.Module):
    """down(f(up x)), or down(f(gate x) * up x) where gated; f works in float32. x_BTD -> y_BTD, no auxiliary sums."""

    cfg: ModelConfig
    activation: Callable
    gated: bool = False

    @nn.compact
    def __call__(self, x_BTD):
        """Widens, bends and narrows again; the result has the compute dtype."""
        cfg = self.cfg
        if self.gated:
            gate_BTF, up_BTF = self._project(x_BTD, "gate"), self._project(x_BTD, "up")
            hidden_BTF = _bend(lambda gate, up: self.activation(gate) * up, gate_BTF, up_BTF)
        else:
            hidden_BTF = _bend(self.activation, self._project(x_BTD, "up"))
        names = ("ff", "embed")
        return Projection(cfg, (cfg.d_model,), names, depth=2 * cfg.num_layers, name="down")(hidden_BTF), {}

    def _project(self, x_BTD, name):
        y_BTF = Projection(self.cfg, (self.cfg.d_ff,), ("embed", "ff"), name=name)(x_BTD)
        return constrain(y_BTF, "act_batch", "act_seq", "act_ff")


def _in_float32(function, *inputs_BTF):
    """Elementwise work in float32: exact, and on CPUs several times faster than in bfloat16."""
    return function(*map(widen, inputs_BTF))


def _bend_forward(function, *inputs_BTF):
    return _in_float32(function, *inputs_BTF), inputs_BTF


def _bend_backward(function, inputs_BTF, dy_BTF):
    return jax.vjp(partial(_in_float32, function), *inputs_BTF)[1](dy_BTF)


# The gradient keeps what goes in alone: to bend it again takes less time than to keep what lies between. Written out
# rather than as `jax.checkpoint`, which the policy of one around a whole block would overrule.
_bend = jax.custom_vjp(_in_float32, nondiff_argnums=(0,))
_bend.defvjp(_bend_forward, _bend_backward)


def relu(cfg: ModelConfig, *, name: str) -> FeedForward:
    """max(0, x) (Vaswani et al. 2017, section 3.3)."""
    return FeedForward(cfg, jax.nn.relu, name=name)


def relu2(cfg: ModelConfig, *, name: str) -> FeedForward:
    """max(0, x)^2 (Primer, So et al. 2021, arXiv 2109.08668)."""
    return FeedForward(cfg, lambda x: jnp.square(jax.nn.relu(x)), name=name)


def gelu(cfg: ModelConfig, *, name: str) -> FeedForward:
    """x times the normal distribution function at x, in GPT-2's tanh form (arXiv 1606.08415)."""
    return FeedForward(cfg, partial(jax.nn.gelu, approximate=True), name=name)


def swiglu(cfg: ModelConfig, *, name: str) -> FeedForward:
    """A gate of silu(x) = x sigmoid(x), with three matrices instead of two (Shazeer 2020, arXiv 2002.05202)."""
    return FeedForward(cfg, jax.nn.silu, gated=True, name=name)


def geglu(cfg: ModelConfig, *, name: str) -> FeedForward:
    """A gate of gelu, likewise."""
    return FeedForward(cfg, partial(jax.nn.gelu, approximate=True), gated=True, name=name)


MLPS = {
    "relu": relu,
    "relu2": relu2,
    "gelu": gelu,
    "swiglu": swiglu,
    "geglu": geglu,
    "moe": MixtureOfExperts,
}
