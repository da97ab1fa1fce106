"""The decoding loop: draft, verify, accept, commit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.backends.placement import Placement
from runtime.decoding.acceptance import accept
from runtime.decoding.request import Options, Request, Step
from runtime.drafting.adaptive import CostAware, Learned
from runtime.drafting.costs import Costs, load_costs
from runtime.drafting.policy import DraftingPolicy, FixedThresholds, StepTimes
from runtime.drafting.sorted_draft import Proposal, SortedDraft
from runtime.drafting.tree import Tree, TreeBuilder
from runtime.targets import open_target
from runtime.targets.interface import TargetModel
from runtime.text.chat import ChatTemplate, Message
from runtime.text.tokenizer import load_tokenizer
from s2d_trt.bundle import find_bundle
from s2d_trt.errors import OptionError, TokenizerMismatchError


class Decoder:
    """Generates text with one target, helped by a sorted draft that other targets may share.

    The output is what the target alone generates with the same seed, whatever the draft, the thresholds
    and the tree.
    """

    def __init__(self, target: TargetModel, draft: SortedDraft | None = None) -> None:
        self.target, self.draft = target, draft
        self.tokenizer = load_tokenizer(target.tokenizer_path)
        self._exact_checked = False
        self._costs: Costs | None = None
        self._learned: dict[float, Learned] = {}
        if draft is not None:
            ours, theirs = (part.tokenizer.fingerprint for part in (target, draft))
            if ours != theirs:
                raise TokenizerMismatchError(
                    f"target {target.name} and draft {draft.name} have different tokenizers ({ours[:12]} and"
                    f" {theirs[:12]}); use a draft trained with this target's tokenizer"
                )

    @classmethod
    def open(
        cls, target: str | Path, draft: str | Path | None = "draft", placement: Placement | None = None
    ) -> Decoder:
        """Load bundles by path or by name under ``engines/``. Raises BundleError, TokenizerMismatchError."""
        loaded = None if draft is None else SortedDraft.open(find_bundle(draft), placement)
        return cls(open_target(target, placement), loaded)

    def request(self, prompt: str | Sequence[int], options: Options | None = None, **changes: Any) -> Request:
        """A new text to generate, from a prompt or its token ids; ``changes`` are fields of ``Options``.

        Raises:
            OptionError, CapacityError: an option or the prompt does not fit.
        """
        options = replace(options or Options(), **changes)
        self.target.check_sampling(options.sampling)
        if self.draft is not None and options.draft:
            self.draft.check_shape(options.tree)
            self.target.check_shape(options.tree)
        if options.exact and not self._exact_checked:
            self.target.check_exact()
            self._exact_checked = True
        ids = self._encode(prompt) if isinstance(prompt, str) else prompt
        return Request(ids, options, self.target, self.tokenizer, self._drafting_policy(options))

    def _drafting_policy(self, options: Options) -> DraftingPolicy | None:
        """Who decides for a request with these options; None where nothing is drafted."""
        draft, chosen = self.draft, options.policy.exit
        if draft is None or not options.draft:
            return None
        if isinstance(chosen, FixedThresholds):
            return chosen.fit(draft.exits)
        if self._costs is None:
            self._costs = load_costs(self.target, draft)
        # A draft ranks by other scores at another temperature, so it is another draft to learn.
        learned = self._learned.get(options.sampling.temperature) if chosen.shared else None
        learned = learned or Learned(len(draft.exits), self._costs)
        if chosen.shared:
            self._learned[options.sampling.temperature] = learned
        return CostAware(learned)

    def chat_request(self, messages: Sequence[Message], options: Options | None = None, **changes: Any) -> Request:
        """As ``request``, of a conversation: the target's chat template makes the prompt, up to its own next turn.

        Raises:
            BundleError: the target has no chat template. OptionError: it does not take these messages.
        """
        text = ChatTemplate.of(self.target).render(messages)
        # The template writes the special tokens itself.
        return self.request(self._encode(text, special_tokens=False), options, **changes)

    def _encode(self, prompt: str, special_tokens: bool = True) -> list[int]:
        try:
            ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=special_tokens).ids
        except TypeError as cause:  # a lone surrogate: what Python makes of bytes that are no text
            raise OptionError("the prompt is not valid Unicode text; convert it to UTF-8") from cause
        return ids

    def run(self, request: Request) -> Iterator[Step]:
        """Yield each step's accepted tokens until the request finishes or is cancelled."""
        if request.target_sequence is not None:
            raise OptionError("this request has been run before; make a new one")
        try:
            if not request.finished:
                yield self._prefill(request)
            while not request.finished:
                yield self._step(request)
        finally:
            request.cancel()
            self._release(request)

    def _prefill(self, request: Request) -> Step:
        started = time.perf_counter()
        request.target_sequence = self.target.lease(request.options.exact_rows)
        logits = request.target_sequence.prefill(request.prompt)
        draft = self.draft if request.options.draft else None
        if draft is not None and request.length < draft.max_length and draft.knows(request.prompt):
            request.draft_sequence = draft.lease()
            request.draft_sequence.enqueue(request.prompt)
        token = request.chooser.choose(logits, request.length)
        request.chooser.see((token,))
        step = request.append([token], drafted=0)
        self._follow(request, [token])
        request.stats.prefill = request.stats.total = time.perf_counter() - started
        return step

    def _step(self, request: Request) -> Step:
        started = time.perf_counter()
        slot = request.target_sequence
        assert slot is not None
        draft_before = request.draft_sequence.clock.seconds if request.draft_sequence else 0.0
        verify_before = slot.clock.seconds

        proposal = self._propose(request)
        drafting = request.draft_sequence.clock.seconds - draft_before if request.draft_sequence else 0.0
        tree = Tree.root_only(request.tokens[-1]) if proposal is None else proposal.tree
        logits = slot.verify(tree)
        acceptance = accept(tree, logits, request.chooser, request.length - 1)
        slot.commit(acceptance.path)
        tokens = [*tree.tokens[acceptance.path[1:]].tolist(), acceptance.token]
        self._follow(request, tokens)
        step = request.append(tokens, drafted=len(tokens) - 1)

        seconds = StepTimes(drafting, slot.clock.seconds - verify_before, time.perf_counter() - started)
        request.stats.record(proposal, self.draft.exits if self.draft else (), acceptance, seconds)
        if request.drafting is not None:
            request.drafting.learn(proposal, acceptance, seconds)
        return step

    def _propose(self, request: Request) -> Proposal | None:
        """Draft as deep as the text may still grow, or look up; None where there is nothing to verify but the root."""
        slot, draft, policy, shape = request.draft_sequence, self.draft, request.drafting, request.options.tree
        room = min(request.remaining, self.target.max_rows) - 1
        if policy is None or room < 1:
            return None
        guess = request.guess(room)
        levels = 0 if slot is None or draft is None else min(shape.depth + 1, room, draft.max_length - request.length)
        if slot is not None and levels > 0 and policy.begins(slot.waiting[0], guess):
            shape = shape if levels > shape.depth else replace(shape, depth=levels - 1)
            proposal = slot.propose(request.noise, policy, shape, guess)
        elif guess is not None:
            proposal = Proposal.finish(TreeBuilder(request.tokens[-1], shape, policy.floor), [], policy, guess)
        else:
            return None
        return proposal if self.target.drafts == "tree" else replace(proposal, tree=proposal.tree.best_path())

    def _follow(self, request: Request, tokens: list[int]) -> None:
        """Tell the draft what was accepted; where it cannot hold that, decoding goes on without it."""
        slot, draft = request.draft_sequence, self.draft
        if slot is None or draft is None:
            return
        if slot.committed + len(tokens) > draft.max_length or not draft.knows(tokens):
            draft.release(slot)
            request.draft_sequence = None
        else:
            slot.enqueue(tokens)

    def _release(self, request: Request) -> None:
        if request.target_sequence is not None:
            self.target.release(request.target_sequence)
        if request.draft_sequence is not None and self.draft is not None:
            self.draft.release(request.draft_sequence)
            request.draft_sequence = None
