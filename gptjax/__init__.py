"""gptjax: GPT language models in JAX and Flax. Importing it has no side effect and does not import jax."""

__version__ = "0.1.0"
