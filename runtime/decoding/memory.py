"""The memory of caches: which texts it holds, and prefixes that later texts may begin with."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from runtime.decoding.leasing import bytes_of, lease, release
from runtime.decoding.request import Request
from runtime.targets.interface import CopyableSequence, TargetModel
from runtime.targets.prefixes import PrefixCache


class CacheMemory:
    """Leases what texts need of their targets and drafts.

    ``limit`` bounds the bytes that the running texts' rows take; None bounds only their number. ``prefix_bytes`` is the
    room for rows of earlier texts, which later ones that begin alike do not compute again; 0 keeps none.
    """

    def __init__(self, limit: int | None = None, prefix_bytes: int = 0) -> None:
        self.limit, self._prefix_bytes = limit, prefix_bytes
        self._prefixes: WeakKeyDictionary[TargetModel, PrefixCache] = WeakKeyDictionary()
        self.restored_tokens = 0
        """Tokens of prompts that were not computed again."""
        self.prefixes_bytes = 0
        """Bytes of the rows that are kept of earlier texts."""

    @staticmethod
    def bytes_of(texts: Sequence[Request]) -> int:
        """Bytes that the rows of all ``texts`` take after their next step."""
        return sum(map(bytes_of, texts))

    def holds(self, texts: Sequence[Request]) -> bool:
        """Whether the rows of all ``texts``, after their next step, fit."""
        return self.limit is None or self.bytes_of(texts) <= self.limit

    def begin(self, request: Request, sequences: int) -> None:
        """Lease what a text needs, and restore the rows of a prefix that an earlier text has computed."""
        lease(request, sequences)
        sequence = request.sequence
        # Restored rows have no logits.
        prefixes = None if request.scores_prompt else self._of(request)
        if prefixes and isinstance(sequence, CopyableSequence):
            sequence.restore(prefixes.longest(request.left))
            request.stats.restored = sequence.length
            self.restored_tokens += sequence.length

    def end(self, request: Request) -> None:
        """Keep the text's rows as prefixes, and give back what it holds."""
        sequence, failed = request.sequence, request.finish_reason == "error"
        if not failed and (prefixes := self._of(request)) and isinstance(sequence, CopyableSequence):
            prefixes.store([*request.prompt, *request.tokens][: sequence.length], sequence.rows)
            self.prefixes_bytes = sum(kept.bytes for kept in self._prefixes.values())
        release(request)

    def _of(self, request: Request) -> PrefixCache | None:
        """Only where bits do not depend on how a prompt was cut."""
        target = request.pair.target
        if not (self._prefix_bytes and request.exact and target.keeps_prefixes):
            return None
        return self._prefixes.setdefault(target, PrefixCache(self._prefix_bytes))
