"""From a folder of text files to windows of token ids."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from s2d_trt.errors import OptionError

END_OF_TEXT = "<|endoftext|>"
"""Separates documents, begins every prompt, and ends a text (id 0)."""


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Files of a folder, split into those to train on and those held out.

    Both lists are sorted by relative path, so that the same folder gives the same corpus.
    """

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]

    @classmethod
    def scan(
        cls, folder: Path, suffixes: Sequence[str], exclude: Sequence[str] = (), held_out: Sequence[str] = ()
    ) -> TextFiles:
        """Collect files below ``folder`` with one of ``suffixes``; patterns match the relative path.

        Raises:
            OptionError: the folder does not exist or holds no file to train on.
        """
        if not folder.is_dir():
            raise OptionError(f"{folder} is not a folder; name one with text files in it")
        train: list[Path] = []
        kept_out: list[Path] = []
        for path in sorted(_walk(folder, exclude)):
            name = path.relative_to(folder).as_posix()
            if path.suffix not in suffixes or not path.is_file() or _matches(name, exclude):
                continue
            (kept_out if _matches(name, held_out) else train).append(path)
        if not train:
            raise OptionError(f"{folder} holds no file ending in {', '.join(suffixes)}; see --suffix")
        return cls(tuple(train), tuple(kept_out))


def _walk(folder: Path, exclude: Sequence[str]) -> Iterator[Path]:
    """Every file below ``folder``, without entering what an open-ended pattern leaves out as a whole."""
    whole = [pattern for pattern in exclude if pattern.endswith("*")]
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [
            name for name in folders if not _matches(f"{(here / name).relative_to(folder).as_posix()}/", whole)
        ]
        yield from (here / name for name in files)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def read_text(path: Path) -> str:
    """A file's text; bytes that are not UTF-8 are replaced, since source files may declare another encoding."""
    return path.read_text(encoding="utf-8", errors="replace")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer that puts ``END_OF_TEXT`` before every text."""
    tokenizer = Tokenizer(models.BPE())
    # Without prefix space and with byte fallback every text round-trips exactly.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )
    return tokenizer


def tokenize(tokenizer: Tokenizer, paths: Sequence[Path]) -> np.ndarray:
    """All files as one stream of token ids, int32 ``[n]``, each begun by what the tokenizer adds."""
    encoded = tokenizer.encode_batch([read_text(path) for path in paths])
    return np.concatenate([np.asarray(item.ids, dtype=np.int32) for item in encoded] or [np.zeros(0, np.int32)])


class Windows:
    """Windows of ``length + 1`` token ids cut from a stream, in an order fixed by seed and position.

    Each epoch cuts the stream at another random offset and shuffles the windows, so batch ``k``
    depends on (seed, k) alone: a resumed run sees exactly what the uninterrupted run would have.
    """

    def __init__(self, tokens: np.ndarray, length: int, seed: int) -> None:
        if len(tokens) < 2 * length + 1:
            raise OptionError(
                f"the corpus has {len(tokens)} tokens, too few for windows of {length}; add text or lower --seq-length"
            )
        self._tokens, self._length, self._seed = tokens, length, seed
        self.per_epoch = (len(tokens) - 1) // length - 1
        self._epoch = -1
        self._starts = np.zeros(0, np.int64)

    def batch(self, first: int, count: int) -> np.ndarray:
        """Windows number ``first .. first + count - 1`` of the endless sequence, int64 ``[count, length + 1]``."""
        return np.stack([self._window(first + index) for index in range(count)])

    def digest(self) -> str:
        """Names the stream, the window length and the order."""
        key = f"{self._length} {self._seed} {len(self._tokens)} ".encode()
        return hashlib.sha256(key + self._tokens.tobytes()).hexdigest()

    def _window(self, number: int) -> np.ndarray:
        epoch, position = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            offset = int(rng.integers(self._length))
            self._starts = offset + self._length * rng.permutation(self.per_epoch)
            self._epoch = epoch
        start = int(self._starts[position])
        return self._tokens[start : start + self._length + 1].astype(np.int64)


def held_out_windows(tokens: np.ndarray, length: int, limit: int) -> np.ndarray:
    """Up to ``limit`` disjoint windows spread evenly over the stream, int64 ``[n, length + 1]``.

    Raises:
        OptionError: the stream is shorter than one window.
    """
    total = (len(tokens) - 1) // length
    if total < 1:
        raise OptionError(
            f"what is held out has {len(tokens)} tokens, too few for a window of {length}; hold out more text"
        )
    chosen = np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))
    return np.stack([tokens[i * length : i * length + length + 1].astype(np.int64) for i in chosen])
