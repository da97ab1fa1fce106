"""All that the benchmarks import from inside the runtime: when a module there moves, only this file changes."""

from runtime.backends.cuda.device import open_gpu
from runtime.backends.placement import CUDA, Device, Placement
from runtime.backends.tensorrt.plans import installed_flavors
from runtime.bench import run_prompts
from runtime.decoding.noise import Noise
from runtime.drafting.costs import WIDTHS, Costs, measure
from runtime.drafting.tree import Tree
from runtime.evaluation.comparison import generate
from runtime.evaluation.prompts import Prompt, load_prompts
from runtime.machine.cache import cache_directory
from runtime.machine.processor import physical_cores
from runtime.targets.target import BundleSequence
from runtime.text.tokenizer import load_tokenizer

__all__ = [
    "CUDA",
    "WIDTHS",
    "BundleSequence",
    "Costs",
    "Device",
    "Noise",
    "Placement",
    "Prompt",
    "Tree",
    "cache_directory",
    "generate",
    "installed_flavors",
    "load_prompts",
    "load_tokenizer",
    "measure",
    "open_gpu",
    "physical_cores",
    "run_prompts",
]
