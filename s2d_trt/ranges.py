"""The ranges of what a manifest may say.

A manifest comes from whoever built the bundle. Its numbers decide what is allocated, so each is bounded before anything
is.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Layers = Annotated[int, Meta(ge=1, le=2**12)]
Heads = Annotated[int, Meta(ge=1, le=2**12)]
Channels = Annotated[int, Meta(ge=1, le=2**20)]
Vocabulary = Annotated[int, Meta(ge=1, le=2**24)]
Positions = Annotated[int, Meta(ge=1, le=2**27)]
Slots = Annotated[int, Meta(ge=0, le=2**28)]
Rows = Annotated[int, Meta(ge=1, le=2**20)]
Lanes = Annotated[int, Meta(ge=1, le=64)]
Candidates = Annotated[int, Meta(ge=0, le=2**12)]
TokenId = Annotated[int, Meta(ge=0, le=2**24)]
Bytes = Annotated[int, Meta(ge=0, le=2**50)]
Epsilon = Annotated[float, Meta(ge=1e-12, le=0.1)]
"""Outside it, float32 loses the number or every hidden state."""
Theta = Annotated[float, Meta(ge=1e-3, le=1e12)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Meta(pattern=r"^[\w.+-]{1,255}$")]
Text = Annotated[str, Meta(max_length=255)]

Kind = Annotated[str, Meta(pattern="^(draft|target)$")]
Precision = Annotated[str, Meta(pattern="^(fp32|fp16|bf16|int8)$")]
WeightFormat = Annotated[str, Meta(pattern="^(fp32|fp16|bf16|int8|int7|int4)$")]
Layout = Annotated[str, Meta(pattern="^(BSH|BHSD)$")]
