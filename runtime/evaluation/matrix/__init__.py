"""Measuring many combinations of targets, drafts and settings, in runs that can be continued and compared."""
