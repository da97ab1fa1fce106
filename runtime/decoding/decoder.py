"""The decoding loop: plan what to verify, verify it in one call, commit what the target accepts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.backends import Logits
from runtime.backends.placement import Placement
from runtime.decoding.acceptance import accept
from runtime.decoding.options import Options
from runtime.decoding.preparation import Preparation, Progress, silent
from runtime.decoding.request import Request, Step
from runtime.drafting.ngram import LONGEST_DRAFT
from runtime.drafting.proposal import Proposal, StepTimes
from runtime.drafting.sorted_draft import SortedDraft
from runtime.drafting.text import TextDrafting
from runtime.targets import open_target
from runtime.targets.interface import TargetModel
from runtime.text.chat import ChatTemplate, Message
from runtime.text.tokenizer import load_tokenizer
from runtime.tree.tree import Tree
from s2d_trt.bundle import find_bundle
from s2d_trt.errors import OptionError, TokenizerMismatchError


class Decoder:
    """Generates text with one target, helped by a sorted draft that other targets may share.

    The text is what the target alone generates with the same seed, whatever the draft, the thresholds and the tree.
    Without a draft, n-gram lookup still drafts.
    """

    def __init__(self, target: TargetModel, draft: SortedDraft | None = None) -> None:
        self.target, self.draft = target, draft
        self.tokenizer = load_tokenizer(target.tokenizer_path)
        self._preparation = Preparation(target, draft)
        self._template: ChatTemplate | None = None
        if draft is not None:
            ours, theirs = (part.tokenizer.fingerprint for part in (target, draft))
            if ours != theirs:
                raise TokenizerMismatchError(
                    f"target {target.name} and draft {draft.name} have different tokenizers ({ours[:12]} and"
                    f" {theirs[:12]}); use a draft trained with this target's tokenizer"
                )

    @classmethod
    def open(
        cls,
        target: str | Path,
        draft: str | Path | None = "draft",
        placement: Placement | None = None,
        verify: bool = False,
    ) -> Decoder:
        """Load bundles by path or by name under ``engines/``; ``verify`` checks the hash of every file.

        Raises:
            BundleError, OptionError, TokenizerMismatchError: a bundle is missing or damaged, or they do not fit.
        """
        loaded = None if draft is None else SortedDraft.open(find_bundle(draft), placement, verify)
        return cls(open_target(target, placement, verify), loaded)

    def request(self, prompt: str | Sequence[int], options: Options | None = None, **changes: Any) -> Request:
        """A new text to generate, from a prompt or its token ids; ``changes`` are fields of ``Options``.

        Raises:
            OptionError, CapacityError: an option or the prompt does not fit.
        """
        options = replace(options or Options(), **changes)
        self.check(options)
        ids = self._encode(prompt) if isinstance(prompt, str) else prompt
        return Request(ids, options, self.target, self.tokenizer)

    def check(self, options: Options) -> None:
        """Raise OptionError where the engines cannot do what ``options`` ask for."""
        self.target.check_sampling(options.sampling)
        if not options.draft:
            return
        shape = options.policy.largest_tree(chain=options.exact is not False and options.allows_exact)
        self.target.check_shape(shape)
        if self.draft is not None:
            self.draft.check_shape(shape)
            options.policy.exit.check(self.draft.exits)

    def chat_request(self, messages: Sequence[Message], options: Options | None = None, **changes: Any) -> Request:
        """As ``request``, of a conversation: the target's chat template makes the prompt, up to its own next turn.

        Raises:
            BundleError: the target has no chat template. OptionError: the template does not take these messages.
        """
        if self._template is None:
            self._template = ChatTemplate.of(self.target)
        # The template writes the special tokens itself.
        return self.request(self._encode(self._template.render(messages), special_tokens=False), options, **changes)

    def prepare(self, options: Options | None = None, progress: Progress = silent, measure: bool = False) -> None:
        """Check and measure what requests with ``options`` need, once for each machine: whether outputs are exact, and
        what calls cost. ``run`` does so too where it was not done before; ``measure`` measures again.

        Raises:
            OptionError: the engines cannot do what ``options`` ask for.
            S2DError: ``options.exact`` cannot be promised here.
        """
        options = options or Options()
        self.check(options)
        self._preparation.prepare(options, progress, measure)

    @property
    def cost_disagreement(self) -> float:
        """How far the latest steps are from the measured costs, as a ratio of at least 1."""
        return self._preparation.disagreement

    def run(self, request: Request) -> Iterator[Step]:
        """Yield each step's accepted tokens until the request finishes or is cancelled.

        An error of an engine ends this request alone, with finish reason ``error``, and is raised.
        """
        if request.started:
            raise OptionError("this request has been run before; make a new one")
        request.started = True
        try:
            if not request.cancelled:
                yield self._prefill(request)
            while not request.finished and not request.cancelled:
                yield self._step(request)
            if held_back := request.finish("cancelled"):
                yield Step([], 0, [held_back])
        except Exception:
            request.finish_reason = "error"
            raise
        finally:
            self._release(request)
            self._preparation.review()
            request.finish("cancelled")

    def _prefill(self, request: Request) -> Step:
        began = time.perf_counter()
        self._start(request)
        assert request.sequence is not None
        prefilling = time.perf_counter()
        logits = request.sequence.prefill(request.prompt)
        token = request.chooser.choose(logits, request.length)
        step = request.append([token], drafted=0)
        if request.drafting is not None:
            request.drafting.follow([token])
        request.stats.prefill = request.stats.total = time.perf_counter() - prefilling
        request.stats.preparation = prefilling - began
        return step

    def _step(self, request: Request) -> Step:
        began = time.perf_counter()
        sequence, drafting = request.sequence, request.drafting
        assert sequence is not None
        verified, drafted = sequence.clock.seconds, drafting.seconds if drafting else 0.0
        proposal = self._plan(request)
        logits = sequence.verify(proposal.tree)
        step, path, copied = self._commit(request, proposal, logits)
        times = StepTimes(
            drafting.seconds - drafted if drafting else 0.0,
            sequence.clock.seconds - verified,
            time.perf_counter() - began,
        )
        request.stats.record(proposal, self.draft.exits if self.draft else (), len(path), times)
        if drafting is not None:
            drafting.learn(proposal, path, times, copied)
        return step

    def _plan(self, request: Request) -> Proposal:
        """The tree to verify: at least the root, the last token of the text."""
        if request.drafting is None:
            return Proposal(Tree.chain(request.tokens[-1:]))
        return request.drafting.propose(request.tokens[-1], min(request.remaining, self.target.max_rows) - 1)

    def _commit(self, request: Request, proposal: Proposal, logits: Logits) -> tuple[Step, list[int], int]:
        """Accept along the target's choices and keep the accepted rows; also the accepted path, and how many of its
        tokens were copied from the text.
        """
        assert request.sequence is not None
        acceptance = accept(proposal.tree, logits, request.chooser, request.length - 1)
        request.sequence.commit(acceptance.path)
        copied = request.drafting.follow(acceptance.tokens) if request.drafting else 0
        return request.append(acceptance.tokens, len(acceptance.path) - 1), acceptance.path, copied

    def _start(self, request: Request) -> None:
        """Lease what the request needs of the target and of the drafters."""
        options, policy = request.options, request.options.policy
        request.exact = self._preparation.prepare(options)
        shape = policy.largest_tree(chain=request.exact)
        copied = LONGEST_DRAFT if policy.looks_up else 0
        rows = min(shape.verify_rows(copied), self.target.max_rows) if options.draft else 1
        request.sequence = self.target.lease(rows if request.exact else 0)
        if not options.draft:
            return
        chain = request.exact or shape.is_chain or self.target.drafts == "chain"
        shape = replace(shape, nodes=max(2, min(shape.nodes, self.target.max_rows)))
        planner = self._preparation.planner(policy.exit, options.sampling.temperature)
        request.drafting = TextDrafting([], planner, shape, request.noise, chain)
        # Model drafters grow the tree level by level, so they come first.
        drafters = [self.draft, self._preparation.lookup(options.sampling.temperature) if policy.looks_up else None]
        for drafter in drafters:
            if drafter is not None and (leased := drafter.lease(request.prompt, shape)) is not None:
                request.drafting.sequences.append(leased)

    def _release(self, request: Request) -> None:
        if request.sequence is not None:
            self.target.release(request.sequence)
            request.sequence = None
        if request.drafting is not None:
            request.drafting.release()

    def _encode(self, prompt: str, special_tokens: bool = True) -> list[int]:
        try:
            ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=special_tokens).ids
        except TypeError as cause:  # a lone surrogate: what Python makes of bytes that are no text
            raise OptionError("the prompt is not valid Unicode text; convert it to UTF-8") from cause
        return ids
