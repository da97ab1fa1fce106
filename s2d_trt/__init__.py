"""What the exporter and the runtime share: bundles, model specs, graph names, errors, files."""

import os

__version__ = "0.1.0"

# ONNX Runtime writes a device id and queues usage data for its maker, unless this is set before it is first imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
