"""The runtime: engine bundles to tokens, with NumPy at its core."""

from runtime.decoding.decoder import Decoder
from runtime.decoding.request import Options, Request, Step
from runtime.decoding.sampling import Sampling
from runtime.drafting.policy import FixedThresholds, Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.drafting.tree import PAPER_TREE, TreeShape
from runtime.targets.target import Target

__all__ = [
    "PAPER_TREE",
    "Decoder",
    "FixedThresholds",
    "Options",
    "Policy",
    "Request",
    "Sampling",
    "SortedDraft",
    "Step",
    "Target",
    "TreeShape",
]
