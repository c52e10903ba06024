"""What reads the features at the top: the next-token head (`ModelConfig.head`), and classifiers of tasks with labels.

Shapes: B batch, T position, D model width, V vocabulary.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import registry
from gptjax.model.config import ModelConfig
from gptjax.model.layers import NORMS, Projection, named
from gptjax.sharding import constrain


class LanguageModel(nn.Module):
    """Logits over the vocabulary, by the token embedding where the config ties the two (arXiv 1608.05859).

    With `num_tokens` above 1 it predicts the tokens after the next one too, each from a layer of its own.
    """

    cfg: ModelConfig
    num_tokens: int = 1

    @nn.compact
    def __call__(self, x_BTD, embedding_VD, ahead: int = 0):
        """Returns logits_BTV, in float32, of the token `ahead` places after the next.

        Columns that only pad the vocabulary hold the least float.
        """
        cfg = self.cfg
        dtype = jnp.dtype(cfg.dtype)
        wide = jnp.promote_types(dtype, jnp.float32)
        looks = range(1, self.num_tokens) if self.is_initializing() else [ahead] * (ahead > 0)
        for place in looks:
            x_BTD = self._look(x_BTD, place)
        if cfg.tie_embeddings:
            kernel, dim = embedding_VD, 1
        else:
            shape = (cfg.d_model, cfg.padded_vocab_size)
            kernel = self.param("kernel", named(nn.initializers.normal(cfg.init_std), ("embed", "vocab")), shape)
            dim = 0
        contract = (((x_BTD.ndim - 1,), (dim,)), ((), ()))
        logits_BTV = jax.lax.dot_general(
            x_BTD.astype(dtype), kernel.astype(dtype), contract, preferred_element_type=wide
        )
        if (scale := cfg.logit_scale / cfg.width_multiplier) != 1:
            logits_BTV = logits_BTV * scale
        if cfg.padded_vocab_size != cfg.vocab_size:
            real_V = jnp.arange(cfg.padded_vocab_size) < cfg.vocab_size
            logits_BTV = jnp.where(real_V, logits_BTV, jnp.finfo(wide).min)
        return constrain(logits_BTV, "act_batch", "act_seq", "act_vocab")

    def _look(self, x_BTD, place):
        """Returns the features from which the token `place` places after the next is read."""
        cfg = self.cfg
        y_BTD = registry.build(NORMS, cfg.norm, None, name=f"ahead_{place}_norm")(x_BTD)
        y_BTD = Projection(cfg, (cfg.d_model,), ("embed", None), name=f"ahead_{place}")(y_BTD)
        return x_BTD + jax.nn.silu(y_BTD)


def multi_token(cfg: ModelConfig, *, num_tokens: int = 2, name: str | None = None) -> LanguageModel:
    """The next token and those after it, learned together (Gloeckle et al. 2024, arXiv 2404.19737).

    Each has a residual layer (Medusa's, arXiv 2401.10774) where the paper has a block, and all share the unembedding.
    Sampling reads the next token alone.
    """
    return LanguageModel(cfg, num_tokens=num_tokens, name=name)


def classifier(cfg: ModelConfig, name: str) -> Projection:
    """A linear map from features to the labels of a task (GPT-1, Radford et al. 2018, section 3.2)."""
    return Projection(cfg, (dict(cfg.classifiers)[name],), ("embed", None))


HEADS = {
    "lm": LanguageModel,
    "multi_token": multi_token,
}
