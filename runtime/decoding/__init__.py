"""Decoding: plan what to verify, verify it in one call, commit what the target accepts."""
