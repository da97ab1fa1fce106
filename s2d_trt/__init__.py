"""The contract that exporting and running share: bundles, model specs, graph names, errors."""

__version__ = "0.1.0"
