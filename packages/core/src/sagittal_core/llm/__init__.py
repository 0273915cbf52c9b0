"""Language models behind one interface: a server that speaks OpenAI's protocol, or local weights.

Nothing here imports torch or httpx until a model is used.
"""

from sagittal_core.llm.base import ChoiceScores, LanguageModel
from sagittal_core.llm.cache import CachedModel, ReplyCache
from sagittal_core.llm.limits import RateLimit
from sagittal_core.llm.local import LocalModel
from sagittal_core.llm.many import Prices, Tally, TooManyFailures, answer_many, read_answers
from sagittal_core.llm.openai_chat import Clock, OpenAIChat
from sagittal_core.llm.reply import Message, Outcome, Reply, Request, parse

__all__ = [
    "CachedModel",
    "ChoiceScores",
    "Clock",
    "LanguageModel",
    "LocalModel",
    "Message",
    "OpenAIChat",
    "Outcome",
    "Prices",
    "RateLimit",
    "Reply",
    "ReplyCache",
    "Request",
    "Tally",
    "TooManyFailures",
    "answer_many",
    "parse",
    "read_answers",
]
