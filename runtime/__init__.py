"""The runtime: engine bundles to tokens, with NumPy at its core."""

from runtime.decoding.decoder import Decoder
from runtime.decoding.memory import CacheMemory
from runtime.decoding.options import Options
from runtime.decoding.request import Request, Step
from runtime.decoding.scheduler import Scheduler
from runtime.decoding.service import TextService
from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.drafting.sorted_draft import SortedDraft
from runtime.sampling.constraint import Constraint
from runtime.sampling.logprobs import TokenLogprob
from runtime.sampling.options import Sampling
from runtime.targets import Target, open_target
from runtime.tree.shape import PAPER_TREE, TreeShape

__all__ = [
    "PAPER_TREE",
    "Adaptive",
    "CacheMemory",
    "Constraint",
    "Decoder",
    "FixedThresholds",
    "Options",
    "Policy",
    "Request",
    "Sampling",
    "Scheduler",
    "SortedDraft",
    "Step",
    "Target",
    "TextService",
    "TokenLogprob",
    "TreeShape",
    "open_target",
]
