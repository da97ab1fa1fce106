"""From a checkpoint to a bundle: ONNX graphs that share one weight file. Never imports ``runtime``."""

import sys
from importlib.util import find_spec

import s2d_trt  # noqa: F401  before onnxruntime, whose telemetry it switches off

_missing = [name for name in ("ml_dtypes", "onnx", "safetensors") if find_spec(name) is None]
if _missing:
    _message = f"export needs {', '.join(_missing)}; run pip install -e '.[export]' in the checkout"
    # Python names the program "-m" while it looks for the module to run: then a line, not a traceback.
    raise SystemExit(_message) if sys.argv[:1] == ["-m"] else ModuleNotFoundError(_message)
