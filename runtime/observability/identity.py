"""Checks, while the server is idle, that texts are what the target alone gives."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from runtime.decoding.request import Request
from runtime.decoding.service import TextService
from runtime.evaluation.comparison import same_bits, with_seed
from runtime.serving.generation import Generation
from runtime.serving.observer import Observer
from s2d_trt.errors import OptionError

MOST_WAITING = 64
"""Texts that wait for a check; of more, the oldest is forgotten."""

_log = logging.getLogger(__name__)


class IdentityCheck(Observer):
    """Generates a share ``fraction`` of the exact texts again without drafting, and compares tokens and scores bit by
    bit. A check gives way to every text that comes, and begins anew afterwards.

    ``count`` is told the target's name and ``identical``, ``different`` or ``failed``; ``unseen`` of each request that
    is the check's own.
    """

    def __init__(
        self,
        fraction: float,
        count: Callable[[str, str], None],
        unseen: Callable[[Request], None],
        chance: random.Random | None = None,
    ) -> None:
        self._fraction, self._count, self._unseen = fraction, count, unseen
        self._chance = chance or random.Random()
        self._service: TextService | None = None
        self._present = 0
        """Texts that wait or run."""
        self._waiting: deque[Generation] = deque(maxlen=MOST_WAITING)
        self._check: tuple[Request, asyncio.Task[None]] | None = None

    def begin(self, service: TextService) -> None:
        """Run checks in ``service`` from now on."""
        self._service = service

    def queued(self, generation: Generation) -> None:
        """Let the check give way."""
        self._present += 1
        if self._check is not None:
            self._check[0].cancel()

    def finished(self, generation: Generation) -> None:
        """Draw whether this text is checked, and check if the server is idle now."""
        self._present -= 1
        request = generation.request
        comparable = request.exact and request.options.draft and request.finish_reason in ("stop", "length", "capacity")
        if comparable and self._chance.random() < self._fraction:
            self._waiting.append(generation)
        self._check_next()

    def _check_next(self) -> None:
        if self._service is None or self._present or self._check is not None or not self._waiting:
            return
        generation = self._waiting.popleft()
        drafted = generation.request
        options = replace(with_seed(drafted.options, drafted.seed), draft=False, exact=True)
        alone = Request(drafted.prompt, options, drafted.pair)
        self._unseen(alone)
        self._check = alone, asyncio.get_running_loop().create_task(self._run(self._service, generation, alone))

    async def _run(self, service: TextService, generation: Generation, alone: Request) -> None:
        try:
            async for _ in service.stream(alone):
                pass
            if alone.finish_reason == "cancelled":
                self._waiting.appendleft(generation)
            else:
                self._compare(generation, alone)
        except OptionError:  # the service is closed
            self._service = None
        except Exception:
            _log.exception("an identity check failed")
            self._count(generation.target, "failed")
        self._check = None
        self._check_next()

    def _compare(self, generation: Generation, alone: Request) -> None:
        same = same_bits(generation.request, alone)
        self._count(generation.target, "identical" if same else "different")
        if not same:
            _log.error(
                "request %s: the text with seed %d is not what target %s gives without drafting; prompt ids %s",
                generation.request_id, alone.seed, generation.target, alone.prompt,
            )  # fmt: skip
