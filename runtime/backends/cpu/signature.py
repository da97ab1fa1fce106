"""The inputs and outputs that a graph must have for its manifest, in layout BSH (``s2d_trt.names`` describes them)."""

from __future__ import annotations

from typing import Any

from s2d_trt import names
from s2d_trt.errors import BundleError
from s2d_trt.manifest import Manifest

FLOAT, INTEGER, BOOL = "tensor(float)", "tensor(int64)", "tensor(bool)"
Signature = dict[str, tuple[str, tuple[int | None, ...]]]
"""Element type and shape of each input and output; a size that varies is None."""


def head_signature(manifest: Manifest) -> Signature:
    """Of a draft's head."""
    model, top_k = manifest.model, manifest.head_top_k
    return {
        names.HIDDEN_STATES: (FLOAT, (1, None, model.hidden_size)),
        names.NOISE: (FLOAT, (None, model.vocab_size)),
        names.TOP_TOKENS: (INTEGER, (None, top_k)),
        names.TOP_LOGPROBS: (FLOAT, (None, top_k)),
    }


def layers_signature(manifest: Manifest, graph: str, layers: range, lanes: int) -> Signature:
    """Of a target or a segment with ``layers`` in its form for ``lanes`` texts."""
    model = manifest.model
    hidden = (FLOAT, (1, None, model.hidden_size))
    signature: Signature = {names.POSITION_IDS: (INTEGER, (1, None)), names.WRITE_INDEX: (INTEGER, (lanes,))}
    if layers.start == 0:
        signature[names.INPUT_IDS] = (INTEGER, (1, None))
    else:
        signature[names.HIDDEN_STATES] = hidden
    if graph == names.TARGET:
        signature[names.LOGIT_ROWS] = (INTEGER, (None,))
        signature[names.LOGITS] = (FLOAT, (None, model.vocab_size))
    else:
        signature[names.OUTPUT_HIDDEN_STATES] = hidden
    if lanes > 1:
        signature[names.LANE_ROWS] = (INTEGER, (lanes,))
        signature[names.ATTENTION_ROWS] = signature[names.PACKED_ROWS] = (INTEGER, (None,))
    for lane in range(lanes) if lanes > 1 else (None,):
        signature[names.ATTENTION_MASK if lane is None else names.lane_mask(lane)] = (BOOL, (None, None))
        for layer in layers:
            for part in ("key", "value"):
                cache = (FLOAT, (1, None, model.kv_width))
                signature[names.past(layer, part, lane)] = signature[names.present(layer, part, lane)] = cache
    return signature


def check_signature(session: Any, signature: Signature, where: str) -> None:
    """Compare the inputs and outputs of an ONNX Runtime session with a signature.

    Raises:
        BundleError: a name, a type or a size is another one.
    """
    found = {node.name: (node.type, node.shape) for node in (*session.get_inputs(), *session.get_outputs())}
    if different := found.keys() ^ signature.keys():
        name = min(different)
        raise BundleError(
            f"{where} does not fit its manifest: {name} is {'missing' if name in signature else 'not expected'};"
            " build the bundle again"
        )
    for name, (kind, shape) in signature.items():
        found_kind, found_shape = found[name]
        fits = len(found_shape) == len(shape) and all(
            size is None or size == found_size for size, found_size in zip(shape, found_shape, strict=False)
        )
        if found_kind != kind or not fits:
            raise BundleError(
                f"{where} does not fit its manifest: {name} is {found_kind} {found_shape} where {kind}"
                f" {['any' if size is None else size for size in shape]} is needed; build the bundle again"
            )
