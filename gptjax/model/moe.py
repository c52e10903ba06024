"""A feed-forward layer of many experts, of which each token goes through a few. Knows nothing of attention or depth.

Experts have no biases. What the router owes to balance is returned as sums, for the loss to add.

Shapes: B batch, T position, D model width, F hidden width of an expert, E experts, k choices of a token, N all choices
of all tokens (B x T x k), c places of an expert for the tokens of a row.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import manual
from gptjax.model.config import ModelConfig
from gptjax.model.layers import Kernel
from gptjax.sharding import constrain
from gptjax.types import Array, Metrics


class Experts(nn.Module):
    """The feed-forwards of all experts, each down(silu(gate x) * up x) (Shazeer 2020, arXiv 2002.05202)."""

    cfg: ModelConfig
    num_experts: int
    d_expert: int

    @nn.compact
    def __call__(self, multiply, x):
        """Returns what the experts make of x, by `multiply`: (x, kernel_EXY) -> y, each row by its expert's matrix."""
        D, F = self.cfg.d_model, self.d_expert
        gate, up = (self._kernel(name, (D, F), ("embed", "ff"), 1) for name in ("gate", "up"))
        down = self._kernel("down", (F, D), ("ff", "embed"), 2 * self.cfg.num_layers)
        return multiply(jax.nn.silu(multiply(x, gate)) * multiply(x, up), down)

    def _kernel(self, name, shape, names, depth):
        initializer = nn.initializers.normal(self.cfg.hidden_std / math.sqrt(depth))
        return Kernel((self.num_experts, *shape), ("experts", *names), initializer, name=name)().astype(self.cfg.dtype)


class Routing(NamedTuple):
    """Where tokens go."""

    expert_BTk: Array
    """The experts that a token likes best."""
    weight_BTk: Array
    """How their results are mixed; sums to 1."""


