"""Names of graphs and of their inputs and outputs. They follow onnxruntime-genai and Optimum.

Shapes, with q query rows, S cache slots, H hidden size, V vocabulary, k top candidates, D head_dim; T is the element
type of the graph's precision (float32, float16 or bfloat16):

segment_i   input_ids int64 [1, q] (segment 0) or hidden_states T [1, q, H] (the others),
            position_ids int64 [1, q], attention_mask bool [q, S] (True: may be read),
            write_index int64 [1] (cache slot of the first row), past_key_values.{layer}.key|value T
            -> output_hidden_states T [1, q, H] (before the norm), present.{layer}.key|value T
head        hidden_states T [1, q, H], noise float32 [1, V] (added to the logits)
            -> top_tokens int64 [q, k], top_logprobs float32 [q, k] of ``log_softmax(logits + noise)``, best first
target      as segment 0 over all layers, and logit_rows int64 [r] (rows whose logits are wanted)
            -> logits float32 [r, V], present.{layer}.key|value T

Layers are numbered from the first layer of the whole model. In layout BSH a cache is T [1, S, num_key_value_heads * D],
and a call may pass any prefix S of the allocated slots. In layout BHSD it is T [1, num_key_value_heads, S, D], and S is
the manifest's ``cache.slots`` in every call, so the mask covers all slots.
"""

from __future__ import annotations

INPUT_IDS = "input_ids"
HIDDEN_STATES = "hidden_states"
OUTPUT_HIDDEN_STATES = "output_hidden_states"
"""A segment's output; it cannot have the name of the segment's input, ``hidden_states``."""
POSITION_IDS = "position_ids"
ATTENTION_MASK = "attention_mask"
WRITE_INDEX = "write_index"
NOISE = "noise"
TOP_TOKENS = "top_tokens"
TOP_LOGPROBS = "top_logprobs"
LOGIT_ROWS = "logit_rows"
LOGITS = "logits"

ATTENTION_ROWS = "attention_rows"
PACKED_ROWS = "packed_rows"
LANE_ROWS = "lane_rows"

HEAD = "head"
TARGET = "target"


def in_lanes(graph: str, lanes: int) -> str:
    """Name of the form of ``graph`` that takes so many texts in one call."""
    return graph if lanes == 1 else f"{graph}_lanes_{lanes}"


def segment(index: int) -> str:
    """Name of the draft's graph number ``index``."""
    return f"segment_{index}"


PAST = "past_key_values."
PRESENT = "present."


def past(layer: int, part: str, lane: int | None = None) -> str:
    """Input name of a layer's cache; ``part`` is ``key`` or ``value``."""
    return f"{PAST}{layer}.{part}" + ("" if lane is None else f".{lane}")


def present(layer: int, part: str, lane: int | None = None) -> str:
    """Output name of a layer's cache; bound to the same memory as ``past``."""
    return present_of(past(layer, part, lane))


def lane_mask(lane: int) -> str:
    """Input name of a lane's attention mask."""
    return f"{ATTENTION_MASK}.{lane}"


def present_of(past: str) -> str:
    """Name of the output that is bound to the same memory as the input ``past``."""
    return PRESENT + past.removeprefix(PAST)
