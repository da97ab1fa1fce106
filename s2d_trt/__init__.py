"""What the exporter and the runtime share: bundles, model specs, graph names, errors, files."""

__version__ = "0.1.0"
