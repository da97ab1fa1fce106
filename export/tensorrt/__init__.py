"""Graphs of a bundle -> TensorRT plans."""
