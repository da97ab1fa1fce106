"""Targets: the models that are sped up, and the way from a name to one."""

from __future__ import annotations

from pathlib import Path

from runtime.backends.placement import Placement
from runtime.targets.interface import TargetModel, TargetSequence
from runtime.targets.target import Target
from s2d_trt.bundle import find_bundle

__all__ = ["Target", "TargetModel", "TargetSequence", "open_target"]


def open_target(name: str | Path, placement: Placement | None = None, verify: bool = False) -> TargetModel:
    """Load a target by path or by name under ``engines/``: a bundle, or a TensorRT-LLM engine directory.

    Raises:
        BundleError, OptionError: the name is unknown, or the target cannot run here.
    """
    # Imported only where there is such an engine: the module pulls in the library's own checks.
    from runtime.backends.tensorrt_llm.directory import is_engine_directory

    directory = find_bundle(name)
    if is_engine_directory(directory):
        from runtime.backends.tensorrt_llm.target import TensorRTLLMTarget

        return TensorRTLLMTarget.open(directory)
    return Target.open(directory, placement, verify)
