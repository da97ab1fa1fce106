"""Finding text files, training a tokenizer on them, and tokenizing them."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from s2d_trt.errors import OptionError
from s2d_trt.files import replacing_file

END_OF_TEXT = "<|endoftext|>"
"""Token 0: it precedes every document and prompt, and ends a text."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files of a folder, or one file, split into those to train on and those held out.

    Both are sorted by relative path, so that the same folder always gives the same corpus.
    """

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]

    @classmethod
    def scan(
        cls, folder: Path, suffixes: Sequence[str], exclude: Sequence[str] = (), held_out: Sequence[str] = ()
    ) -> Files:
        """Collect files below ``folder`` with one of ``suffixes``; patterns match the relative path.

        Raises:
            OptionError: the folder does not exist or holds no file to train on.
        """
        if folder.is_file():
            return cls((folder,), ())
        if not folder.is_dir():
            raise OptionError(f"{folder} is not a folder or a file; name one with data to train on")
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
    """Every file below ``folder``, without entering folders that a pattern ending in ``*`` excludes completely."""
    whole = [pattern for pattern in exclude if pattern.endswith("*")]
    for path, folders, files in os.walk(folder):
        here = Path(path)
        folders[:] = [
            name for name in folders if not _matches(f"{(here / name).relative_to(folder).as_posix()}/", whole)
        ]
        yield from (here / name for name in files)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def read_text(path: Path) -> str:
    """A file's text; bytes that are not UTF-8 are replaced, since source files may declare another encoding.

    Raises:
        OptionError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as cause:
        raise OptionError(f"{path} cannot be read ({cause.strerror}); mend it or leave it out") from cause


def drop_copies(paths: Iterable[Path], novel: float = 0.6, largest: int = 300_000) -> tuple[Path, ...]:
    """Leave out files that mostly repeat earlier ones, and generated ones.

    A file is kept if at least the share ``novel`` of its runs of three lines is new, and if it has at most ``largest``
    characters: larger sources are tables.
    """
    seen: set[int] = set()
    kept = []
    for path in paths:
        text = read_text(path)
        lines = [line for line in map(str.strip, text.splitlines()) if len(line) > 20]
        runs = {hash(run) for run in zip(lines, lines[1:], lines[2:], strict=False)}
        if len(text) <= largest and len(runs - seen) >= novel * len(runs):
            kept.append(path)
        seen |= runs
    return tuple(kept)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer that puts ``END_OF_TEXT`` before every text."""
    tokenizer = Tokenizer(models.BPE())
    # Without a prefix space, and with every byte in the alphabet, decoding gives back exactly the text.
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
    """The token ids of all files in one array, int32 ``[n]``; the tokenizer's special tokens precede each file."""
    encoded = tokenizer.encode_batch([read_text(path) for path in paths])
    return np.concatenate([np.asarray(item.ids, dtype=np.int32) for item in encoded] or [np.zeros(0, np.int32)])


def cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the file ``path``; if there is none, ``make`` makes it. Raises OptionError if it is no array."""
    if not path.exists():
        with replacing_file(path) as scratch, scratch.open("wb") as file:
            np.save(file, make())
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as cause:
        raise OptionError(f"{path} cannot be read ({cause}); delete it to make it again") from cause
