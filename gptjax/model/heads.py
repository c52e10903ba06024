"""What reads the features at the top. A task names its head (`ModelConfig.head`) and never imports it.

Shapes: B batch, T position, D model width, V vocabulary.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax.model.config import ModelConfig
from gptjax.model.layers import named
from gptjax.sharding import constrain


class LanguageModel(nn.Module):
    """Logits over the vocabulary, by the token embedding where the config ties the two (arXiv 1608.05859)."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, embedding_VD):
        """Returns logits_BTV in float32; columns that only pad the vocabulary hold the least float."""
        cfg = self.cfg
        dtype = jnp.dtype(cfg.dtype)
        wide = jnp.promote_types(dtype, jnp.float32)
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
        if cfg.padded_vocab_size != cfg.vocab_size:
            real_V = jnp.arange(cfg.padded_vocab_size) < cfg.vocab_size
            logits_BTV = jnp.where(real_V, logits_BTV, jnp.finfo(wide).min)
        return constrain(logits_BTV, "act_batch", "act_seq", "act_vocab")


HEADS = {
    "lm": LanguageModel,
}
