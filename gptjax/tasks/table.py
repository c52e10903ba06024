"""The table of tasks."""

from gptjax.tasks.classification import Classification
from gptjax.tasks.language_modeling import LanguageModeling

TASKS = {
    "language_modeling": LanguageModeling,
    "classification": Classification,
}
