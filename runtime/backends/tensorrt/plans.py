"""Checks a compiled plan against the installed TensorRT and the GPU, before anything is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

from s2d_trt.bundle import Bundle
from s2d_trt.errors import BundleError, OptionError
from s2d_trt.manifest import PlanEntry

FLAVORS = ("tensorrt", "tensorrt_rtx")
"""Names of the Python modules, which manifests use too."""


def installed_flavors() -> dict[str, str]:
    """Version of each flavour of TensorRT that can be imported."""
    versions = {}
    for flavor in FLAVORS:
        try:
            versions[flavor] = str(importlib.import_module(flavor).__version__)
        except (ImportError, OSError, AttributeError):  # absent, or a stub without its libraries
            continue
    return versions


def find_plan(bundle: Bundle, graph: str) -> PlanEntry:
    """The plan of a graph. Raises BundleError."""
    for plan in bundle.manifest.plans:
        if plan.graph == graph:
            return plan
    raise BundleError(f"{bundle.directory} has no plan of {graph}; compile it with {compile_command(bundle)}")


def compile_command(bundle: Bundle, *flags: str) -> str:
    """The command that compiles a bundle's plans again."""
    return " ".join(("python -m export.compile", str(bundle.directory), *flags))


def check_plan(bundle: Bundle, plan: PlanEntry, installed: Mapping[str, str], gpu: str, capability: str) -> None:
    """Check a plan against the ``installed`` flavours (name -> version) and a GPU's name and compute capability.

    Raises:
        OptionError: no TensorRT is installed.
        BundleError: another flavour or version, or compiled for other GPUs; the message names what built the plan,
            what is installed, and the command that compiles again.
    """
    built = f"{bundle.path(plan.file)} was built by {plan.flavor} {plan.builder_version}"
    if not installed:
        raise OptionError(
            f"{built}, and no TensorRT is installed; pip install -e '.[tensorrt]' in the checkout, or run a bundle"
            " built for ONNX Runtime"
        )
    here = " and ".join(f"{flavor} {version}" for flavor, version in installed.items())
    if plan.flavor not in installed:
        again = compile_command(bundle, "--trt-flavor", next(iter(installed)))
        raise BundleError(f"{built}, and here is {here}; compile it again with {again}")
    if installed[plan.flavor] != plan.builder_version:
        again = compile_command(bundle, "--trt-flavor", plan.flavor)
        raise BundleError(f"{built}, and here is {here}; compile it again with {again}, or install that version")
    if plan.compute_capabilities and capability not in plan.compute_capabilities:
        targets = ", ".join(plan.compute_capabilities)
        flags = ("--compute-capability", capability) if plan.flavor == "tensorrt_rtx" else ()
        raise BundleError(
            f"{built} for compute capability {targets}, and {gpu} has {capability}; compile it again with"
            f" {compile_command(bundle, '--trt-flavor', plan.flavor, *flags)}"
        )


def import_flavor(plan: PlanEntry) -> ModuleType:
    """The module that built a plan, which ``check_plan`` has found installed."""
    return importlib.import_module(plan.flavor)
