"""Evaluation: prompts, and comparisons with the target alone."""
