"""One step of one target's texts: their trees and chunks of prompts, verified in one call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.backends import Logits
from runtime.decoding.acceptance import accept
from runtime.decoding.pace import Pace
from runtime.decoding.pair import Pair
from runtime.decoding.request import Request, Step
from runtime.drafting.calls import Calls, run_together
from runtime.drafting.policy import Load
from runtime.drafting.proposal import Batch, Outcome, Proposal, StepTimes
from runtime.targets.interface import Chunk
from runtime.tree.tree import Tree

Steps = list[tuple[Request, Step]]


@dataclass(frozen=True, slots=True)
class CallReport:
    """What one call of a target did: the ``outcomes`` of those ``texts`` that decode in it, and the ``steps`` of all.

    ``predicted_draft_ms`` is what the draft's calls should have taken, 0 where no policy prices them.
    """

    pair: Pair
    texts: list[Request]
    batch: Batch
    times: StepTimes
    outcomes: dict[Request, Outcome]
    steps: Steps
    predicted_draft_ms: float


class TargetBatch:
    """The texts of one target in one step. A text decodes, or its prompt is not committed yet."""

    def __init__(self, texts: Sequence[Request], pace: Pace, offline: bool = False) -> None:
        self.texts, self.target, self.pace, self._offline = texts, texts[0].pair.target, pace, offline
        self.decoding = [request for request in texts if not request.left]
        self.drafting = [request for request in self.decoding if request.drafting and not request.drafting.rests()]
        self.proposals = {request: Proposal(Tree.chain(request.tokens[-1:])) for request in self.decoding}
        self.chunks = dict(self._chunks())
        self.draft_seconds = self.planning_seconds = 0.0
        self.report: CallReport | None = None
        """Of the call, once it is made."""

    def _chunks(self) -> Iterator[tuple[Request, Chunk]]:
        """Parts of the prompts, the oldest first."""
        prompts = [request for request in self.texts if request.left]
        room = self._room(len(prompts)) if prompts else 0
        for request in prompts:
            if room > 0:
                # Where bits depend on how a prompt is cut, there is one way to cut it.
                tokens = request.left[: room if self.target.keeps_prefixes else self.target.prompt_rows]
                yield request, Chunk(tokens, request.scores_prompt)
                room -= len(tokens)

    def _room(self, prompts: int) -> int:
        """Rows of prompts in this step."""
        if self._offline or not self.decoding:
            return self.target.prompt_rows
        room = self.pace.room(self._expected_rows(), prompts)
        return max(1, min(self.target.prompt_rows, int(room)))

    def _expected_rows(self) -> int:
        """Rows of the texts that decode."""
        return sum(map(_expected, self.decoding))

    @property
    def _prompt_rows(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks.values())

    def drafts(self) -> Iterator[Calls[Proposal]]:
        """What ``drafting`` texts propose; each generator is one text's."""
        rows, lanes = self._expected_rows() + self._prompt_rows, len(self.decoding) + len(self.chunks)
        for request in self.drafting:
            assert request.drafting is not None
            load = Load(len(self.decoding), rows - _expected(request), lanes)
            room = min(request.remaining, self.target.max_rows) - 1
            yield request.drafting.propose(request.tokens[-1], room, load)

    def catching_up(self) -> Iterator[Calls[None]]:
        """Drafts of the texts whose prompts are cut follow piece by piece, so that they delay nobody either."""
        for request, chunk in self.chunks.items():
            if self.decoding and request.drafting is not None:
                yield request.drafting.catch_up(len(chunk.tokens), Load(len(self.decoding) + 1))

    def verify_and_commit(self) -> Steps:
        """Verify all trees and chunks in one call, accept along the target's choices, and learn from what it took."""
        texts = [request for request in (*self.decoding, *self.chunks) if not request.finished]
        if not texts:
            return []
        began, verified = time.perf_counter(), self.target.clock.seconds
        parts = [self._part(request) for request in texts]
        context = sum(request.leased.length for request in texts)
        logits = self.target.run([(request.leased, part) for request, part in zip(texts, parts, strict=True)])
        steps: Steps = []
        paths: dict[Request, tuple[list[int], int]] = {}
        for request, part, rows in zip(texts, parts, logits, strict=True):
            try:
                if isinstance(part, Tree):
                    step, path, copied = _commit(request, self.proposals[request], rows)
                    paths[request] = path, copied
                    steps.append((request, step))
                else:
                    request.score_prompt(part, rows)
                    steps += [] if request.left else _first_token(request, rows[part.last_row])
            except Exception as error:  # of this text alone, like a token that cannot be decoded
                request.fail(error)
        total = self.planning_seconds + time.perf_counter() - began
        if paths:
            self.pace.observe(sum(map(len, parts)), total)
        times = StepTimes(self.draft_seconds, self.target.clock.seconds - verified, total)
        for request in self.chunks:
            request.stats.add_prefill(total)
        drafted = [request for request in paths if self.proposals[request].exits]
        batch = Batch(
            texts=len(paths),
            drafted=len(drafted),
            rows=sum(len(part) for part in parts),
            tokens=sum(len(path) for path, _ in paths.values()),
            lanes=len(texts),
            prompt_rows=self._prompt_rows,
            context=context,
        )
        predicted_ms = sum(request.drafting.budget.predicted_ms for request in drafted if request.drafting)
        outcomes = {
            request: Outcome(self.proposals[request], path, times, copied, batch)
            for request, (path, copied) in paths.items()
        }
        for request, outcome in outcomes.items():
            request.record(outcome)
        self.report = CallReport(texts[0].pair, texts, batch, times, outcomes, steps, predicted_ms)
        return steps

    def _part(self, request: Request) -> Tree | Chunk:
        return self.chunks[request] if request in self.chunks else self.proposals[request].tree


