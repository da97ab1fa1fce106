"""Backends turn a bundle's graphs into engines with buffers bound in place."""
