"""Measurements of the exporter at the size of real models, with random weights."""
