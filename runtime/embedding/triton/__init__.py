"""Triton Inference Server: a model of its Python backend that serves several targets over one draft."""
