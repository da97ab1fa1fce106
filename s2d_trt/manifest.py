"""A bundle's ``manifest.json``: the model, the caches, the files, and the compiled plans.

Fields are bounded one by one (``s2d_trt.ranges``), and must agree with one another and with the weight file: no more
weights are described than it has bytes for.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from s2d_trt.errors import BundleError
from s2d_trt.ranges import (
    Bytes,
    Candidates,
    Digest,
    FileName,
    Kind,
    Lanes,
    Layers,
    Layout,
    Positions,
    Precision,
    Rows,
    Slots,
    Text,
    TokenId,
    WeightFormat,
)
from s2d_trt.spec import ModelSpec

SCHEMA = 2
MANIFEST = "manifest.json"
SCRATCH_ROWS = 256
"""Cache slots after the longest text, for the rows of a tree and the padding of a call."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file."""

    bytes: Bytes
    sha256: Digest


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """How a KV cache is laid out (``BSH`` or ``BHSD``), and how many positions the model was built for.

    ``slots`` is the one length S that a BHSD graph's caches and mask have, at least ``max_length + SCRATCH_ROWS``;
    0 where S may change from call to call.
    """

    layout: Layout
    max_length: Positions
    slots: Slots = 0


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """The tokenizer's file, its fingerprint (``s2d_trt.tokenizer``), and the ids that begin and end a text."""

    file: FileName
    fingerprint: Digest
    bos_token_id: TokenId | None
    eos_token_ids: tuple[TokenId, ...]


@dataclass(frozen=True, slots=True)
class QueryProfile:
    """Query lengths that one optimisation profile of a plan accepts, and ``opt``, for which it is optimised.

    They count the rows of all texts in a call.
    """

    min: Rows
    opt: Rows
    max: Rows


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A compiled graph, described here because a plan cannot be inspected without a GPU.

    ``flavor`` is the builder, ``tensorrt`` or ``tensorrt_rtx``, and ``builder_version`` its full version: another
    flavor or version cannot load the plan. ``compute_capabilities`` lists the GPUs that it runs on, for example
    ``("8.0", "8.9")``; it is empty if the builder set no limit. ``profiles`` are in the engine's order, and their
    ranges follow one another without gaps. ``bytes`` is the size on disk. ``memory_bytes`` estimates the device memory
    of the weights, and ``activation_bytes`` that of each execution context on top.
    """

    file: FileName
    graph: Text
    flavor: Text
    builder_version: Text
    compute_capabilities: tuple[Text, ...]
    profiles: tuple[QueryProfile, ...]
    bytes: Bytes
    memory_bytes: Bytes
    activation_bytes: Bytes
    weight_format: Text
    weight_streaming: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``manifest.json``.

    ``precision`` is the graphs' element type (``fp32``, ``fp16`` or ``bf16``), ``weight_format`` that of the linear
    layers' weights, which may be narrower (``int8``, ``int7`` where rows are integers too, ``int4``). ``graphs`` maps a
    graph's name (see ``s2d_trt.names``) to its file. ``head_top_k`` is the number of candidates that the draft's head
    returns (0 in a target). ``plans`` has one entry for each compiled graph, in the graphs' order. ``lanes`` lists how
    many texts one call may take, rising from 1; older bundles take one.
    """

    kind: Kind
    name: Text
    model: ModelSpec
    exits: tuple[Layers, ...]
    precision: Precision
    weight_format: WeightFormat
    cache: CacheSpec
    head_top_k: Candidates
    tokenizer: TokenizerSpec
    graphs: dict[Text, FileName]
    weights: FileName
    files: dict[FileName, FileEntry]
    built_with: dict[Text, Text]
    plans: tuple[PlanEntry, ...] = ()
    lanes: tuple[Lanes, ...] = (1,)
    schema: int = SCHEMA

    @property
    def token_bytes(self) -> int:
        """Bytes that a committed token takes in the caches of all layers."""
        element = 2 if self.precision in ("fp16", "bf16") else 4
        return 2 * self.model.num_hidden_layers * self.model.kv_width * element

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], source: Path) -> Manifest:
        """Build from parsed JSON.

        Raises:
            BundleError: the schema is another one, a field is missing, malformed or out of range, or two contradict
                each other.
        """
        if data.get("schema") != SCHEMA:
            raise BundleError(
                f"{source} has schema {data.get('schema')!r:.40}, this version reads {SCHEMA}; build the bundle again"
            )
        try:
            # Older bundles of this schema have profiles; nothing reads them.
            if unknown := data.keys() - {"profiles", *(field.name for field in dataclasses.fields(cls))}:
                raise msgspec.ValidationError(f"unknown field {min(unknown):.40}")
            manifest = msgspec.convert(data, cls)
        except msgspec.ValidationError as cause:
            raise BundleError(f"{source} is damaged ({cause}); build the bundle again") from cause
        for contradiction in _contradictions(manifest):
            raise BundleError(f"{source} contradicts itself: {contradiction}; build the bundle again")
        return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What in a manifest does not agree with the rest of it, in words."""
    model, cache, exits = manifest.model, manifest.cache, manifest.exits
    if "/" in manifest.name or not manifest.name or not manifest.name.isprintable():
        yield f"the name {manifest.name!r} is empty or holds characters that no bundle's name has"
    if model.num_attention_heads % model.num_key_value_heads:
        yield f"{model.num_attention_heads} heads cannot share {model.num_key_value_heads} key/value heads evenly"
    if model.head_dim % 2:
        yield f"head_dim {model.head_dim} is odd"
    if manifest.kind == "target" and (exits or manifest.head_top_k):
        yield "a target has no exits and no head_top_k"
    if manifest.kind == "draft":
        if not exits or exits[-1] != model.num_hidden_layers or not _rises((0, *exits)):
            yield f"exits {list(exits)} do not rise to the {model.num_hidden_layers} layers"
        if not 1 <= manifest.head_top_k <= model.vocab_size:
            yield f"head_top_k {manifest.head_top_k} is not between 1 and the vocabulary of {model.vocab_size}"
    if manifest.lanes[:1] != (1,) or not _rises(manifest.lanes):
        yield f"lanes {list(manifest.lanes)} do not rise from 1"
    ids = [*manifest.tokenizer.eos_token_ids, manifest.tokenizer.bos_token_id or 0]
    if max(ids) >= model.vocab_size:
        yield f"token id {max(ids)} is outside the vocabulary of {model.vocab_size}"
    if cache.slots if cache.layout == "BSH" else cache.slots < cache.max_length + SCRATCH_ROWS:
        yield f"{cache.slots} slots do not fit layout {cache.layout} and {cache.max_length} positions"
    weights = manifest.files.get(manifest.weights)
    if weights is not None and weights.bytes < least_bytes(model, cache.max_length):
        yield f"a weight file of {weights.bytes} bytes is too small for the model and its {cache.max_length} positions"


def least_bytes(model: ModelSpec, positions: int) -> int:
    """Bytes below which no weight file of this model is: 4 bits a number, a head that may lack most tokens."""
    head = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    rotary = 2 * positions * (model.head_dim // 2)
    return (model.parameters - head) // 2 + 2 * rotary


def _rises(numbers: tuple[int, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))
