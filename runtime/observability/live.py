"""POST /live/text: a completion that says of each piece of text whether a draft proposed it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from runtime.decoding.request import Step
from runtime.serving.answering import StreamedAnswer, answer
from runtime.serving.errors import bad_request
from runtime.serving.fields import CompletionBody
from runtime.serving.generation import Generation
from runtime.serving.requests import completion_requests
from runtime.serving.state import ServerState
from runtime.serving.targets import ServedTarget


class LivePart(Struct):
    """What a step added: the first ``drafted`` of its ``pieces`` were proposed by a draft and accepted."""

    pieces: list[str]
    drafted: int


class LiveEnd(Struct):
    """What the text cost. ``seconds`` are from the start of its prompt to its last token."""

    tokens: int
    steps: int
    accepted: int
    draft_tokens: int
    seconds: float
    seed: int
    exact: bool
    finish_reason: str


class LiveAnswer(StreamedAnswer[CompletionBody]):
    """A streamed text with its drafts marked."""

    prefix = "live"

    def __init__(
        self, body: CompletionBody, served: ServedTarget, generations: Sequence[Generation], request_id: str
    ) -> None:
        if not body.stream:
            raise bad_request("a live text is always a stream; send stream: true", "stream", "invalid_value")
        super().__init__(body, served, generations, request_id)

    def part(self, generation: Generation, step: Step) -> LivePart | None:
        """The step's pieces."""
        return LivePart(step.pieces, min(step.drafted, len(step.pieces))) if step.text else None

    def end(self, generation: Generation) -> LiveEnd:
        """The figures."""
        request = generation.request
        stats, last, started = request.stats, generation.last_token, generation.started
        seconds = last - started if last is not None and started is not None else 0.0
        return LiveEnd(
            tokens=len(request.tokens),
            steps=stats.steps,
            accepted=stats.accepted_tokens,
            draft_tokens=stats.draft_tokens,
            seconds=seconds,
            seed=request.seed,
            exact=request.exact,
            finish_reason=self.finish_reason(generation),
        )


async def live_text(http: Request, state: ServerState) -> Response:
    """Stream one text."""
    return await answer(http, state, CompletionBody, completion_requests, LiveAnswer)
