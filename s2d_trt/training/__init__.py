"""SoFT: training one draft model whose exits are each a usable model (needs the ``train`` extra)."""

from __future__ import annotations

import importlib

from s2d_trt.errors import OptionError


def require_torch() -> None:
    """Import the packages that training needs, so that a missing one gives a one-line message.

    Raises:
        OptionError: the ``train`` extra is not installed.
    """
    try:
        for module in ("torch", "transformers", "accelerate", "matplotlib", "tqdm"):
            importlib.import_module(module)
    except ImportError as cause:
        raise OptionError("training needs torch and transformers: pip install -e '.[train]' in the checkout") from cause
    from transformers.utils import logging

    # transformers would warn about the target's layers that the draft does not use.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
