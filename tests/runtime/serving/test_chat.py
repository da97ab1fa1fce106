"""Chats, models and tokens, with the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.sampling.options import Sampling

openai = pytest.importorskip("openai", reason="openai is not installed: pip install -e '.[dev]'")

QUESTION = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the draft"}]
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def decoder(served: dict[str, Decoder]) -> Decoder:
    return served["chat"]


def alone(decoder: Decoder, new: int = 12, **extra: Any) -> Request:
    options = Options(new, Sampling(temperature=1.0, seed=7), draft=False, **extra)
    request = decoder.chat_request(QUESTION, options)
    for _ in decoder.run(request):
        pass
    return request


def turns(client: Any, stream: bool, **fields: Any) -> list[dict[str, Any]]:
    """The answer's choices, put together from the parts of a stream."""
    fields = {"model": "chat", "messages": QUESTION, "max_completion_tokens": 12, "seed": 7} | fields
    if not stream:
        return [
            {**choice.model_dump(), "content": choice.message.content, "role": choice.message.role}
            for choice in client.chat.completions.create(**fields).choices
        ]
    made: dict[int, dict[str, Any]] = {}
    for chunk in client.chat.completions.create(stream=True, **fields):
        for part in (choice.model_dump() for choice in chunk.choices):
            known = made.setdefault(part["index"], {"role": part["delta"]["role"], "content": "", "logprobs": None})
            known["content"] += part["delta"]["content"] or ""
            known |= {name: part[name] for name in ("finish_reason", "seed", "exact") if part.get(name) is not None}
            if part["logprobs"]:
                before = known["logprobs"]["content"] if known["logprobs"] else []
                known["logprobs"] = {"content": before + part["logprobs"]["content"]}
    return [made[index] for index in sorted(made)]


@STREAMED
def test_a_turn_is_the_targets_own_behind_its_template(client: Any, decoder: Decoder, stream: bool) -> None:
    (turn,) = turns(client, stream)
    assert (turn["role"], turn["content"]) == ("assistant", alone(decoder).text)
    assert (turn["finish_reason"], turn["seed"], turn["exact"]) == ("length", 7, True)


@STREAMED
def test_each_choice_is_a_turn_of_its_own(client: Any, stream: bool) -> None:
    made = turns(client, stream, n=2)
    assert [turn["seed"] for turn in made] == [7, 8]
    assert made[0]["content"] != made[1]["content"]


@STREAMED
def test_logprobs_have_the_bytes_of_each_token(client: Any, decoder: Decoder, stream: bool) -> None:
    (turn,) = turns(client, stream, logprobs=True, top_logprobs=2)
    request, entries = alone(decoder, logprobs=2), turn["logprobs"]["content"]
    assert [entry["logprob"] for entry in entries] == [entry.logprob for entry in request.chooser.logprobs]
    data = bytes(byte for entry in entries for byte in entry["bytes"])
    assert data.decode("utf-8", "replace") == decoder.tokenizer.decode(request.tokens, skip_special_tokens=False)
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


def test_without_a_limit_a_turn_goes_on_to_the_end_of_the_context(client: Any, decoder: Decoder) -> None:
    answer = client.chat.completions.create(model="chat", messages=QUESTION, extra_body={"ignore_eos": True})
    assert answer.usage.total_tokens == decoder.target.max_length
    assert answer.choices[0].finish_reason == "length"


def test_max_tokens_is_the_older_name_of_max_completion_tokens(client: Any) -> None:
    assert (
        turns(client, False, max_completion_tokens=None, max_tokens=3)[0]["content"]
        == (turns(client, False, max_completion_tokens=3)[0]["content"])
    )


def test_parts_of_a_message_are_joined(client: Any) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "draft"}]
    messages = [QUESTION[0], {"role": "user", "content": parts}]
    assert turns(client, False, messages=messages)[0]["content"] == turns(client, False)[0]["content"]


def test_an_answer_can_be_put_into_the_next_request(client: Any) -> None:
    answer = client.chat.completions.create(model="chat", messages=QUESTION, max_tokens=4)
    messages = [*QUESTION, answer.choices[0].message, {"role": "user", "content": "and?"}]
    assert client.chat.completions.create(model="chat", messages=messages, max_tokens=4).choices


def test_a_text_format_is_taken(client: Any) -> None:
    assert turns(client, False, response_format={"type": "text"}) == turns(client, False)


def test_a_stream_has_its_usage_at_the_end(client: Any, decoder: Decoder) -> None:
    fields = {"model": "chat", "messages": QUESTION, "max_tokens": 12, "seed": 7, "stream": True}
    *_, last = client.chat.completions.create(**fields, stream_options={"include_usage": True})
    assert (last.choices, last.usage.completion_tokens) == ([], 12)
    assert last.usage.prompt_tokens == len(decoder.encode_chat(QUESTION))


def test_a_target_without_a_template_says_so(client: Any) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="has no chat template"):
        turns(client, False, model="target")


def test_a_conversation_that_the_template_refuses_is_the_clients_fault(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="this model knows no developer"):
        turns(client, False, messages=[{"role": "developer", "content": "x"}])


def test_models_are_the_targets(client: Any, decoder: Decoder) -> None:
    assert [model.id for model in client.models.list()] == ["target", "other", "chat"]
    model = client.models.retrieve("chat")
    assert (model.max_model_len, model.exits) == (decoder.target.max_length, [2, 4, 6])
    with pytest.raises(openai.NotFoundError, match="there is no model 'gone'"):
        client.models.retrieve("gone")


def test_tokens_go_to_and_fro(server: Any, served: dict[str, Decoder]) -> None:
    given = server.post("/tokenize", {"model": "target", "prompt": "the tree"}).json()
    assert given["tokens"] == served["target"].encode("the tree")
    assert (given["count"], given["max_model_len"]) == (len(given["tokens"]), 256)
    bare = server.post("/tokenize", {"model": "target", "prompt": "the tree", "add_special_tokens": False}).json()
    assert bare["tokens"] == given["tokens"][1:]
    assert server.post("/detokenize", {"model": "target", "tokens": bare["tokens"]}).json() == {"prompt": "the tree"}
    chat = server.post("/tokenize", {"model": "chat", "messages": QUESTION}).json()
    assert chat["tokens"] == served["chat"].encode_chat(QUESTION)
