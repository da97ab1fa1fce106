"""The bytes that a single token stands for, which may be a part of a character."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Looks up tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
        steps = decoder.get("decoders", [decoder])
        self._byte_level = any(step.get("type") == "ByteLevel" for step in steps)
        self._special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}

    def of(self, token: int) -> bytes:
        """The bytes of a token id; none where the id is not in the vocabulary."""
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if piece in self._special:
            return str(piece).encode()
        if self._byte_level:
            table = byte_level_alphabet()
            return bytes(table[character] for character in piece if character in table)
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return str(piece).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    def text(self, token: int) -> str:
        """The token as text; bytes that are no whole character as ``bytes:\\xe2\\x80``, as OpenAI writes them."""
        data = self.of(token)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


@lru_cache(maxsize=1)
def byte_level_alphabet() -> dict[str, int]:
    """Byte-level BPE's characters for bytes: printable ones stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable}
    return characters | {chr(0x100 + index): byte for index, byte in enumerate(others)}
