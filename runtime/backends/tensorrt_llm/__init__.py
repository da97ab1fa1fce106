"""TensorRT-LLM: engines of versions up to 1.2 as targets, and the sorted draft as a drafter for later ones."""
