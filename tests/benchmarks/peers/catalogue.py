"""The compared libraries and their modes, each on conversions of the same two checkpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from s2d_trt.errors import CheckpointError
from tests.benchmarks.peers.artefacts import ROOT, WORKER, Artefact, Checkpoint, bundle, converted
from tests.benchmarks.peers.environment import ONNXRUNTIME_GENAI, OPENVINO_GENAI, TRANSFORMERS, Environment
from tests.benchmarks.peers.process import Worker

OURS = "s2d-trt"
WIDTHS = {"draft": 4, "lookup": 4}
"""Drafted tokens a step if a library leaves them to the user: the values of their documentation's examples."""
BATCH_WIDTHS = (2, 4)
"""The same for batches, where every drafted token costs more and fewer can be faster."""
NGRAM = 3
GROUP = 32
"""Weights that share a scale in int4: the value of onnxruntime-genai's builder, which divides most sizes."""
CONVERTERS = {"onnxruntime-genai": (ONNXRUNTIME_GENAI, "genai"), "openvino-genai": (OPENVINO_GENAI, "openvino_llm")}
"""Environment and adapter of the libraries that convert checkpoints to a format of their own."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One mode of one library. ``models`` maps roles (``target``, ``draft``) to the models that the adapter loads.

    ``texts`` is how many texts the library's batched form gets in one call; None is its form for one text.
    """

    peer: str
    precision: str
    mode: str
    adapter: str
    environment: Environment | None
    models: dict[str, Checkpoint | Artefact]
    options: dict[str, Any] = field(default_factory=dict)
    texts: int | None = None

    @property
    def label(self) -> str:
        """Library, weights and mode."""
        return f"{self.peer} {self.precision} {self.mode}"

    @property
    def name(self) -> str:
        """The label and the number of texts; unique among all contenders."""
        return self.label if self.texts is None else f"{self.label}, {self.texts} at once"

    def at_once(self, texts: int | None) -> Contender:
        """The same mode with ``texts`` texts in a call."""
        return replace(self, texts=texts)

    @property
    def speculates(self) -> bool:
        """Whether it uses speculative decoding."""
        return self.mode != "alone"

    def prepare(self) -> None:
        """Install its environment and convert its models. Raises PeerError."""
        if self.environment is not None:
            self.environment.install()
        for model in self.models.values():
            model.make()

    @property
    def command(self) -> list[str]:
        """The worker's command line."""
        python = str(self.environment.python) if self.environment else sys.executable
        return [python, str(WORKER), "serve", self.adapter]

    def open(self, worker: Worker, threads: int, timeout: float) -> None:
        """Load this mode in a worker that ``command`` started. Raises PeerError."""
        directories = {role: str(model.directory) for role, model in self.models.items()}
        mode = {**self.options, **directories, "precision": self.precision, "threads": threads}
        if self.texts is not None:
            mode["texts"] = self.texts
        worker.ask({"open": mode}, timeout)

    def start(self) -> Worker:
        """Start a worker; with our own interpreter it can import this project."""
        return Worker(self.command, {"PYTHONPATH": str(ROOT) if self.environment is None else ""})


@dataclass(frozen=True, slots=True)
class Pair:
    """The checkpoints of a target and its draft."""

    target: Checkpoint
    draft: Checkpoint
    exits: tuple[int, ...]

    @classmethod
    def open(cls, target: Path, draft: Path, exits: tuple[int, ...] | None = None) -> Pair:
        """Read the configs; ``exits`` default to those in the draft's config. Raises CheckpointError."""
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
        """The draft's first ``layers`` layers as a checkpoint that any library can load."""
        if layers == self.exits[-1]:
            return self.draft
        return converted(f"draft-{layers}", self.draft, TRANSFORMERS, "hugging_face", layers=layers)


def ours(pair: Pair, precisions: tuple[str, ...]) -> Iterator[Contender]:
    """The target alone and S2D with the default policy, on the same engine."""
    for precision in precisions:
        target = bundle("target", pair.target, precision)
        models: dict[str, Checkpoint | Artefact] = {"target": target, "draft": _our_draft(pair, precision)}
        yield Contender(OURS, precision, "alone", "s2d", None, {"target": target})
        yield Contender(OURS, precision, "S2D", "s2d", None, models)


