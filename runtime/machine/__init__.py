"""This machine: its processor, and the user's cache directory."""
