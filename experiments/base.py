"""Every option with its default. An experiment starts from this and says only what differs.

The options and what they mean: the dataclasses that gptjax/config.py composes.
"""

from gptjax.config import ExperimentConfig, to_config_dict


def get_config():
    return to_config_dict(ExperimentConfig())
