"""The table of tasks."""

from gptjax.tasks.classification import Classification
from gptjax.tasks.language_modeling import LanguageModeling
from gptjax.tasks.seq2seq import Seq2Seq
from gptjax.tasks.tagging import Roles, Tagging

TASKS = {
    "language_modeling": LanguageModeling,
    "classification": Classification,
    "tagging": Tagging,
    "roles": Roles,
    "seq2seq": Seq2Seq,
}
