"""The data of a run: files of text, conversations or token ids, read into a training and a held-out stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s2d_trt.errors import OptionError
from s2d_trt.training import conversations, corpus, shards
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.corpus import Files
from s2d_trt.training.windows import Stream

SUFFIXES = {"text": (".txt", ".md", ".py"), "conversations": (".json", ".jsonl"), "tokens": (".npy", ".bin")}
"""The kinds of data, and the file suffixes of each."""


@dataclass(frozen=True, slots=True)
class Text:
    """The stream to train on and the held-out one, which may be empty."""

    vocabulary: Vocabulary
    train: Stream
    held_out: Stream

    def hold_out(self, share: float, length: int) -> Text:
        """Hold out the last ``share`` of the training stream, but at least one window of ``length`` tokens."""
        return Text(self.vocabulary, *self.train.split(max(length + 1, round(share * len(self.train)))))


@dataclass(frozen=True, slots=True)
class Dataset:
    """Files of one kind."""

    kind: str
    files: Files

    @classmethod
    def scan(
        cls,
        path: Path,
        kind: str | None = None,
        suffixes: Sequence[str] = (),
        exclude: Sequence[str] = (),
        held_out: Sequence[str] = (),
    ) -> Dataset:
        """The files below ``path``, or ``path`` itself if it is a file.

        Without ``kind`` and ``suffixes`` the files' suffixes decide the kind.

        Raises:
            OptionError: there is no such file, or there are files of several kinds.
        """
        if suffixes and kind is None:
            kind = "text"
        if kind is None and path.is_file():
            kind = next((kind for kind, known in SUFFIXES.items() if path.suffix in known), "text")
        if kind is not None:
            return cls(kind, Files.scan(path, suffixes or SUFFIXES[kind], exclude, held_out))
        every = Files.scan(path, [suffix for known in SUFFIXES.values() for suffix in known], exclude, held_out)
        present = {file.suffix for file in (*every.train, *every.held_out)}
        kinds = [kind for kind, known in SUFFIXES.items() if present.intersection(known)]
        if len(kinds) > 1:
            raise OptionError(f"{path} holds {' and '.join(kinds)}; say which to read with --format")
        return cls(kinds[0], every)

    def read(self, vocabulary: Vocabulary, rows: int) -> Text:
        """Tokenize the files; ``rows`` is the number of rows of the model's embedding."""
        parts = [self._stream(paths, vocabulary, rows) for paths in (self.files.train, self.files.held_out)]
        return Text(vocabulary, *parts)

    def _stream(self, paths: Sequence[Path], vocabulary: Vocabulary, rows: int) -> Stream:
        if not paths:
            return Stream.join([])
        if self.kind == "text":
            return Stream.whole(corpus.tokenize(vocabulary.tokenizer, paths))
        if self.kind == "tokens":
            return Stream.join(shards.read_shard(path, rows) for path in paths)
        found = [messages for path in paths for messages in conversations.read_conversations(path)]
        return conversations.tokenize(found, vocabulary.tokenizer, vocabulary.chat_renderer())
