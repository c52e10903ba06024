"""The table of tasks."""

from gptjax.tasks.chat import Chatting
from gptjax.tasks.classification import Classification
from gptjax.tasks.language_modeling import LanguageModeling
from gptjax.tasks.multiple_choice import MultipleChoice
from gptjax.tasks.perplexity import Perplexity
from gptjax.tasks.preference import Preference
from gptjax.tasks.prompted import Prompted
from gptjax.tasks.seq2seq import Seq2Seq
from gptjax.tasks.tagging import Roles, Tagging

TASKS = {
    "language_modeling": LanguageModeling,
    "classification": Classification,
    "tagging": Tagging,
    "roles": Roles,
    "seq2seq": Seq2Seq,
    "chat": Chatting,
    "preference": Preference,
    "prompted": Prompted,
    "multiple_choice": MultipleChoice,
    "perplexity": Perplexity,
}
