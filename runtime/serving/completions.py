"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from runtime.decoding.request import Step
from runtime.serving.answering import Answer, answer
from runtime.serving.answers import Completion, CompletionChoice, Metrics, TextLogprobs, Usage
from runtime.serving.fields import CompletionBody
from runtime.serving.generation import Generation
from runtime.serving.logprobs import echoed_logprobs, joined, text_logprobs
from runtime.serving.requests import completion_requests, prompts_of
from runtime.serving.state import ServerState
from runtime.serving.targets import ServedTarget


class CompletionAnswer(Answer[CompletionBody]):
    """Continuations, with the prompt before them where ``echo`` asks for it."""

    prefix = "cmpl"

    def __init__(
        self, body: CompletionBody, served: ServedTarget, generations: Sequence[Generation], request_id: str
    ) -> None:
        super().__init__(body, served, generations, request_id)
        self._texts = [""] * len(generations)
        self._logprobs: list[TextLogprobs | None] = [None] * len(generations)
        self._begun: set[int] = set()

    def part(self, generation: Generation, step: Step) -> Completion | None:
        """The step's text and log-probabilities."""
        index, text, before = generation.choice, step.text, self._texts[generation.choice]
        logprobs = None
        if self.body.echo and index not in self._begun:
            self._begun.add(index)
            before = self._prompt(generation)
            text = before + step.text
            if entries := generation.request.prompt_logprobs:
                logprobs = echoed_logprobs(generation.request.prompt, before, entries, self.served.names)
        if step.logprobs:
            own = text_logprobs(step.logprobs, step.pieces, len(before), self.served.names)
            logprobs = joined(logprobs, own) if logprobs else own
        self._texts[index] += text
        known = self._logprobs[index]
        self._logprobs[index] = joined(known, logprobs) if known and logprobs else known or logprobs
        if not text and logprobs is None:
            return None
        return self._answer([CompletionChoice(index, text, logprobs, None)])

    def end(self, generation: Generation) -> Completion:
        """The finish reason, the seed, and whether the text is exact."""
        return self._answer([self._ended(generation, "", None)])

    def last(self) -> Completion:
        """A part without a choice."""
        return self._answer([])

    def whole(self, usage: Usage, metrics: Metrics) -> Completion:
        """All choices."""
        choices = [
            self._ended(each, self._texts[each.choice], self._logprobs[each.choice]) for each in self.generations
        ]
        answer = self._answer(choices)
        answer.usage, answer.metrics = usage, metrics
        return answer

    def _ended(self, generation: Generation, text: str, logprobs: TextLogprobs | None) -> CompletionChoice:
        request, reason = generation.request, self.finish_reason(generation)
        return CompletionChoice(generation.choice, text, logprobs, reason, request.seed, request.exact)

    def _answer(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(object="text_completion", choices=choices, **self.head)

    def _prompt(self, generation: Generation) -> str:
        prompt = prompts_of(self.body)[generation.choice // (self.body.n or 1)]
        if isinstance(prompt, str):
            return prompt
        return str(self.served.decoder.tokenizer.decode(prompt, skip_special_tokens=False))


async def complete(http: Request, state: ServerState) -> Response:
    """Continue one prompt or several."""
    return await answer(http, state, CompletionBody, completion_requests, CompletionAnswer)
