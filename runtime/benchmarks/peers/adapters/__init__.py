"""Scripts that run in a peer's own environment, where nothing of this project but this folder is on the path."""
