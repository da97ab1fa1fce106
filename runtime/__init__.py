"""The runtime: engine bundles to tokens, with NumPy at its core."""

from runtime.decoder import Decoder
from runtime.draft import SortedDraft
from runtime.policy import FixedThresholds, Policy
from runtime.request import Options, Request, Step
from runtime.sampling import Sampling
from runtime.target import Target
from runtime.tree import PAPER_TREE, TreeShape

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
