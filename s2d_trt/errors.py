"""Errors a user can act on. Each message is one line: the cause, then the remedy."""

from __future__ import annotations


class S2DError(Exception):
    """A mistake the user can mend; the command line prints it and exits with 2."""


class BundleError(S2DError):
    """A bundle is missing, damaged or of another schema; rebuild or re-copy the file it names."""


class CheckpointError(S2DError):
    """A Hugging Face checkpoint cannot be read; the message names the file or the field."""


class OptionError(S2DError):
    """An option or argument is out of range, of the wrong count, or contradicts another."""


class TokenizerMismatchError(S2DError):
    """Draft and target do not share a tokenizer; train a draft for this target's tokenizer."""


class CapacityError(S2DError):
    """A prompt does not fit the cache; shorten it or rebuild with a larger --max-length."""
