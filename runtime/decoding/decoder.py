"""A target and the drafters that help it: makes requests, and runs one alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runtime.backends.placement import Placement
from runtime.decoding.options import Options
from runtime.decoding.preparation import Preparation, Progress, silent
from runtime.decoding.request import Request, Step, too_long
from runtime.decoding.rules import check_token_ids
from runtime.decoding.scheduler import Scheduler
from runtime.drafting.costs import Costs
from runtime.drafting.forced import ForcedSequence
from runtime.drafting.ngram import LONGEST_DRAFT
from runtime.drafting.sorted_draft import SortedDraft
from runtime.drafting.text import TextDrafting
from runtime.sampling.grammar import GrammarRule, Grammars
from runtime.sampling.options import Sampling
from runtime.sampling.ruled_noise import RuledNoise
from runtime.targets import open_target
from runtime.targets.interface import TargetModel
from runtime.text.chat import ChatTemplate, Message, TemplateSource
from s2d_trt.bundle import find_bundle
from s2d_trt.errors import BundleError, OptionError, TokenizerMismatchError
from s2d_trt.tokenizer import is_unicode, load_tokenizer, tokenizer_errors

CHARACTERS = 16
"""For each token that a target holds: so much of a longer prompt is tokenized first."""


class Decoder:
    """Generates text with one target, helped by a sorted draft that other targets may share.

    The text is what the target alone generates with the same seed, whatever the draft, the thresholds and the tree.
    Without a draft, n-gram lookup still drafts.
    """

    def __init__(self, target: TargetModel, draft: SortedDraft | None = None) -> None:
        self.target, self.draft = target, draft
        self.tokenizer = load_tokenizer(target.tokenizer_path, BundleError)
        self._preparation = Preparation(target, draft)
        # Read now, since a bundle that is built anew takes its old files away.
        self._template_source = TemplateSource.of(target)
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
        """A new text to generate, from a prompt or its token ids; ``changes`` are fields of ``Options`` or of
        ``Sampling``.

        Raises:
            OptionError, CapacityError: an option or the prompt does not fit.
        """
        sampling = {field.name: changes.pop(field.name) for field in fields(Sampling) if field.name in changes}
        options = replace(options or Options(), **changes)
        if sampling:
            options = replace(options, sampling=replace(options.sampling, **sampling))
        self.check(options)
        ids = self.encode(prompt) if isinstance(prompt, str) else prompt
        return Request(ids, options, self)

    def check(self, options: Options) -> None:
        """Raise OptionError where the engines cannot do what ``options`` ask for."""
        self.target.check_scores(options.needing_scores)
        check_token_ids(options, self.target.vocab_size)
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
        return self.request(self.encode_chat(messages), options, **changes)

    def encode(self, prompt: str, special_tokens: bool = True) -> list[int]:
        """Token ids of a text; with ``special_tokens`` those that begin every text come first.

        Raises:
            OptionError, CapacityError: it is no valid Unicode text, or certainly too long.
            BundleError: the tokenizer cannot read it.
        """
        if not prompt.isascii() and not is_unicode(prompt):
            raise OptionError("the prompt is not valid Unicode text; convert it to UTF-8")
        most = self.target.max_length
        with tokenizer_errors(BundleError, f"target {self.target.name}: its tokenizer cannot read this prompt"):
            # Much too long a prompt is found in its first part: to tokenize megabytes takes seconds.
            part = CHARACTERS * most
            while part < len(prompt) and (count := len(self.tokenizer.encode(prompt[:part]).ids)) <= 2 * most:
                part *= 2
            if part >= len(prompt):
                ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=special_tokens).ids
                return ids
        raise too_long(f"more than {count // 2}", self.target)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, up to the target's own next turn. Raises as ``chat_request``."""
        # The template writes the special tokens itself.
        return self.encode(self.chat_template.render(messages), special_tokens=False)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The target's. Raises BundleError where there is none."""
        return ChatTemplate(self._template_source)

    def prepare(
        self,
        options: Options | None = None,
        progress: Progress = silent,
        measure: bool = False,
        sequences: int = 1,
    ) -> bool:
        """Check and measure what requests with ``options`` need, once for each machine: whether outputs are exact,
        which is returned, and what calls cost with up to ``sequences`` texts. ``run`` does so too where it was not done
        before; ``measure`` measures again.

        Raises:
            OptionError: the engines cannot do what ``options`` ask for.
            S2DError: ``options.exact`` cannot be promised here.
        """
        options = options or Options()
        self.check(options)
        return self._preparation.prepare(options, progress, measure, sequences)

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles constraints. Raises OptionError where that is not possible."""
        target = self.target
        return Grammars(target.tokenizer_path, target.vocab_size, target.tokenizer.eos_token_ids)

    @property
    def cost_disagreement(self) -> float:
        """How far the latest steps are from the measured costs, as a ratio of at least 1."""
        return self._preparation.disagreement

    def run(self, request: Request) -> Iterator[Step]:
        """Yield each step's accepted tokens until the request finishes or is cancelled.

        An error of an engine ends this request alone, with finish reason ``error``, and is raised.

        Raises:
            OptionError: the request is of another decoder, or has run before.
        """
        if request.decoder is not self:
            raise OptionError("this request was made by another decoder; run it with that one")
        scheduler = Scheduler(sequences=1)
        scheduler.add(request)
        try:
            while scheduler.busy:
                for _, step in scheduler.step():
                    yield step
        finally:
            scheduler.close()
            if request.error is not None:
                raise request.error

    @property
    def costs(self) -> Costs | None:
        """What calls cost on this machine; None where no request needed it."""
        return self._preparation.costs

    def bytes_of(self, request: Request) -> int:
        """Bytes that a text's rows take in the caches after its next step, the target's and the draft's."""
        rows = request.length + 1 + request.options.policy.largest_tree(chain=request.exact).verify_rows()
        return rows * self.token_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes that a token takes in the caches, the target's and the draft's."""
        return self.target.token_bytes + (self.draft.token_bytes if self.draft else 0)

    def lease(self, request: Request, sequences: int = 1) -> None:
        """Lease what a text needs of the target and of the drafters. It may have tokens from an earlier lease.

        Raises:
            S2DError: what the request's options ask for is not possible here.
        """
        began = time.perf_counter()
        options, policy = request.options, request.options.policy
        request.exact = self._preparation.prepare(options, sequences=sequences)
        shape = policy.largest_tree(chain=request.exact)
        # Forced tokens may fill the tree.
        copied = shape.nodes if options.constraint else LONGEST_DRAFT if policy.looks_up else 0
        rows = min(shape.verify_rows(copied), self.target.max_rows) if options.draft else 1
        request.sequence = self.target.lease(rows if request.exact else 0)
        if options.draft:
            chain = request.exact or shape.is_chain or self.target.drafts == "chain"
            shape = replace(shape, nodes=max(2, min(shape.nodes, self.target.max_rows)))
            planner = self._preparation.planner(policy.exit, options.sampling.temperature)
            shifts = [rule for rule in request.chooser.rules if rule.shifts]
            noise = RuledNoise(request.noise, shifts) if shifts else request.noise
            request.drafting = TextDrafting([], planner, shape, noise, chain)
            # Model drafters grow the tree level by level, so they come first.
            drafters = [self.draft, self._preparation.lookup(options.sampling.temperature) if policy.looks_up else None]
            text = [*request.prompt, *request.tokens]
            for drafter in drafters:
                if drafter is not None and (leased := drafter.lease(text, shape)) is not None:
                    request.drafting.sequences.append(leased)
            grammars = [rule for rule in shifts if isinstance(rule, GrammarRule)]
            request.drafting.sequences += [ForcedSequence(grammar) for grammar in grammars]
        request.stats.preparation += time.perf_counter() - began

    def release(self, request: Request) -> None:
        """Give back what ``lease`` took."""
        if request.sequence is not None:
            self.target.release(request.sequence)
            request.sequence = None
        if request.drafting is not None:
            request.drafting.release()
            request.drafting = None
        self._preparation.review()
