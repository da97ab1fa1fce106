"""Fixtures of the runtime's and the training's tests: the tools here use both."""

from tests.runtime.backends.conftest import backend, gpu, kernels, static_bundles
from tests.runtime.conftest import own_cache
from tests.s2d_trt.training.conftest import _one_thread, target, texts, tokenizer, vocabulary

__all__ = [
    "_one_thread",
    "backend",
    "gpu",
    "kernels",
    "own_cache",
    "static_bundles",
    "target",
    "texts",
    "tokenizer",
    "vocabulary",
]
