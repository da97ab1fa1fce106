"""A large file that is hashed while it is written, beside whoever makes its content."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from tqdm import tqdm


class HashedFile:
    """Writes and hashes one block in a thread of its own while the next is made; shows a bar on a terminal.

    ``size`` counts the bytes taken, ``sha256`` holds once the file is closed. An OSError of writing comes up at the
    next call.
    """

    def __init__(self, path: Path, expected: int) -> None:
        self.size, self.sha256 = 0, ""
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None
        self._bar = tqdm(
            desc=path.name.split(".")[0],
            total=expected,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            leave=False,
            disable=None,
        )

    def write(self, content: memoryview | bytes) -> None:
        """Take a block, which must not change until the next call; waits for the block before it."""
        self._wait()
        self.size += len(content)
        self._pending = self._writer.submit(self._put, content)

    def _put(self, content: memoryview | bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._bar.update(len(content))

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._writer.shutdown()
            self._bar.close()
            self._file.close()
        self.sha256 = self._digest.hexdigest()
