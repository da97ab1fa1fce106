"""Prompts, options and the comparison that the tests of decoding share."""

from __future__ import annotations

from hypothesis import strategies as st

from runtime.bench import ROUNDING
from runtime.decoding.decoder import Decoder
from runtime.decoding.request import Request
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.evaluation.comparison import compare
from runtime.sampling.options import Sampling
from runtime.tree.shape import PAPER_TREE, TreeShape

CHAINS = st.builds(TreeShape, depth=st.integers(0, 6), top_k=st.just(1))
SHAPES = st.one_of(
    CHAINS,
    st.builds(TreeShape, depth=st.integers(0, 4), top_k=st.integers(2, 6), nodes=st.integers(2, 40)),
    st.just(PAPER_TREE),
)
SHARES = st.integers(0, 11).map(lambda tenths: tenths / 10)
EXIT_POLICIES = st.one_of(
    st.builds(
        FixedThresholds, st.one_of(st.none(), st.tuples(SHARES, SHARES, SHARES)), st.sampled_from(["mean", "max"])
    ),
    st.builds(Adaptive, st.booleans()),
)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.5]),
    top_k=st.sampled_from([0, 5, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.5]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.1, 1.5, 0.9]),
    seed=st.integers(0, 2**64 - 1),
)
PROMPTS = st.one_of(
    st.lists(st.integers(1, 299), min_size=1, max_size=20),
    st.builds(lambda token, length: [token, 7] * length, st.integers(1, 299), st.sampled_from([31, 32, 60, 66])),
)
LOOKUPS = st.sampled_from([None, True, False])
SURE = Policy(FixedThresholds((0.0, 0.0, 0.0)))
WIDE = Policy(FixedThresholds((1.1, 1.1, 0.0)), PAPER_TREE)
WARM = Sampling(temperature=1.0, seed=3)


def assert_same(decoder: Decoder, request: Request, reference: Request) -> None:
    """Equal to the token, or apart only where rounding decides between two tokens."""
    comparison = compare(decoder, request, reference)
    assert comparison.identical or (comparison.margin is not None and comparison.margin < ROUNDING), comparison