class MixtureOfExperts(nn.Module):
    """Each token goes through the `top_k` experts that a router gives the most (Shazeer et al. 2017, arXiv 1701.06538).

    Weights are the router's, over those chosen alone (Mixtral, arXiv 2401.04088); `num_shared` experts see every token
    (DeepSeekMoE, arXiv 2401.06066). Without a `capacity_factor` no token is dropped: right everywhere, and quick where
    a device has its rows and the experts whole. With one, an expert takes that many times its fair share of each row's
    tokens, first come first served, and what is beyond passes the layer by (GShard, arXiv 2006.16668): a program that
    divides over the `expert` axis, but what a token gets then depends on the tokens before it in its row.

    Two sums go to the loss: `balance_weight` times E x share of the choices x mean probability, summed over experts,
    within each row (Switch, arXiv 2101.03961), and `router_z_weight` times the squared log-sum of the router's
    exponentials (ST-MoE, arXiv 2202.08906), both by token. Padding counts as a token.
    """

    cfg: ModelConfig
    num_experts: int = 8
    top_k: int = 2
    num_shared: int = 0
    d_expert: int | None = None
    capacity_factor: float | None = None
    balance_weight: float = 0.01
    router_z_weight: float = 0.001

    @nn.compact
    def __call__(self, x_BTD):
        """Returns y_BTD in the compute dtype and the auxiliary sums."""
        cfg, E = self.cfg, self.num_experts
        assert cfg.d_ff is not None
        initializer = nn.initializers.normal(cfg.hidden_std)
        router_DE = Kernel((cfg.d_model, E), ("embed", None), initializer, name="router")()
        logits_BTE = x_BTD.astype(jnp.float32) @ router_DE
        weight_BTk, expert_BTk = jax.lax.top_k(jax.nn.softmax(logits_BTE), self.top_k)
        routing = Routing(expert_BTk, weight_BTk / jnp.sum(weight_BTk, axis=-1, keepdims=True))
        experts = Experts(cfg, E, self.d_expert or cfg.d_ff, name="experts")
        mix = self._dropless if self.capacity_factor is None else self._within_capacity
        y_BTD = mix(experts, x_BTD, routing)
        if self.num_shared:
            shared = Experts(cfg, 1, self.num_shared * (self.d_expert or cfg.d_ff), name="shared")
            y_BTD = y_BTD + shared(lambda x, kernel_1XY: x @ kernel_1XY[0], x_BTD)
        return y_BTD, self._aux(logits_BTE, expert_BTk)

    def _dropless(self, experts, x_BTD, routing):
        """Sorts all choices by expert, so that each multiplies its rows in one piece."""
        B, T, D = x_BTD.shape
        expert_N = routing.expert_BTk.reshape(-1)
        order_N = jnp.argsort(expert_N, stable=True)
        sizes_E = jnp.bincount(expert_N, length=self.num_experts)
        x_ND = x_BTD.reshape(-1, D)[order_N // self.top_k]
        y_ND = experts(lambda x, kernel_EXY: jax.lax.ragged_dot(x, kernel_EXY, sizes_E), x_ND)
        y_BTkD = jnp.zeros_like(y_ND).at[order_N].set(y_ND, unique_indices=True).reshape(B, T, self.top_k, D)
        return jnp.einsum("BTkD,BTk->BTD", y_BTkD, routing.weight_BTk.astype(y_BTkD.dtype))

    def _within_capacity(self, experts, x_BTD, routing):
        """Puts the tokens of each row into the places of the experts, in order of position."""
        B, T, _ = x_BTD.shape
        E, k = self.num_experts, self.top_k
        assert self.capacity_factor is not None
        places = min(T * k, math.ceil(self.capacity_factor * T * k / E))
        chosen_BNE = jax.nn.one_hot(routing.expert_BTk.reshape(B, T * k), E, dtype=jnp.int32)
        place_BNE = jnp.cumsum(chosen_BNE, axis=1) * chosen_BNE - 1  # -1, and beyond the last, is no place
        taken_BTkEc = jax.nn.one_hot(place_BNE, places, dtype=x_BTD.dtype).reshape(B, T, k, E, places)
        x_EBcD = constrain(jnp.einsum("BTkEc,BTD->EBcD", taken_BTkEc, x_BTD), *_EXPERTS)
        y_EBcD = experts(lambda x, kernel_EXY: jnp.einsum("EBcX,EXY->EBcY", x, kernel_EXY), x_EBcD)
        weight_BTk = routing.weight_BTk.astype(y_EBcD.dtype)
        return jnp.einsum("BTkEc,BTk,EBcD->BTD", taken_BTkEc, weight_BTk, constrain(y_EBcD, *_EXPERTS))

    def _aux(self, logits_BTE, expert_BTk) -> Metrics:
        """Returns (sum, count) over tokens by name, and under "extra_loss" what the loss adds as a bare sum."""
        E, (B, T, k) = self.num_experts, expert_BTk.shape
        chosen_BE = manual.row_total(jnp.sum(jax.nn.one_hot(expert_BTk, E), axis=(1, 2)))
        likely_BE = manual.row_total(jnp.sum(jax.nn.softmax(logits_BTE), axis=1))
        length = manual.row_total(jnp.float32(T))
        balance_B = E * jnp.sum(chosen_BE / k * likely_BE, axis=-1) / length**2
        balance, z = T * jnp.sum(balance_B), jnp.sum(jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)))
        count = jnp.float32(B * T)
        load_E = jnp.sum(jax.nn.one_hot(expert_BTk, E), axis=(0, 1, 2)) * E / k
        return {
            "extra_loss": self.balance_weight * balance + self.router_z_weight * z,
            "experts/balance_loss": (balance, count),
            "experts/router_z_loss": (z, count),
            **{f"experts/load_{e}": (load_E[e], count) for e in range(E)},
        }


_EXPERTS = ("act_experts", "act_expert_batch", None, "act_embed")
