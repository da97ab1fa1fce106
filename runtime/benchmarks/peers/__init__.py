"""Other engines on the same checkpoints, prompts and threads: ``python -m runtime.benchmarks.peers``."""
