"""From a checkpoint to a bundle: ONNX graphs that share one weight file. Never imports ``runtime``."""