def _our_draft(pair: Pair, precision: str) -> Artefact:
    return bundle("build", pair.draft, precision, ",".join(map(str, pair.exits)))


def transformers(pair: Pair) -> Iterator[Contender]:
    """transformers in fp32; its quantised forms need other libraries."""

    def mode(name: str, draft: Checkpoint | Artefact | None = None, **options: Any) -> Contender:
        models = {"target": pair.target} | ({"draft": draft} if draft else {})
        return Contender("transformers", "fp32", name, "hugging_face", TRANSFORMERS, models, options)

    yield mode("alone")
    for exit_ in _outer(pair.exits):
        yield mode(f"assistant, exit {exit_}", pair.truncated(exit_))
    yield mode(f"early exit {pair.exits[0]}", early_exit=pair.exits[0])
    yield mode("prompt lookup", lookup=10)


def onnxruntime_genai(pair: Pair) -> Iterator[Contender]:
    """onnxruntime-genai in the precisions of its model builder."""
    yield from _converted(pair, "onnxruntime-genai")


def openvino_genai(pair: Pair) -> Iterator[Contender]:
    """openvino-genai in the weight formats of optimum-intel."""
    yield from _converted(pair, "openvino-genai")


def batched(pair: Pair, peers: Collection[str], precisions: Sequence[str]) -> Iterator[Contender]:
    """The modes that can answer several texts in one call: ours, and those of ``peers`` with the same weights."""
    for precision in precisions:
        yield from ours(pair, (precision,))
        if precision == "fp32":
            # A narrower draft changes no text, and its rows are a larger share of a batch's time.
            narrow: dict[str, Checkpoint | Artefact] = {
                "target": bundle("target", pair.target, precision),
                "draft": _our_draft(pair, "int8"),
            }
            yield Contender(OURS, precision, "S2D, draft int8", "s2d", None, narrow)
        if "onnxruntime-genai" in peers:
            yield _contender("onnxruntime-genai", precision, "alone", _models(pair, "onnxruntime-genai", precision))
        if "openvino-genai" in peers:
            models = _models(pair, "openvino-genai", precision, pair.exits[0])
            yield _contender("openvino-genai", precision, "alone", {"target": models["target"]})
            for width in BATCH_WIDTHS:
                mode = f"draft, exit {pair.exits[0]}, {width} tokens"
                yield _contender("openvino-genai", precision, mode, models, width=width)


def _converted(pair: Pair, peer: str) -> Iterator[Contender]:
    for precision in ("fp32", "int8", "int4"):
        target = _models(pair, peer, precision)
        yield _contender(peer, precision, "alone", target)
        for exit_ in _outer(pair.exits):
            models = _models(pair, peer, precision, exit_)
            yield _contender(peer, precision, f"draft, exit {exit_}", models, width=WIDTHS["draft"])
        yield _contender(peer, precision, "prompt lookup", target, lookup=NGRAM, width=WIDTHS["lookup"])


def _models(pair: Pair, peer: str, precision: str, exit_: int | None = None) -> dict[str, Checkpoint | Artefact]:
    """The converted target, and with ``exit_`` the draft cut after it."""
    environment, adapter = CONVERTERS[peer]
    groups = {"group_size": GROUP} if peer == "openvino-genai" and precision != "fp32" else {}

    def convert(kind: str, source: Checkpoint | Artefact) -> Artefact:
        return converted(f"{peer}-{kind}-{precision}", source, environment, adapter, precision=precision, **groups)

    models: dict[str, Checkpoint | Artefact] = {"target": convert("target", pair.target)}
    if exit_ is not None:
        models["draft"] = convert(f"draft-{exit_}", pair.truncated(exit_))
    return models


def _contender(
    peer: str, precision: str, mode: str, models: dict[str, Checkpoint | Artefact], **options: Any
) -> Contender:
    environment, adapter = CONVERTERS[peer]
    return Contender(peer, precision, mode, adapter, environment, models, options)


def _outer(exits: tuple[int, ...]) -> tuple[int, ...]:
    """The shallowest and the deepest exit, once if they are the same."""
    return tuple(dict.fromkeys((exits[0], exits[-1])))


PEERS: dict[str, Callable[[Pair], Iterator[Contender]]] = {
    "transformers": transformers,
    "onnxruntime-genai": onnxruntime_genai,
    "openvino-genai": openvino_genai,
}
