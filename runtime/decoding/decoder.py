"""A target and the drafters that help it: makes requests, and runs one alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runtime.backends.placement import Placement
from runtime.decoding.options import Options
from runtime.decoding.pair import Pair
from runtime.decoding.request import Request, Step, too_long
from runtime.decoding.scheduler import Scheduler
from runtime.drafting.sorted_draft import SortedDraft
from runtime.sampling.options import Sampling
from runtime.targets import open_target
from runtime.targets.interface import TargetModel
from runtime.text.chat import ChatTemplate, Message, TemplateSource
from s2d_trt.bundle import find_bundle
from s2d_trt.errors import BundleError, OptionError
from s2d_trt.reading import is_unicode
from s2d_trt.tokenizer import tokenizer_errors

CHARACTERS = 16
"""For each token that a target holds: so much of a longer prompt is tokenized first."""


class Decoder(Pair):
    """Generates text with one target, helped by a sorted draft that other targets may share.

    The text is what the target alone generates with the same seed, whatever the draft, the thresholds and the tree.
    Without a draft, n-gram lookup still drafts.
    """

    def __init__(self, target: TargetModel, draft: SortedDraft | None = None) -> None:
        super().__init__(target, draft)
        # Read now, since a bundle that is built anew takes its old files away.
        self._template_source = TemplateSource.of(target)

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

    def run(self, request: Request) -> Iterator[Step]:
        """Yield each step's accepted tokens until the request finishes or is cancelled.

        An error of an engine ends this request alone, with finish reason ``error``, and is raised.

        Raises:
            OptionError: the request is of another decoder, or has run before.
        """
        if request.pair is not self:
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
