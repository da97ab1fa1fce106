"""One build, draft or target: checkpoint -> weights and graphs -> parity -> committed bundle."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import onnx

from export.bundle import BundleWriter, check_space, write_bundle
from export.checkpoint import Checkpoint, check_tokenizer
from export.config import read_json, refuse_foreign_link
from export.encoding import FP32_WEIGHTS, Encoding
from export.graph import GraphBuilder, head_top_k
from export.lanes import Lanes
from export.layout import BHSD, BSH, CacheLayout
from export.nodes import OPSET
from export.parity import check_parity
from export.precision import FP32
from export.rounding import check_rounding
from export.tensorrt.bundle_plans import PlanOptions, compile_graphs
from export.weight_spec import WeightSpec
from export.weights import write_weights
from s2d_trt import __version__, names
from s2d_trt.cli import byte_size
from s2d_trt.errors import CheckpointError, OptionError
from s2d_trt.manifest import SCRATCH_ROWS, CacheSpec, FileEntry, Manifest, TokenizerSpec
from s2d_trt.reading import read_bytes, reading
from s2d_trt.tokenizer import tokenizer_fingerprint

TOKENIZER = "tokenizer.json"
COMPANIONS = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja")
DEFAULT_MAX_LENGTH = 4096
"""Default limit of a cache's length: many models allow contexts that no memory holds."""
PARITY_BYTES = 2 * 2**30
"""Weights in float32 up to which graphs are compared with PyTorch by default."""
SHORTEST_CACHE = 32
"""Fewest positions that hold a prompt and a tree."""
SLOT_MULTIPLE = 64
"""A cache of fixed length is rounded up to whole tiles of an attention kernel."""

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build. ``lanes`` lists how many texts one call may take. ``exits`` is empty for a target; ``max_length``
    None takes the checkpoint's own, up to ``DEFAULT_MAX_LENGTH``. ``parity`` None compares with PyTorch where the
    weights are at most ``PARITY_BYTES``.

    ``plans`` None compiles nothing. ``head_tokens`` are the tokens that a draft's head can give; empty means all.
    """

    kind: str
    checkpoint: Path
    out: Path
    exits: tuple[int, ...] = ()
    max_length: int | None = None
    parity: bool | None = None
    layout: str = BSH.name
    encoding: Encoding = FP32_WEIGHTS
    plans: PlanOptions | None = None
    head_tokens: tuple[int, ...] = ()
    lanes: tuple[int, ...] = (1,)


def build(request: BuildRequest, checkpoint: Checkpoint, log: Log = print) -> Manifest:
    """Write the bundle, or leave everything as it was.

    Raises:
        CheckpointError: the checkpoint lacks something.
        OptionError: ``max_length`` or ``out`` does not fit.
        ParityError: a graph disagrees with the model it was made from.
        CompileError: TensorRT refuses a graph, or memory ran out.
    """
    began = time.perf_counter()
    if request.out.resolve().is_relative_to(checkpoint.directory.resolve()):
        raise OptionError(f"--out {request.out} is inside the checkpoint; name a directory elsewhere")
    if not checkpoint.config.eos_token_ids:
        log("note     the configs name no end-of-text token: texts end by their length or a stop string")
    max_length = _checked_max_length(request, checkpoint, log)
    check_tokenizer(checkpoint.directory / TOKENIZER, checkpoint.spec)
    fingerprint = tokenizer_fingerprint(checkpoint.directory / TOKENIZER, CheckpointError)
    # Layers above the last exit never run, so they are not built.
    layers = request.exits[-1] if request.exits else checkpoint.spec.num_hidden_layers
    spec = dataclasses.replace(checkpoint.spec, num_hidden_layers=layers)
    cache = _cache(request.layout, max_length)
    layout = _layout(cache, request.lanes)
    stored = WeightSpec(
        spec, max_length, request.encoding, request.head_tokens, layout.joins_layers, layout.folds_heads
    )
    checkpoint.check_tensors(stored.shapes)
    check_space(request.out, stored.bytes)
    source = byte_size(checkpoint.bytes_of(spec))
    log(f"writing  {byte_size(stored.bytes)} of {request.encoding.weight_format} weights, {source} in the checkpoint")
    with write_bundle(request.out) as writer:
        scratch = writer.scratch("weights.bin")
        weights = write_weights(checkpoint, stored, scratch)
        weights_name = writer.adopt("weights.bin", scratch, weights.sha256)
        builder = GraphBuilder(weights, weights_name, layout, request.encoding.precision)
        models = _models(builder, request.exits, request.lanes)
        graphs = {name: writer.add(f"{name}.onnx", content) for name, content in models}
        log(f"graphs   {', '.join(_of_one_lane(graphs, request.lanes))}")
        if len(request.lanes) > 1:
            log(f"lanes    {', '.join(map(str, request.lanes))}: texts in one call")
        log(f"weights  {byte_size(weights.bytes)}, {len(weights.tensors)} tensors")
        log(f"capacity {max_length} tokens in a text, the prompt included")
        manifest = Manifest(
            kind=request.kind,
            name=request.out.name.removesuffix(".engine"),
            model=spec,
            exits=request.exits,
            precision=builder.precision.name,
            weight_format=request.encoding.weight_format,
            cache=cache,
            head_top_k=head_top_k(weights.head_rows) if request.exits else 0,
            tokenizer=TokenizerSpec(
                file=writer.add(TOKENIZER, (checkpoint.directory / TOKENIZER).read_bytes()),
                fingerprint=fingerprint,
                bos_token_id=checkpoint.config.bos_token_id,
                eos_token_ids=checkpoint.config.eos_token_ids,
            ),
            graphs=graphs,
            weights=weights_name,
            files=_with_companions(writer, checkpoint.directory),
            lanes=request.lanes,
            built_with={"s2d-trt": __version__, "onnx": metadata.version("onnx"), "opset": str(OPSET)},
        )
        for line in _parity(manifest, writer, builder, request):
            log(f"parity   {line}")
        if request.plans:
            manifest = compile_graphs(manifest, writer.staging, writer, request.plans, log)
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


def _models(
    builder: GraphBuilder, exits: tuple[int, ...], lanes: tuple[int, ...] = (1,)
) -> Iterator[tuple[str, bytes]]:
    """Name and content of every graph of a draft, or of a target: in layout BSH, but for the head, one for each number
    of ``lanes``.
    """

    def content(model: onnx.ModelProto) -> bytes:
        return bytes(model.SerializeToString(deterministic=True))

    bounds = (0, *exits)
    for count in (1,) if isinstance(builder.layout, BHSD) else lanes:
        laned = builder if count == 1 else dataclasses.replace(builder, layout=BSH(Lanes(count)))
        if not exits:
            yield names.in_lanes(names.TARGET, count), content(laned.target())
        for index in range(len(exits)):
            name = names.in_lanes(names.segment(index), count)
            yield name, content(laned.segment(index, *bounds[index : index + 2]))
    if exits:
        yield names.HEAD, content(builder.head())


def _cache(layout: str, max_length: int) -> CacheSpec:
    if layout == BSH.name:
        return CacheSpec(layout, max_length)
    slots = max_length + SCRATCH_ROWS
    return CacheSpec(layout, max_length, slots + -slots % SLOT_MULTIPLE)


def _layout(cache: CacheSpec, lanes: tuple[int, ...]) -> CacheLayout:
    return BHSD(cache.slots, Lanes(max(lanes))) if cache.slots else BSH()


def _parity(manifest: Manifest, writer: BundleWriter, builder: GraphBuilder, request: BuildRequest) -> Iterator[str]:
    """Compare the graphs, in float32, with PyTorch; then those of a narrower precision with their float32 form."""
    if request.parity is False:
        yield "not checked (--no-parity)"
        return
    in_torch = WeightSpec(manifest.model, manifest.cache.max_length).bytes
    if request.parity is None and in_torch > PARITY_BYTES:
        yield f"not checked, because PyTorch would take {byte_size(2 * in_torch)} of memory; --parity checks anyway"
        return
    # Forms for several lanes are compared with the form for one.
    manifest = wide = dataclasses.replace(manifest, graphs=_of_one_lane(manifest.graphs, manifest.lanes))
    if builder.precision is not FP32:
        graphs = {}
        for name, content in _models(dataclasses.replace(builder, precision=FP32), request.exits):
            path = writer.scratch(f"{name}.fp32.onnx")
            path.write_bytes(content)
            graphs[name] = path.name
        wide = dataclasses.replace(manifest, precision=FP32.name, graphs=graphs)
    yield check_parity(wide, writer.staging, request.checkpoint, builder.weights.spec)
    if wide is not manifest:
        yield check_rounding(manifest, wide, writer.staging)


def _of_one_lane(graphs: dict[str, str], lanes: tuple[int, ...]) -> dict[str, str]:
    others = {names.in_lanes(graph, count) for graph in graphs for count in lanes if count > 1}
    return {graph: file for graph, file in graphs.items() if graph not in others}


def _checked_max_length(request: BuildRequest, checkpoint: Checkpoint, log: Log) -> int:
    trained, window = checkpoint.config.max_length, checkpoint.config.window
    longest = min(trained, window or trained)
    max_length = request.max_length or min(longest, DEFAULT_MAX_LENGTH)
    if request.max_length is None and max_length < longest:
        log(f"note     a cache of {max_length} positions; --max-length makes it longer, up to {longest}")
    if max_length < SHORTEST_CACHE:
        raise OptionError(
            f"a cache of {max_length} positions holds no prompt and tree; use --max-length {SHORTEST_CACHE} or more"
        )
    if max_length > trained:
        raise OptionError(
            f"--max-length {max_length} is beyond the {trained} positions that {checkpoint.directory} was trained for "
            f"(max_position_embeddings); use at most {trained}"
        )
    if max_length > longest:
        raise OptionError(
            f"--max-length {max_length} is beyond the sliding window of {checkpoint.directory}, past which its layers "
            f"no longer look; use at most {longest}"
        )
    return max_length


def _with_companions(writer: BundleWriter, directory: Path) -> dict[str, FileEntry]:
    """Copy the checkpoint's small files that the runtime reads; returns every file of the build."""
    for name in COMPANIONS:
        path = directory / name
        if path.exists():
            if path.suffix == ".json":
                read_json(path)
            refuse_foreign_link(path)
            with reading(path, CheckpointError, "copy it again, or remove it"):
                writer.add(name, read_bytes(path))
    return writer.files
