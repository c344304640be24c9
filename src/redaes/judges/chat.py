"""Judges on chat models: a photograph scored, two versions of one compared (Sec. 3.1: three vision-language models).

A judge sees pictures named PHOTOGRAPH, or VERSION A and VERSION B; it learns neither that one was edited, nor how.
"""

from typing import TYPE_CHECKING

from redaes.chat.answers import CompareAnswer, ScoreAnswer
from redaes.chat.anthropic import Anthropic
from redaes.chat.local import Local
from redaes.chat.openai_compatible import OpenAICompatible
from redaes.chat.plugin import ChatPlugin
from redaes.records import Verdict

if TYPE_CHECKING:
    from PIL.Image import Image


class ChatJudge(ChatPlugin):
    """What the three judges share."""

    def score(self, image: "Image") -> Verdict:
        """See `redaes.judges.Judge.score`."""
        answer = self.ask("score", [image], ScoreAnswer)
        return Verdict(judge=self.name, value=answer.score, reasoning=answer.reasoning)

    def compare(self, source: "Image", edited: "Image") -> Verdict:
        """See `redaes.judges.Judge.compare`."""
        answer = self.ask("compare", [source, edited], CompareAnswer)
        return Verdict(judge=self.name, value=answer.difference, reasoning=answer.reasoning)


class OpenAICompatibleJudge(ChatJudge):
    """`openai_compatible`: a judge at OpenAI or at any server that speaks its protocol."""

    backend = OpenAICompatible


class AnthropicJudge(ChatJudge):
    """`anthropic`: a Claude model as a judge."""

    backend = Anthropic


class LocalJudge(ChatJudge):
    """`local`: a vision-language model in this process as a judge."""

    backend = Local
