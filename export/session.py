"""Running one graph of a bundle in ONNX Runtime, to check it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.layout import LANES
from s2d_trt import names
from s2d_trt.manifest import Manifest

Array = NDArray[Any]


@dataclass(slots=True)
class GraphRun:
    """One graph in an ONNX Runtime session, with zeroed caches that calls fill.

    ``slots`` is the caches' length, or becomes it where the graph fixes one.
    """

    manifest: Manifest
    directory: Path
    name: str
    slots: int = 64
    session: ort.InferenceSession = field(init=False)
    dtype: type[np.floating[Any]] = field(init=False)
    caches: dict[str, Array] = field(init=False)
    packs: bool = field(init=False)

    def __post_init__(self) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Calls are few and small: idle threads should leave the cores to PyTorch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Rows stay float where only weights are quantised; by default ONNX Runtime would round them to int8 too.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        path = self.directory / self.manifest.graphs[self.name]
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.slots = self.manifest.cache.slots or self.slots
        inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self.dtype = np.float16 if any(e.type == "tensor(float16)" for e in inputs.values()) else np.float32
        self.packs = names.PACKED_ROWS in inputs
        self.caches = {
            name: np.zeros([self._length(size) for size in entry.shape], self.dtype)
            for name, entry in inputs.items()
            if name.startswith("past_key_values.")
        }

    def _length(self, size: int | str) -> int:
        return size if isinstance(size, int) else 1 if size == LANES else self.slots

    def rows(self, first_input: Array, start: int, mask: Array, positions: Array, **others: Array) -> Array:
        """Run rows at slots ``start ...`` under ``mask`` ``[q, slots]``; the first output."""
        floating = np.issubdtype(first_input.dtype, np.floating)
        dtype = self.dtype if floating else np.int64
        feeds: dict[str, Array] = {
            names.HIDDEN_STATES if floating else names.INPUT_IDS: first_input.astype(dtype, copy=False),
            names.POSITION_IDS: positions[None].astype(np.int64),
            names.ATTENTION_MASK: mask,
            names.WRITE_INDEX: np.array([start], np.int64),
            **others,
            **self.caches,
        }
        if self.packs:
            rows = np.arange(first_input.shape[1])
            feeds |= {names.ATTENTION_ROWS: rows[None], names.PACKED_ROWS: rows, names.ATTENTION_MASK: mask[None, None]}
        outputs = [entry.name for entry in self.session.get_outputs()]
        found: dict[str, Array] = dict(zip(outputs, self.session.run(outputs, feeds), strict=True))
        for cache in self.caches:
            self.caches[cache] = found[cache.replace("past_key_values.", "present.")]
        return found[names.LOGITS if self.name == names.TARGET else names.OUTPUT_HIDDEN_STATES]

    def candidates(self, hidden: Array, noise: Array) -> tuple[Array, Array]:
        """The head's ``top_tokens`` and ``top_logprobs``."""
        feeds = {names.HIDDEN_STATES: hidden.astype(self.dtype, copy=False), names.NOISE: noise}
        shapes = {entry.name: entry.shape for entry in self.session.get_inputs()}
        if names.NOISE_ROWS in shapes:
            texts = shapes[names.NOISE][0]
            feeds |= {names.NOISE: noise.repeat(texts, 0), names.NOISE_ROWS: np.arange(hidden.shape[1]) % texts}
        tokens, logprobs = self.session.run([names.TOP_TOKENS, names.TOP_LOGPROBS], feeds)
        return tokens, logprobs

    def causal(self, first_input: Array, start: int, **others: Array) -> Array:
        """Run rows that each see everything up to themselves; a row's position is its slot."""
        positions = np.arange(start, start + first_input.shape[1])
        return self.rows(first_input, start, np.arange(self.slots) <= positions[:, None], positions, **others)
