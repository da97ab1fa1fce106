"""Text to token ids and back, a token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from s2d_trt.errors import BundleError


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``. Raises BundleError."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as cause:  # the tokenizers library raises bare Exception
        raise BundleError(f"{path} cannot be read ({cause}); build the bundle again") from cause


class TextStream:
    """Turns tokens into text as they come, and watches for stop strings.

    ``text`` is what has been released: whole characters only, and nothing that could still turn out to
    be the beginning of a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._decoded = ""
        self.text = ""

    def push(self, token: int) -> bool:
        """Add a token; True if a stop string is now complete (``text`` then ends before it)."""
        self._tokens.append(token)
        piece = self._stream.step(self._tokenizer, token)
        if piece is None:
            return False
        seen = max(0, len(self._decoded) - max((len(stop) for stop in self._stop), default=0))
        self._decoded += piece
        found = [at for stop in self._stop if (at := self._decoded.find(stop, seen)) >= 0]
        if found:
            self.text = self._decoded[: min(found)]
            return True
        self.text = self._decoded[: len(self._decoded) - self._held_back()]
        return False

    def finish(self) -> None:
        """No more tokens come: release what was held back, an incomplete character as U+FFFD."""
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        # A token can complete a stop string and begin a character that never comes.
        self.text = text[: min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=len(text))]

    def _held_back(self) -> int:
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._decoded)), longest, -1):
                if self._decoded.endswith(stop[:length]):
                    longest = length
                    break
        return longest
