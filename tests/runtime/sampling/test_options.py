"""The options that decide the text."""

from __future__ import annotations

import math

import pytest

from runtime.sampling.options import Sampling
from s2d_trt.errors import OptionError


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("temperature", value) for value in (-0.1, 100.1, math.inf, math.nan)],
        ("top_k", -1),
        *[("top_p", value) for value in (0.0, -0.5, 1.1, math.nan)],
        *[("min_p", value) for value in (-0.1, 1.0, math.nan)],
        *[("repetition_penalty", value) for value in (0.0, -1.0, math.inf, math.nan)],
        *[("seed", value) for value in (-1, 2**64)],
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=option.replace("_", "[- ]")):
        Sampling(**{option: value})


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_any_filter_counts(options: dict[str, float]) -> None:
    assert Sampling(1.0, **options).filters
    assert not Sampling(1.0, repetition_penalty=1.2).filters
