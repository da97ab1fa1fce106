"""From a body to the texts that it asks for."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.drafting.options import Policy, choose_policy
from runtime.sampling.constraint import Constraint
from runtime.sampling.options import Sampling
from runtime.serving.errors import bad_request
from runtime.serving.fields import (
    ChatBody,
    ChatMessage,
    CompletionBody,
    Generation,
    JsonObject,
    JsonSchema,
    Speculative,
    Tree,
)
from runtime.serving.targets import ServedTarget
from runtime.serving.tools import Toolbox
from runtime.text.chat import Message
from runtime.text.tool_calls import tool_call

DEFAULT_TEMPERATURE = 1.0
"""OpenAI's, so a request that says nothing samples."""
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's for completions. A chat goes on to the end of the context."""


def completion_requests(body: CompletionBody, served: ServedTarget) -> list[Request]:
    """``n`` texts for each prompt, in the order of the prompts. Takes a while: call it in a thread.

    Raises:
        S2DError, ApiError: the options or a prompt do not fit.
    """
    options = replace(
        _options(body, served, body.max_tokens or DEFAULT_COMPLETION_TOKENS),
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    return [served.decoder.request(prompt, choice) for prompt in prompts_of(body) for choice in _choices(body, options)]


def chat_requests(body: ChatBody, served: ServedTarget) -> list[Request]:
    """``n`` next turns. Takes a while: call it in a thread.

    Raises:
        S2DError, ApiError: the options or the conversation do not fit.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs: true", "top_logprobs", "invalid_value")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise bad_request("max_tokens and max_completion_tokens differ; give one", "max_tokens", "invalid_value")
    most = body.max_completion_tokens or body.max_tokens or served.decoder.target.max_length
    options = replace(_options(body, served, most), logprobs=(body.top_logprobs or 0) if body.logprobs else None)
    toolbox, turns = Toolbox.of(body, served), conversation(body.messages, served)
    if toolbox is None:
        prompt = served.decoder.encode_chat(turns)
    else:
        prompt = served.decoder.encode(toolbox.prompt(body, turns, served), special_tokens=False)
        options = replace(options, constraint=toolbox.constraint)
    return [served.decoder.request(prompt, choice) for choice in _choices(body, options)]


def prompts_of(body: CompletionBody) -> Sequence[str | list[int]]:
    """One prompt or several: texts, or lists of token ids. Raises ApiError where kinds are mixed."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    kinds = {type(part) for part in body.prompt}
    if len(kinds) > 1:
        raise bad_request(
            "prompt: give texts, token ids, or lists of token ids, not a mixture", "prompt", "invalid_value"
        )
    if kinds == {int}:
        return [[part for part in body.prompt if isinstance(part, int)]]
    return [part for part in body.prompt if not isinstance(part, int)]


def conversation(messages: Sequence[ChatMessage], served: ServedTarget) -> list[Message]:
    """Messages as the target's chat template reads them: parts of a text are joined.

    Raises:
        ApiError: calls are in a turn of another role than assistant. OptionError: a call's arguments are no JSON
            object. BundleError: there are calls, and the template knows no tools.
    """
    return [_turn(message, served) for message in messages]


def _turn(message: ChatMessage, served: ServedTarget) -> dict[str, Any]:
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    turn: dict[str, Any] = {"role": message.role, "content": text, **({"name": message.name} if message.name else {})}
    if (message.tool_call_id is not None) != (message.role == "tool"):
        raise bad_request("tool_call_id belongs to the role tool", "messages", "invalid_value")
    if message.tool_calls and message.role != "assistant":
        raise bad_request("tool_calls belong to the role assistant", "messages", "invalid_value")
    if message.tool_calls or message.role == "tool":
        as_text = served.decoder.chat_template.call_format.arguments_as_text
        calls = [
            tool_call(call.id, call.function.name, call.function.arguments, as_text)
            for call in message.tool_calls or ()
        ]
        turn |= {"tool_calls": calls} if calls else {"tool_call_id": message.tool_call_id}
    return turn


def text_count(body: Generation) -> int:
    """How many texts a body asks for."""
    prompts = len(prompts_of(body)) if isinstance(body, CompletionBody) else 1
    return prompts * (body.n or 1)


def _choices(body: Generation, options: Options) -> Iterator[Options]:
    """One for each choice. Choice i of a prompt has the seed + i, so each can be had again alone."""
    seed = options.sampling.seed or 0
    for index in range(body.n or 1):
        yield replace(options, sampling=replace(options.sampling, seed=(seed + index) % 2**64))


def _options(body: Generation, served: ServedTarget, most: int) -> Options:
    policy, draft = drafting(body.speculative or Speculative(), served.policy, served.draft)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    sampling = Sampling(
        temperature=DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        seed=secrets.randbits(32) if body.seed is None else body.seed,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=_logit_bias(body),
    )
    return Options(
        max_new_tokens=most,
        sampling=sampling,
        stop=stop,
        policy=policy,
        draft=draft,
        exact=served.exact,
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        constraint=_constraint(body),
    )


def _constraint(body: Generation) -> Constraint | None:
    asked: list[Constraint] = []
    match body.response_format:
        case JsonObject():
            asked.append(Constraint.json_schema({"type": "object"}))
        case JsonSchema(named):
            asked.append(Constraint.json_schema(named.schema))
    if (outputs := body.structured_outputs) is not None:
        asked += [Constraint.json_schema(outputs.json)] if outputs.json is not None else []
        asked += [Constraint("regex", outputs.regex)] if outputs.regex is not None else []
        asked += [Constraint.choice(outputs.choice)] if outputs.choice is not None else []
        asked += [Constraint("lark", outputs.grammar)] if outputs.grammar is not None else []
    if len(asked) > 1:
        raise bad_request("a text can have one form; give one", "structured_outputs", "invalid_value")
    return asked[0] if asked else None


def _logit_bias(body: Generation) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in (body.logit_bias or {}).items()}
    except ValueError as cause:
        raise bad_request("logit_bias: its keys must be token ids", "logit_bias", "invalid_value") from cause


def drafting(asked: Speculative, policy: Policy, draft: bool) -> tuple[Policy, bool]:
    """What is asked for, or ``policy`` and ``draft`` where nothing is. Raises OptionError."""
    draft = draft if asked.enabled is None else asked.enabled
    if asked.policy is None and asked.thresholds is None and asked.tree is None:
        return policy, draft
    tree = asked.tree
    sizes = {"depth": tree.depth, "top_k": tree.top_k, "nodes": tree.nodes} if isinstance(tree, Tree) else None
    preset = tree if not isinstance(tree, Tree) else None
    return choose_policy(asked.policy, asked.thresholds, None, preset, sizes), draft
