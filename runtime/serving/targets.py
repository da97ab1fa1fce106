"""What is served: targets by name, and how each drafts unless a request says otherwise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import s2d_trt
from runtime.decoding.decoder import Decoder
from runtime.drafting.options import Policy
from runtime.text.token_bytes import TokenBytes


@dataclass(slots=True, eq=False)
class ServedTarget:
    """A target under the name that requests give as ``model``.

    ``policy``, ``draft`` and ``exact`` are the defaults of its requests. They may be replaced at any time from the
    event loop: a text reads them when its request arrives and keeps them, so texts under way do not change.
    """

    name: str
    decoder: Decoder
    policy: Policy = field(default_factory=Policy)
    draft: bool = True
    """Whether requests draft."""
    exact: bool | None = None
    """As ``Options.exact``."""
    names: TokenBytes = field(init=False)
    """The texts of single tokens."""
    special_tokens: list[str] = field(init=False)
    """Those that no text shows."""
    fingerprint: str = field(init=False)
    """Differs where the model, its precision, the device or this program's version differs."""

    def __post_init__(self) -> None:
        self.names = TokenBytes(self.decoder.tokenizer)
        added = self.decoder.tokenizer.get_added_tokens_decoder().values()
        self.special_tokens = [token.content for token in added if token.special]
        identity = f"{s2d_trt.__version__}\n{self.decoder.target.identity}"
        self.fingerprint = f"s2d-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
