"""What routing promises beside the contract: places run out in order, sums are by row, and mixing is by weight.

Shapes: B batch, T position, D model width, E experts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model, sharding
from gptjax.model.config import ModelConfig
from gptjax.model.moe import MixtureOfExperts
from gptjax.registry import Choice
from tests.contracts.test_attention import on_mesh
from tests.params import random_params

CFG = ModelConfig(vocab_size=32, d_model=8, d_ff=16, num_layers=2, num_heads=2, seq_len=16, vocab_multiple=1)
X_BTD = np.random.default_rng(0).standard_normal((4, 16, 8), np.float32)


def layer_of(**options):
    layer = MixtureOfExperts(CFG, num_experts=4, **options)
    params = jax.tree.map(lambda box: 20 * box.unbox(), layer.init(jax.random.key(1), X_BTD)["params"], is_leaf=is_box)
    return jax.jit(lambda x_BTD: layer.apply({"params": params}, x_BTD)), params


def is_box(x):
    return hasattr(x, "unbox")


@pytest.mark.slow
def test_with_places_for_all_it_is_what_it_is_without_places():
    free_BTD, aux = layer_of()[0](X_BTD)
    placed_BTD, same = layer_of(capacity_factor=4.0)[0](X_BTD)
    np.testing.assert_allclose(placed_BTD, free_BTD, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, aux, same)


def test_the_last_tokens_of_a_row_find_no_place():
    """Of equal tokens all want the same two experts, each of which has places for half of them: the first."""
    x_BTD = np.tile(X_BTD[:, :1], (1, 16, 1))
    free_BTD, placed_BTD = layer_of()[0](x_BTD)[0], layer_of(capacity_factor=1.0)[0](x_BTD)[0]
    np.testing.assert_allclose(placed_BTD[:, :8], free_BTD[:, :8], rtol=1e-5, atol=1e-6)
    assert np.all(placed_BTD[:, 8:] == 0)


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_a_token_is_not_displaced_by_a_later_one(factor):
    run, _ = layer_of(capacity_factor=factor)
    before_BTD = np.asarray(run(X_BTD)[0])
    after_BTD = np.asarray(run(np.concatenate([X_BTD[:, :9], -X_BTD[:, 9:]], axis=1))[0])
    np.testing.assert_array_equal(after_BTD[:, :9], before_BTD[:, :9])


def test_sums_are_their_definition_row_by_row():
    """So that cutting a batch changes nothing. Choices of even experts: balance is 1, and each load is 1."""
    run, params = layer_of(balance_weight=0.5, router_z_weight=0.25)
    aux = run(X_BTD)[1]
    scores_BTE = X_BTD.astype(np.float64) @ np.asarray(params["router"]["kernel"], np.float64)
    likely_BTE = np.exp(scores_BTE) / np.exp(scores_BTE).sum(-1, keepdims=True)
    chosen_BTE = np.argsort(np.argsort(-scores_BTE)) < 2
    share_BE, mean_BE = chosen_BTE.mean(1) / 2, likely_BTE.mean(1)
    balance, z = 16 * 4 * (share_BE * mean_BE).sum(), (np.log(np.exp(scores_BTE).sum(-1)) ** 2).sum()
    np.testing.assert_allclose(aux["experts/balance_loss"], (balance, 64), rtol=1e-5)
    np.testing.assert_allclose(aux["experts/router_z_loss"], (z, 64), rtol=1e-5)
    np.testing.assert_allclose(aux["extra_loss"], 0.5 * balance + 0.25 * z, rtol=1e-5)
    loads_E = [float(aux[f"experts/load_{e}"][0]) / 64 for e in range(4)]
    np.testing.assert_allclose(loads_E, chosen_BTE.mean((0, 1)) * 4 / 2, rtol=1e-5)
    halves = [run(x_BTD)[1] for x_BTD in np.split(X_BTD, 2)]
    jax.tree.map(lambda whole, a, b: np.testing.assert_allclose(whole, a + b, rtol=1e-5), aux, *halves)


@pytest.mark.parametrize(
    ("rules", "factor"), [("fsdp_tp", 2.0), pytest.param("fsdp_manual", None, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_experts_divide_over_their_axis(rules, factor):
    """Loss and gradients on eight devices, experts over four of them where the rules have an axis for it."""
    mlp = Choice("moe", {"num_experts": 4, "capacity_factor": factor})
    cfg = dataclasses.replace(CFG, mlp=mlp, positions=Choice("rotary"))
    params, tokens_BT = random_params(cfg, 0.2), np.random.default_rng(1).integers(0, 32, (8, 16))
    names = model.logical_axes(cfg)

    def loss(params, tokens_BT):
        x_BTD, _, aux = model.features(cfg, params, tokens_BT)
        return jnp.sum(jnp.sin(x_BTD)) + aux["extra_loss"]

    mesh = sharding.make_mesh(sharding.MeshConfig(expert=4 if rules == "fsdp_tp" else 1))
    layout = sharding.Layout(mesh, rules)
    placed = sharding.shardings(layout, names, params)
    if factor is not None:
        assert placed["blocks"]["mlp"]["experts"]["up"]["kernel"].spec[1] == "expert"
    run = jax.jit(on_mesh(jax.grad(loss), layout, names, names), out_shardings=placed)
    ours = run(jax.device_put(params, placed), tokens_BT)
    for wanted, grad in zip(
        jax.tree.leaves(jax.jit(jax.grad(loss))(params, tokens_BT)), jax.tree.leaves(ours), strict=True
    ):
        np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))
