"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from runtime.decoding.request import Step
from runtime.sampling.logprobs import TokenLogprob
from runtime.serving.answering import Answer, answer
from runtime.serving.answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChunkChoice,
    Delta,
    Metrics,
    TurnReason,
    Usage,
)
from runtime.serving.fields import ChatBody
from runtime.serving.generation import Generation
from runtime.serving.logprobs import chat_logprobs
from runtime.serving.requests import chat_requests
from runtime.serving.state import ServerState
from runtime.serving.targets import ServedTarget
from runtime.serving.tools import Toolbox, Turn


class ChatAnswer(Answer[ChatBody]):
    """The model's next turn, once for each choice."""

    prefix = "chatcmpl"

    def __init__(
        self, body: ChatBody, served: ServedTarget, generations: Sequence[Generation], request_id: str
    ) -> None:
        super().__init__(body, served, generations, request_id)
        toolbox = Toolbox.of(body, served)
        self._turns = [Turn(toolbox) for _ in generations]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in generations]
        self._begun: set[int] = set()

    def part(self, generation: Generation, step: Step) -> ChatChunk | None:
        """The step's text and log-probabilities; the first part of a choice has the role."""
        index, first = generation.choice, generation.choice not in self._begun
        self._begun.add(index)
        content, calls = self._turns[index].push(step.text)
        self._logprobs[index] += step.logprobs or []
        if not (content or calls or step.logprobs or first):
            return None
        logprobs = chat_logprobs(step.logprobs, self.served.names) if step.logprobs else None
        delta = Delta("assistant" if first else UNSET, content, calls or UNSET)
        return self._chunk([ChunkChoice(index, delta, logprobs, None)])

    def end(self, generation: Generation) -> ChatChunk:
        """What was held back, the finish reason, the seed, and whether the text is exact."""
        request = generation.request
        content, calls = self._turns[generation.choice].end()
        delta = Delta(content=content or UNSET, tool_calls=calls or UNSET)
        reason = self._reason(generation)
        return self._chunk([ChunkChoice(generation.choice, delta, None, reason, request.seed, request.exact)])

    def last(self) -> ChatChunk:
        """A part without a choice."""
        return self._chunk([])

    def whole(self, usage: Usage, metrics: Metrics) -> ChatCompletion:
        """All choices."""
        choices = [self._choice(each) for each in self.generations]
        return ChatCompletion(object="chat.completion", choices=choices, usage=usage, metrics=metrics, **self.head)

    def _choice(self, generation: Generation) -> ChatChoice:
        turn, request = self._turns[generation.choice], generation.request
        turn.end()
        said = turn.content if turn.content or not turn.calls else None
        logprobs = self._logprobs[generation.choice] if self.body.logprobs else None
        return ChatChoice(
            generation.choice,
            AssistantMessage("assistant", said, turn.calls or UNSET),
            None if logprobs is None else chat_logprobs(logprobs, self.served.names),
            self._reason(generation),
            request.seed,
            request.exact,
        )

    def _reason(self, generation: Generation) -> TurnReason:
        """Why a turn has ended."""
        reason = self.finish_reason(generation)
        return "tool_calls" if reason == "stop" and self._turns[generation.choice].calls else reason

    def _chunk(self, choices: list[ChunkChoice]) -> ChatChunk:
        return ChatChunk(object="chat.completion.chunk", choices=choices, **self.head)


async def chat(http: Request, state: ServerState) -> Response:
    """Take the model's turn in a conversation."""
    return await answer(http, state, ChatBody, chat_requests, ChatAnswer)
