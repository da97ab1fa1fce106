"""TensorRT and TensorRT-RTX: compiled plans on a GPU."""
