"""Checkpoints converted for each library, kept in the user's cache until the checkpoint changes."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from s2d_trt.files import publishing_directory
from tests.benchmarks.internals import cache_directory
from tests.benchmarks.peers.environment import Environment
from tests.benchmarks.peers.process import PeerError, run_to_end

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).parent / "adapters" / "worker.py"
COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A Hugging Face directory, used without conversion."""

    directory: Path

    @property
    def key(self) -> str:
        """A text that changes with the name, size or time of any file."""
        found = [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(self.directory.iterdir())
            if path.is_file()
        ]
        return f"{self.directory.resolve()} {found}"

    def make(self) -> None:
        """Do nothing: the directory exists."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A directory that ``command`` makes from ``source``; ``{source}`` and ``{out}`` in it stand for their paths."""

    name: str
    source: Checkpoint | Artefact
    command: tuple[str, ...]
    environment: Environment | None = None

    @property
    def key(self) -> str:
        """A text that changes with the source, the command and the environment's packages."""
        return json.dumps(
            [self.source.key, *self.command, *(self.environment.requirements if self.environment else ())]
        )

    @property
    def directory(self) -> Path:
        """Its path in the user's cache, which has a hash of ``key``."""
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:16]
        return cache_directory() / "peers" / "models" / f"{self.name}-{digest}"

    def make(self) -> None:
        """Make the source and then this directory, unless they exist. Raises PeerError; then nothing is left."""
        if self.directory.is_dir():
            return
        self.source.make()
        print(f"making {self.name} of {self.source.directory}", file=sys.stderr, flush=True)
        with publishing_directory(self.directory) as scratch:
            fields = {"{source}": str(self.source.directory.resolve()), "{out}": str(scratch)}
            run_to_end([_filled(part, fields) for part in self.command], {"PYTHONPATH": str(ROOT)})
            if not any(scratch.iterdir()):
                raise PeerError(f"the command that makes {self.name} wrote nothing to its --out directory")
            if (scratch / "manifest.json").exists():
                return  # a bundle has its tokenizer
            for name in COPIED:  # some converters do not copy the tokenizer
                origin = self.source.directory / name
                if origin.is_file() and not (scratch / name).exists():
                    shutil.copy(origin, scratch / name)


def converted(
    name: str, source: Checkpoint | Artefact, environment: Environment, adapter: str, **job: object
) -> Artefact:
    """``source`` converted by an adapter in its library's environment; ``job`` are the adapter's options."""
    text = json.dumps({"source": "{source}", "out": "{out}", **job})
    return Artefact(name, source, (str(environment.python), str(WORKER), "convert", adapter, text), environment)


def bundle(kind: str, source: Checkpoint, precision: str, exits: str | None = None) -> Artefact:
    """A bundle of this project; ``kind`` is the export command, ``target`` or ``build`` (for drafts)."""
    options = ("--checkpoint", "{source}", "--out", "{out}", "--precision", precision, "--no-parity")
    more = ("--exits", exits) if exits else ()
    return Artefact(
        f"s2d-{kind}-{precision}-{_exporter()}", source, (sys.executable, "-m", f"export.{kind}", *options, *more)
    )


def _exporter() -> str:
    """A hash of the code that makes bundles: they change with it."""
    sources = sorted(path for package in ("export", "s2d_trt") for path in (ROOT / package).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


def _filled(text: str, fields: dict[str, str]) -> str:
    for field, value in fields.items():
        text = text.replace(field, value)
    return text
