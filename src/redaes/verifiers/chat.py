"""Verifiers on chat models: VIEScore (arXiv 2312.14867) with a vision-language model, as in Sec. 3.1.

Two sub-scores of semantic consistency, *editing success* and *over-editing*, from source, edit and instruction. As an
option also VIEScore's perceptual quality, *naturalness* and *artifacts*, in a question of its own about the edit alone.
"""

import json
from typing import TYPE_CHECKING, Any

from redaes.calls import Role
from redaes.chat.answers import PerceptualQualityAnswer, VerifyAnswer
from redaes.chat.anthropic import Anthropic
from redaes.chat.local import Local
from redaes.chat.openai_compatible import OpenAICompatible
from redaes.chat.plugin import ChatPlugin
from redaes.prompts.chat import ChatQuestion
from redaes.records import Instruction, Verification

if TYPE_CHECKING:
    from PIL.Image import Image


class ChatVerifier(ChatPlugin):
    """What the three verifiers share.

    Args:
        perceptual_quality: ask for it too; the paper speaks of semantic consistency alone.
        settings: of the name and the back-end.
    """

    def __init__(self, perceptual_quality: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.perceptual_quality = perceptual_quality

    def questions(self, role: Role) -> tuple[ChatQuestion, ...]:
        """One, or two with perceptual quality."""
        return ("verify", "perceptual_quality") if self.perceptual_quality else ("verify",)

    def verify(self, source: "Image", edited: "Image", instruction: Instruction) -> Verification:
        """See `redaes.verifiers.Verifier.verify`."""
        quoted = json.dumps(instruction.text, ensure_ascii=False)
        answer = self.ask("verify", [source, edited], VerifyAnswer, instruction=quoted)
        quality = None
        if self.perceptual_quality:
            seen = self.ask("perceptual_quality", [edited], PerceptualQualityAnswer)
            quality = min(seen.naturalness, seen.artifacts)
        return Verification(
            verifier=self.name,
            success=answer.success,
            over_editing=answer.over_editing,
            perceptual_quality=quality,
        )


class OpenAICompatibleVerifier(ChatVerifier):
    """`openai_compatible`: a verifier at OpenAI or at any server that speaks its protocol."""

    backend = OpenAICompatible


class AnthropicVerifier(ChatVerifier):
    """`anthropic`: a Claude model as a verifier."""

    backend = Anthropic


class LocalVerifier(ChatVerifier):
    """`local`: a vision-language model in this process as a verifier."""

    backend = Local
