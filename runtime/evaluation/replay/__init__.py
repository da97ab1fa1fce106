"""Record a draft's candidates once, and replay any policy over them without running a model."""
