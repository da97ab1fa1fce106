"""What the benchmarks import from inside the runtime, in one place: if a module there moves, only this file changes."""

from runtime.backends.cuda.device import open_gpu
from runtime.backends.placement import CUDA, Device, Placement
from runtime.backends.tensorrt.plans import installed_flavors
from runtime.bench import run_prompts
from runtime.drafting.calls import run_together
from runtime.drafting.costs import WIDTHS, Costs
from runtime.drafting.measurement import measure
from runtime.drafting.options import choose_policy
from runtime.evaluation.comparison import generate, same_bits, same_bits_so_far, warm_up
from runtime.evaluation.prompts import Prompt, load_prompts
from runtime.machine.cache import cache_directory
from runtime.machine.processor import physical_cores, processor_identity
from runtime.sampling import chooser
from runtime.sampling.chooser import Chooser
from runtime.sampling.grammar import GrammarRule, Grammars
from runtime.sampling.noise import Noise
from runtime.sampling.ruled_noise import RuledNoise
from runtime.targets.target import BundleSequence
from runtime.tree.builder import TreeBuilder
from runtime.tree.tree import Tree
from s2d_trt.tokenizer import load_tokenizer

__all__ = [
    "CUDA",
    "WIDTHS",
    "BundleSequence",
    "Chooser",
    "Costs",
    "Device",
    "GrammarRule",
    "Grammars",
    "Noise",
    "Placement",
    "Prompt",
    "RuledNoise",
    "Tree",
    "TreeBuilder",
    "cache_directory",
    "choose_policy",
    "chooser",
    "generate",
    "installed_flavors",
    "load_prompts",
    "load_tokenizer",
    "measure",
    "open_gpu",
    "physical_cores",
    "processor_identity",
    "run_prompts",
    "run_together",
    "same_bits",
    "same_bits_so_far",
    "warm_up",
]