def draft_together(batches: Sequence[TargetBatch]) -> None:
    """Let the texts of all batches draft, in calls that they share; each batch bears the share of its texts."""
    if not any(batch.drafting or batch.chunks for batch in batches):
        return
    began = time.perf_counter()
    requests = [request for batch in batches for request in batch.drafting]
    drafts = {id(request.pair.draft): request.pair.draft for request in requests}.values()
    before = sum(draft.engines.clock.seconds for draft in drafts if draft)
    drafting: list[Calls[Any]] = [draft for batch in batches for draft in batch.drafts()]
    others: list[Calls[Any]] = [draft for batch in batches for draft in batch.catching_up()]
    proposed: dict[Request, Proposal] = dict(zip(requests, run_together([*drafting, *others]), strict=False))
    spent = sum(draft.engines.clock.seconds for draft in drafts if draft) - before
    seconds, texts = time.perf_counter() - began, sum(len(batch.decoding) for batch in batches)
    for batch in batches:
        batch.proposals |= {request: proposed[request] for request in batch.drafting}
        share = len(batch.decoding) / texts if texts else 0.0
        batch.draft_seconds, batch.planning_seconds = spent * share, seconds * share


def _expected(request: Request) -> int:
    """Rows of a text in the next call, by what it had in the calls before."""
    return max(1, round(request.usual_rows))


def _commit(request: Request, proposal: Proposal, logits: Logits) -> tuple[Step, list[int], int]:
    """Accept along the target's choices and keep the accepted rows; also the accepted path, and how many of its tokens
    were copied from the text.
    """
    acceptance = accept(proposal.tree, logits, request.chooser, request.length - 1)
    request.leased.commit(acceptance.path)
    copied = request.drafting.follow(acceptance.tokens) if request.drafting else 0
    return request.append(acceptance.tokens, len(acceptance.path) - 1), acceptance.path, copied


def _first_token(request: Request, logits: np.ndarray) -> Steps:
    """The token after the prompt; none where the text goes on from tokens that it has."""
    if request.tokens:
        return []
    token = request.chooser.choose(logits, request.length)
    step = request.append([token], drafted=0)
    if request.drafting is not None:
        request.drafting.follow([token])
    return [(request, step)]
