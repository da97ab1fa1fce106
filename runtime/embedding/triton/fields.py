"""The tensors of the Triton model, and the options that a request's inputs stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.decoding.options import Options
from runtime.drafting.options import choose_policy
from runtime.sampling.constraint import Constraint
from runtime.sampling.options import Sampling
from s2d_trt.errors import OptionError


@dataclass(frozen=True, slots=True)
class Field:
    """A tensor: its Triton type, and its one size, -1 for any."""

    name: str
    kind: str
    size: int = 1


PROMPT = Field("text_input", "TYPE_STRING")
TARGET = Field("target", "TYPE_STRING")
STREAM = Field("stream", "TYPE_BOOL")
OPTIONS = (
    Field("max_tokens", "TYPE_INT32"),
    Field("min_tokens", "TYPE_INT32"),
    Field("ignore_eos", "TYPE_BOOL"),
    Field("stop", "TYPE_STRING", -1),
    Field("stop_token_ids", "TYPE_INT32", -1),
)
# In 64 bits, so that 0.9 is the 0.9 of other ways in and gives the same text.
SAMPLING = (
    Field("temperature", "TYPE_FP64"),
    Field("top_k", "TYPE_INT32"),
    Field("top_p", "TYPE_FP64"),
    Field("min_p", "TYPE_FP64"),
    Field("repetition_penalty", "TYPE_FP64"),
    Field("frequency_penalty", "TYPE_FP64"),
    Field("presence_penalty", "TYPE_FP64"),
    Field("seed", "TYPE_UINT64"),
    Field("bad_words", "TYPE_STRING", -1),
)
DRAFTING = (Field("draft", "TYPE_BOOL"), Field("thresholds", "TYPE_FP64", -1))
CONSTRAINT = (Field("constraint_kind", "TYPE_STRING"), Field("constraint", "TYPE_STRING"))
OPTIONAL = (TARGET, STREAM, *OPTIONS, *SAMPLING, *DRAFTING, *CONSTRAINT)
OUTPUTS = (
    Field("text_output", "TYPE_STRING"),
    Field("token_ids", "TYPE_INT32", -1),
    Field("drafted", "TYPE_BOOL", -1),
    Field("finish_reason", "TYPE_STRING"),
    Field("seed", "TYPE_UINT64"),
)
"""Of each response; ``finish_reason`` is empty until the last one."""


def options_of(given: Mapping[str, Any]) -> Options:
    """Options from the inputs that a request has: values, or tuples where the size is not 1. Raises OptionError."""
    sampling = Sampling(**{field.name: given[field.name] for field in SAMPLING if field.name in given})
    others = {field.name: given[field.name] for field in OPTIONS if field.name in given}
    if "max_tokens" in others:
        others["max_new_tokens"] = others.pop("max_tokens")
    kind, text = (given.get(field.name) for field in CONSTRAINT)
    if (kind is None) != (text is None):
        raise OptionError("constraint and constraint_kind belong together; give both")
    constraint = None if kind is None or text is None else Constraint(kind, text)
    policy, draft = choose_policy(thresholds=given.get("thresholds")), given.get("draft", True)
    return Options(sampling=sampling, policy=policy, draft=draft, constraint=constraint, **others)
