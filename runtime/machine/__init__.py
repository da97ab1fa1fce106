"""This machine: its processor, what that computes exactly, and the user's cache directory."""
