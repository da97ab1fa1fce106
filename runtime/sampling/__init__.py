"""Sampling: the options that decide the text, the noise of a seed, and the choice of a token."""
