"""Who is compared: every peer in every mode, each on artefacts of the same two checkpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2d_trt.errors import CheckpointError
from tests.benchmarks.peers.artefacts import ROOT, WORKER, Artefact, Checkpoint, bundle, converted
from tests.benchmarks.peers.environment import ONNXRUNTIME_GENAI, OPENVINO_GENAI, TRANSFORMERS, Environment
from tests.benchmarks.peers.process import Worker

OURS = "s2d-trt"
WIDTHS = {"draft": 4, "lookup": 4}
"""Candidates a step where a peer leaves them to the user: what their documentation begins with."""
NGRAM = 3
GROUP = 32
"""Weights that share a scale in int4: what onnxruntime-genai's builder takes, and it divides most sizes."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One mode of one peer. ``models`` are the artefacts that ``options`` names by role."""

    peer: str
    precision: str
    mode: str
    adapter: str
    environment: Environment | None
    models: dict[str, Checkpoint | Artefact]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique among all."""
        return f"{self.peer} {self.precision} {self.mode}"

    @property
    def speculates(self) -> bool:
        """Whether it does more than run the target."""
        return self.mode != "alone"

    def prepare(self) -> None:
        """Install and convert what it needs. Raises PeerError."""
        if self.environment is not None:
            self.environment.install()
        for model in self.models.values():
            model.make()

    @property
    def command(self) -> list[str]:
        """The worker's."""
        python = str(self.environment.python) if self.environment else sys.executable
        return [python, str(WORKER), "serve", self.adapter]

    def open(self, worker: Worker, threads: int, timeout: float) -> None:
        """Make a worker of ``command`` ready for this mode."""
        directories = {role: str(model.directory) for role, model in self.models.items()}
        mode = {**self.options, **directories, "precision": self.precision, "threads": threads}
        worker.ask({"open": mode}, timeout)

    def start(self) -> Worker:
        """A process for ``command``; one of our own interpreter finds this project."""
        return Worker(self.command, {"PYTHONPATH": str(ROOT) if self.environment is None else ""})


@dataclass(frozen=True, slots=True)
class Pair:
    """The checkpoints of a target and its draft."""

    target: Checkpoint
    draft: Checkpoint
    exits: tuple[int, ...]

    @classmethod
    def open(cls, target: Path, draft: Path, exits: tuple[int, ...] | None = None) -> Pair:
        """Read the draft's exits from its config unless they are given. Raises CheckpointError."""
        configs = []
        for directory in (target, draft):
            try:
                configs.append(json.loads((directory / "config.json").read_text(encoding="utf-8")))
            except (OSError, ValueError) as cause:
                raise CheckpointError(
                    f"{directory} is no Hugging Face directory ({cause}); name one with config.json"
                ) from cause
        found = exits or tuple(configs[1].get("exits") or ())
        if not found:
            raise CheckpointError(f"{draft}/config.json names no exits; give --exits, like 6,9,12")
        return cls(Checkpoint(target), Checkpoint(draft), found)

    def truncated(self, layers: int) -> Checkpoint | Artefact:
        """The draft up to an exit, as a checkpoint that any library can load."""
        if layers == self.exits[-1]:
            return self.draft
        return converted(f"draft-{layers}", self.draft, TRANSFORMERS, "hugging_face", layers=layers)


def ours(pair: Pair, precisions: tuple[str, ...]) -> Iterator[Contender]:
    """The target alone and S2D, with the policy that is the default, on the same engine."""
    exits = ",".join(map(str, pair.exits))
    for precision in precisions:
        target = bundle("target", pair.target, precision)
        draft = bundle("build", pair.draft, precision, exits)
        yield Contender(OURS, precision, "alone", "s2d", None, {"target": target})
        yield Contender(OURS, precision, "S2D", "s2d", None, {"target": target, "draft": draft})


def transformers(pair: Pair) -> Iterator[Contender]:
    """In fp32; its quantised forms need other libraries."""

    def mode(name: str, draft: Checkpoint | Artefact | None = None, **options: Any) -> Contender:
        models = {"target": pair.target} | ({"draft": draft} if draft else {})
        return Contender("transformers", "fp32", name, "hugging_face", TRANSFORMERS, models, options)

    yield mode("alone")
    for exit_ in _outer(pair.exits):
        yield mode(f"assistant, exit {exit_}", pair.truncated(exit_))
    yield mode(f"early exit {pair.exits[0]}", early_exit=pair.exits[0])
    yield mode("prompt lookup", lookup=10)


def onnxruntime_genai(pair: Pair) -> Iterator[Contender]:
    """In the precisions of its model builder."""
    yield from _converted(pair, "onnxruntime-genai", ONNXRUNTIME_GENAI, "genai")


def openvino_genai(pair: Pair) -> Iterator[Contender]:
    """In the weight formats of optimum-intel."""
    yield from _converted(pair, "openvino-genai", OPENVINO_GENAI, "openvino_llm")


def _converted(pair: Pair, peer: str, environment: Environment, adapter: str) -> Iterator[Contender]:
    def convert(kind: str, source: Checkpoint | Artefact, precision: str) -> Artefact:
        groups = {"group_size": GROUP} if environment == OPENVINO_GENAI and precision != "fp32" else {}
        return converted(f"{peer}-{kind}-{precision}", source, environment, adapter, precision=precision, **groups)

    for precision in ("fp32", "int8", "int4"):
        target = convert("target", pair.target, precision)
        yield Contender(peer, precision, "alone", adapter, environment, {"target": target})
        for exit_ in _outer(pair.exits):
            draft = convert(f"draft-{exit_}", pair.truncated(exit_), precision)
            models: dict[str, Checkpoint | Artefact] = {"target": target, "draft": draft}
            width = {"width": WIDTHS["draft"]}
            yield Contender(peer, precision, f"draft, exit {exit_}", adapter, environment, models, width)
        options = {"lookup": NGRAM, "width": WIDTHS["lookup"]}
        yield Contender(peer, precision, "prompt lookup", adapter, environment, {"target": target}, options)


def _outer(exits: tuple[int, ...]) -> tuple[int, ...]:
    """The shallowest and the deepest."""
    return tuple(dict.fromkeys((exits[0], exits[-1])))


PEERS: dict[str, Callable[[Pair], Iterator[Contender]]] = {
    "transformers": transformers,
    "onnxruntime-genai": onnxruntime_genai,
    "openvino-genai": openvino_genai,
}
