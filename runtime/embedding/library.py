"""What the C library does, on Python's values: drafts and targets by number, and one service for all texts."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.decoding.preparation import Progress
from runtime.decoding.scheduler import Scheduler
from runtime.decoding.service import TextService
from runtime.decoding.turns import turns
from runtime.drafting.sorted_draft import SortedDraft
from runtime.targets import open_target
from runtime.text.chat import ChatTemplate, Message
from s2d_trt.bundle import find_bundle
from s2d_trt.errors import BundleError, OptionError

WARM_UP_TOKENS = 4
Opened = TypeVar("Opened", "SortedDraft", "OpenTarget")


@dataclass(slots=True, eq=False)
class OpenTarget:
    """A target that the host has opened. ``exact`` says whether texts are bit-identical to its own by default."""

    decoder: Decoder
    exact: bool
    template: ChatTemplate | None = field(init=False)

    def __post_init__(self) -> None:
        try:
            self.template = ChatTemplate.of(self.decoder.target)
        except BundleError:
            self.template = None

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special tokens. Raises OptionError."""
        for token in tokens:
            if not 0 <= token < self.decoder.target.vocab_size:
                raise OptionError(
                    f"token id {token} is outside the vocabulary of {self.decoder.target.vocab_size}; tokenize with"
                    " this target's tokenizer"
                )
        text: str = self.decoder.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation up to the model's next turn. Raises BundleError, OptionError."""
        template = self.template or ChatTemplate.of(self.decoder.target)
        return template.render(messages)


class Library:
    """All that is open between ``s2d_init`` and ``s2d_shutdown``. Every method may be called from any thread.

    ``progress`` is told what opening a target checks and measures.
    """

    def __init__(self, scheduler: Scheduler, placement: Placement, verify: bool, progress: Progress) -> None:
        self.service = TextService(scheduler)
        self._sequences, self._placement, self._verify = scheduler.sequences, placement, verify
        self._progress = progress
        self._numbers = itertools.count(1)
        self._open: dict[int, SortedDraft | OpenTarget] = {}

    def open_draft(self, path: str) -> int:
        """The number of a draft. Raises BundleError, OptionError."""
        return self._keep(lambda: SortedDraft.open(find_bundle(path), self._placement, self._verify))

    def open_target(self, path: str, draft: int) -> int:
        """The number of a target; ``draft`` 0 is none. Raises BundleError, OptionError, TokenizerMismatchError."""
        return self._keep(lambda: self._load_target(path, self.draft(draft) if draft else None))

    def _load_target(self, path: str, draft: SortedDraft | None) -> OpenTarget:
        decoder = Decoder(open_target(path, self._placement, self._verify), draft)
        with turns([decoder]):  # the draft may be at work for other targets
            exact = decoder.prepare(progress=self._progress, sequences=self._sequences)
        # The engines' libraries make what they free at the process's end; the C library must end before that.
        for _ in decoder.run(decoder.request([0], max_new_tokens=WARM_UP_TOKENS, ignore_eos=True)):
            pass
        return OpenTarget(decoder, exact)

    def draft(self, number: int) -> SortedDraft:
        """An open draft. Raises OptionError."""
        return self._opened(number, SortedDraft)

    def target(self, number: int) -> OpenTarget:
        """An open target. Raises OptionError."""
        return self._opened(number, OpenTarget)

    def close_one(self, number: int) -> None:
        """Forget a draft or a target; its requests go on."""
        self._open.pop(number, None)
        _collect()

    def close(self) -> None:
        """Cancel all texts, wait for their thread's end, and forget drafts and targets."""
        self.service.close()
        self._open.clear()
        _collect()

    def _keep(self, load: Callable[[], SortedDraft | OpenTarget]) -> int:
        number = next(self._numbers)
        self._open[number] = load()
        _collect()
        return number

    def _opened(self, number: int, kind: type[Opened]) -> Opened:
        opened = self._open.get(number)
        if not isinstance(opened, kind):
            raise OptionError("this handle is closed or from before s2d_shutdown; open the bundle again")
        return opened


def _collect() -> None:
    """What stays loaded is left out of later collections, which would delay single steps."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
