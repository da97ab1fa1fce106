"""One build, draft or target: checkpoint -> weights and graphs -> parity -> committed bundle."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import onnx

from export.bundle import BundleWriter, write_bundle
from export.checkpoint import Checkpoint, check_tokenizer
from export.graph import GraphBuilder, head_top_k
from export.layout import BSH
from export.nodes import OPSET
from export.parity import check_parity
from export.weights import write_weights
from s2d_trt import __version__, names
from s2d_trt.bundle import CacheSpec, FileEntry, Manifest, TokenizerSpec
from s2d_trt.errors import CheckpointError, OptionError
from s2d_trt.tokenizer import tokenizer_fingerprint

TOKENIZER = "tokenizer.json"
COMPANIONS = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja")
LARGEST_CALL = 512
SHORTEST_CACHE = 32
"""A prompt and a tree must fit in it."""

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build. ``exits`` is empty for a target; ``max_length`` None takes the checkpoint's own."""

    kind: str
    checkpoint: Path
    out: Path
    exits: tuple[int, ...] = ()
    max_length: int | None = None
    parity: bool = True


def build(request: BuildRequest, checkpoint: Checkpoint, log: Log = print) -> Manifest:
    """Write the bundle, or leave everything as it was.

    Raises:
        CheckpointError: the checkpoint lacks something.
        OptionError: ``max_length`` or ``out`` does not fit.
        ParityError: a graph disagrees with the model it was made from.
    """
    began = time.perf_counter()
    max_length = _checked_max_length(request, checkpoint)
    check_tokenizer(checkpoint.directory / TOKENIZER, checkpoint.spec)
    fingerprint = tokenizer_fingerprint(checkpoint.directory / TOKENIZER, CheckpointError)
    # Layers above the last exit are never run, so they are not part of what is built.
    layers = request.exits[-1] if request.exits else checkpoint.spec.num_hidden_layers
    spec = dataclasses.replace(checkpoint.spec, num_hidden_layers=layers)
    with write_bundle(request.out) as writer:
        scratch = writer.scratch("weights.bin")
        weights = write_weights(checkpoint, spec, max_length, scratch)
        weights_name = writer.adopt("weights.bin", scratch, weights.sha256)
        layout = BSH()
        models = _models(GraphBuilder(spec, weights, weights_name, layout), request.exits)
        graphs = {
            name: writer.add(f"{name}.onnx", model.SerializeToString(deterministic=True))
            for name, model in models.items()
        }
        log(f"graphs   {', '.join(graphs)}")
        log(f"weights  {weights.bytes / 2**20:.1f} MiB, {len(weights.tensors)} tensors")
        manifest = Manifest(
            kind=request.kind,
            name=request.out.name.removesuffix(".engine"),
            model=spec,
            exits=request.exits,
            precision="fp32",
            weight_format="fp32",
            cache=CacheSpec(layout.name, max_length),
            profiles={"min": 1, "opt": 8, "max": min(LARGEST_CALL, max_length)},
            head_top_k=head_top_k(spec) if request.exits else 0,
            tokenizer=TokenizerSpec(
                file=writer.add(TOKENIZER, (checkpoint.directory / TOKENIZER).read_bytes()),
                fingerprint=fingerprint,
                bos_token_id=checkpoint.bos_token_id,
                eos_token_ids=checkpoint.eos_token_ids,
            ),
            graphs=graphs,
            weights=weights_name,
            files=_with_companions(writer, checkpoint.directory),
            built_with={"s2d-trt": __version__, "onnx": metadata.version("onnx"), "opset": str(OPSET)},
        )
        if request.parity:
            log(f"parity   {check_parity(manifest, writer.staging, checkpoint.directory)}")
        else:
            log("parity   not checked (--no-parity)")
        writer.commit(manifest)
    log(f"wrote    {request.out} in {time.perf_counter() - began:.1f} s")
    return manifest


def describe(checkpoint: Checkpoint) -> str:
    """One line on what was read."""
    spec = checkpoint.spec
    return (
        f"read     {checkpoint.directory}: {spec.num_hidden_layers} layers, hidden {spec.hidden_size}, "
        f"{spec.num_attention_heads}/{spec.num_key_value_heads} heads, vocabulary {spec.vocab_size}"
    )


def _models(builder: GraphBuilder, exits: tuple[int, ...]) -> dict[str, onnx.ModelProto]:
    if not exits:
        return {names.TARGET: builder.target()}
    bounds = (0, *exits)
    models = {names.segment(i): builder.segment(i, *bounds[i : i + 2]) for i in range(len(exits))}
    return models | {names.HEAD: builder.head()}


def _checked_max_length(request: BuildRequest, checkpoint: Checkpoint) -> int:
    trained = checkpoint.max_position_embeddings
    max_length = request.max_length or trained
    if max_length < SHORTEST_CACHE:
        raise OptionError(
            f"a cache of {max_length} positions holds no prompt and tree; use --max-length {SHORTEST_CACHE} or more"
        )
    if max_length > trained:
        raise OptionError(
            f"--max-length {max_length} is beyond the {trained} positions that {checkpoint.directory} was trained for "
            f"(max_position_embeddings); use at most {trained}"
        )
    return max_length


def _with_companions(writer: BundleWriter, directory: Path) -> dict[str, FileEntry]:
    """Copy what the runtime may want beside the tokenizer; every file of the build, for the manifest."""
    for name in COMPANIONS:
        if (directory / name).is_file():
            writer.add(name, (directory / name).read_bytes())
    return writer.files
