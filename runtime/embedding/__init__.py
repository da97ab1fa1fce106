"""Ways in for hosts that are not Python: a C library, and model repositories for serving stacks."""
