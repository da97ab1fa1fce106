"""POST /tokenize and /detokenize."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from runtime.serving.answers import Text, Tokens
from runtime.serving.errors import bad_request
from runtime.serving.exchange import body_of, exchange_of, json_response
from runtime.serving.fields import DetokenizeBody, TokenizeBody
from runtime.serving.requests import conversation
from runtime.serving.state import ServerState


async def tokenize(http: Request, state: ServerState) -> Response:
    """Token ids of a text, or of a conversation as the chat template writes it."""
    body = await body_of(http, TokenizeBody, state.limits.max_body, state.limits.body_seconds)
    served = state.target(body.model)
    exchange_of(http).model = served.name
    decoder, special = served.decoder, body.add_special_tokens is not False
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give either prompt or messages", "prompt", "invalid_value")
    if body.prompt is not None:
        tokens = await asyncio.to_thread(decoder.encode, body.prompt, special)
    else:
        messages = body.messages or []
        tokens = await asyncio.to_thread(lambda: decoder.encode_chat(conversation(messages, served)))
    return json_response(Tokens(len(tokens), decoder.target.max_length, tokens))


async def detokenize(http: Request, state: ServerState) -> Response:
    """The text of token ids, special tokens included."""
    body = await body_of(http, DetokenizeBody, state.limits.max_body, state.limits.body_seconds)
    served = state.target(body.model)
    exchange_of(http).model = served.name
    size = served.decoder.target.vocab_size
    if beyond := next((token for token in body.tokens if token >= size), None):
        raise bad_request(f"token id {beyond} is outside the vocabulary of {size}", "tokens", "invalid_value")
    decode = served.decoder.tokenizer.decode
    return json_response(Text(await asyncio.to_thread(decode, body.tokens, skip_special_tokens=False)))
