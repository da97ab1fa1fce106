"""Text to token ids and back, a token at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from s2d_trt.errors import BundleError
from s2d_trt.tokenizer import tokenizer_errors


class TextStream:
    """Turns tokens into text as they come, and looks for stop strings.

    ``text`` is what has been released: only whole characters, and nothing that may be the beginning of a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._decoded = ""
        self._passed = 0
        self.text = ""

    def push(self, token: int, may_stop: bool = True) -> bool:
        """Add a token; True if a stop string is now complete, and then ``text`` ends before it.

        A stop string that is completed where the text may not stop is passed over for good.
        """
        self._tokens.append(token)
        with tokenizer_errors(BundleError, f"token {token} cannot be decoded"):
            piece = self._stream.step(self._tokenizer, token)
        if piece is None:
            return False
        seen = len(self._decoded)
        self._decoded += piece
        if not may_stop:
            self._passed = len(self._decoded)
        elif stops := self._stops(self._decoded, seen):
            self.text = self._decoded[: min(stops)]
            return True
        self.text = self._decoded[: len(self._decoded) - self._held_back()]
        return False

    def finish(self) -> str:
        """End the text: release what was held back, an incomplete character as U+FFFD, and return that part."""
        released = len(self.text)
        with tokenizer_errors(BundleError, "the text cannot be decoded"):
            text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        # The last token can complete a stop string and also begin a character that never ends.
        self.text = text[: min(self._stops(text, self._passed), default=len(text))]
        return self.text[released:]

    def _stops(self, text: str, seen: int) -> list[int]:
        """Where stop strings begin that end behind the first ``seen`` characters; of each the first one."""
        found = (text.find(stop, max(0, seen - len(stop) + 1)) for stop in self._stop)
        return [at for at in found if at >= 0]

    def _held_back(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        beginnings = (stop[:length] for stop in self._stop for length in range(1, len(stop)))
        return max((len(part) for part in beginnings if self._decoded.endswith(part)), default=0)
