"""What the GPU backends share: memory, staging, small kernels, and the contexts that call a graph through them."""
