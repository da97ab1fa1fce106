"""The functions that the C library calls: C's values become Python's, and errors a status.

Each returns DONE or the status of its error; what the error says goes to the calling thread's ``s2d_last_error``.
"""

from __future__ import annotations

import atexit
import functools
import io
import sys
from collections.abc import Callable
from typing import Any

from runtime.backends.placement import Device, Placement
from runtime.decoding.memory import CacheMemory
from runtime.embedding.errors import BufferTooSmallError, error_line
from runtime.embedding.library import Library
from runtime.embedding.native import INFO, LogWriter, Native
from runtime.embedding.options import options_of
from runtime.embedding.texts import HostScheduler, HostText
from s2d_trt.errors import OptionError

DONE = 1
_NAME_BYTES = 63


def attach(ffi: Any, lib: Any) -> None:
    """Give the C library its functions; it calls this when it starts."""
    native = Native(ffi, lib)
    bridge = Bridge(native)
    if isinstance(sys.stderr, io.StringIO):  # the interpreter was started by the C library
        said = sys.stderr.getvalue()
        sys.stdout = sys.stderr = LogWriter(native)
        sys.stderr.write(said)
    else:
        atexit.register(bridge.close)  # the host's interpreter ends before C's exit functions run
    for name in dir(bridge):
        if name.startswith("python_"):
            ffi.def_extern(name=name, error=0)(_caught(native, getattr(bridge, name)))


def _caught(native: Native, function: Callable[..., None]) -> Callable[..., int]:
    """``function`` as C calls it."""

    @functools.wraps(function)
    def call(*arguments: Any) -> int:
        try:
            function(*arguments)
        except BaseException as error:
            native.lib.host_error(error_line(error).encode(errors="replace"))
            return native.status(error)
        return DONE

    return call


class Bridge:
    """The functions' state: what is open between ``s2d_init`` and ``s2d_shutdown``."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self._open: tuple[Library, HostScheduler] | None = None

    @property
    def _opened(self) -> tuple[Library, HostScheduler]:
        if (opened := self._open) is None:
            raise OptionError("the library is shut down; call s2d_init again")
        return opened

    @property
    def _library(self) -> Library:
        return self._opened[0]

    def python_start(self, params: Any) -> None:
        """Start the service."""
        if params.memory_bytes < 0 or params.prefix_bytes < 0:
            raise OptionError("memory_bytes or prefix_bytes is below 0; give bytes, or 0 for the default")
        device = self._native.text(params.device)
        placement = Placement(
            device=None if device is None else Device.parse(device), threads=params.threads if params.threads else None
        )
        memory = CacheMemory(params.memory_bytes or None, params.prefix_bytes)
        scheduler = HostScheduler(self._native, params.sequences, memory)
        library = Library(scheduler, placement, bool(params.verify), functools.partial(self._native.log, INFO))
        self._open = library, scheduler
        self._native.log(INFO, f"Python {sys.version.split()[0]} of {sys.prefix}, {params.sequences} texts at a time")

    def python_stop(self) -> None:
        """End all texts and forget what is open."""
        library, self._open = self._library, None
        library.close()

    def close(self) -> None:
        """As ``python_stop``, where the library is open."""
        if self._open is not None:
            self.python_stop()

    def python_draft_open(self, path: Any, number: Any) -> None:
        """Load a draft."""
        number[0] = self._library.open_draft(self._native.required(path))

    def python_target_open(self, path: Any, draft: int, number: Any, facts: Any) -> None:
        """Load a target."""
        number[0] = self._library.open_target(self._native.required(path), draft)
        opened = self._library.target(number[0])
        target = opened.decoder.target
        facts.vocab_size, facts.max_length = target.vocab_size, target.max_length
        facts.drafted, facts.exact, facts.chat = draft != 0, opened.exact, opened.template is not None
        facts.name = target.name.encode()[:_NAME_BYTES].decode(errors="ignore").encode()

    def python_close(self, number: int) -> None:
        """Forget a draft or a target."""
        self._library.close_one(number)

    def python_tokenize(
        self, target: int, text: Any, special_tokens: int, tokens: Any, capacity: int, count: Any
    ) -> None:
        """Tokens of a text."""
        decoder = self._library.target(target).decoder
        ids = decoder.encode(self._native.required(text), bool(special_tokens))
        count[0] = len(ids)
        if len(ids) > capacity:
            raise BufferTooSmallError(f"the text has {len(ids)} tokens, the buffer holds {capacity}")
        self._native.ffi.memmove(tokens, self._native.array("int32_t", ids), 4 * len(ids))

    def python_detokenize(self, target: int, tokens: Any, count: int, buffer: Any) -> None:
        """Text of tokens."""
        self._native.fill(buffer, self._library.target(target).decode(self._tokens(tokens, count)))

    def python_chat_render(self, target: int, messages: Any, count: int, buffer: Any) -> None:
        """A conversation as text."""
        read = self._native.required
        turns = [{"role": read(messages[at].role), "content": read(messages[at].content)} for at in range(count)]
        self._native.fill(buffer, self._library.target(target).render(turns))

    def python_submit(self, target: int, prompt: Any, tokens: Any, count: int, options: Any, handle: Any) -> None:
        """Let a text wait for its turn. C gives ``handle`` away only where this succeeds."""
        library, scheduler = self._opened
        decoder = library.target(target).decoder
        ids = self._tokens(tokens, count)
        if prompt:
            ids = decoder.encode(self._native.required(prompt), bool(options.special_tokens))
        request = decoder.request(ids, options_of(self._native, options))
        text = HostText(self._native, handle, request, scheduler)
        try:
            library.service.follow(request, text)
        except BaseException:
            scheduler.texts.discard(text)
            raise

    def _tokens(self, tokens: Any, count: int) -> list[int]:
        return list(self._native.ffi.unpack(tokens, count)) if count else []
