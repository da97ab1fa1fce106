"""Errors that a user can act on. Each message is one line: the cause, then the remedy."""

from __future__ import annotations


class S2DError(Exception):
    """Base of all errors that the user can correct; a command prints the message and exits with 2."""


class BundleError(S2DError):
    """A bundle is missing, damaged or of another schema; the message names the file to copy or build again."""


class CheckpointError(S2DError):
    """A Hugging Face checkpoint cannot be read; the message names the file or field."""


class OptionError(S2DError):
    """An option or argument is out of range, has the wrong number of values, or contradicts another."""


class TokenizerMismatchError(S2DError):
    """Draft and target do not share a tokenizer; train a draft for this target's tokenizer."""


class CapacityError(S2DError):
    """A prompt does not fit the KV cache; shorten it, or build the bundle with a larger --max-length."""
