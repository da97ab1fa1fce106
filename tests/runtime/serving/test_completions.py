"""Completions: every field of the official client, whole and streamed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.sampling.options import Sampling

openai = pytest.importorskip("openai", reason="openai is not installed: pip install -e '.[dev]'")

PROMPT = "the draft"
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def alone(decoder: Decoder, prompt: str | list[int] = PROMPT, new: int = 12, **sampling: Any) -> Request:
    """The text by the runtime itself, without a server and without drafting."""
    extra = {name: sampling.pop(name) for name in list(sampling) if name in Options.__dataclass_fields__}
    options = Options(new, Sampling(**{"temperature": 1.0, **sampling}), draft=False, **extra)
    request = decoder.request(prompt, options)
    for _ in decoder.run(request):
        pass
    return request


def choices(client: Any, stream: bool, **fields: Any) -> list[dict[str, Any]]:
    """The answer's choices, put together from the parts of a stream."""
    fields = {"model": "target", "prompt": PROMPT, "max_tokens": 12, "seed": 7} | fields
    if not stream:
        return [choice.model_dump() for choice in client.completions.create(**fields).choices]
    made: dict[int, dict[str, Any]] = {}
    for chunk in client.completions.create(stream=True, **fields):
        for part in (choice.model_dump() for choice in chunk.choices):
            known = made.setdefault(part["index"], {**part, "text": "", "logprobs": None})
            known["text"] += part["text"]
            for name in ("finish_reason", "seed", "exact"):
                known[name] = part.get(name, known.get(name))
            if part["logprobs"]:
                known["logprobs"] = {
                    name: (known["logprobs"] or {}).get(name, []) + values for name, values in part["logprobs"].items()
                }
    return [made[index] for index in sorted(made)]


def text(client: Any, stream: bool, **fields: Any) -> str:
    (choice,) = choices(client, stream, **fields)
    return str(choice["text"])


@STREAMED
def test_a_text_is_the_targets_own_with_its_seed(client: Any, served: dict[str, Decoder], stream: bool) -> None:
    for name, decoder in served.items():
        (choice,) = choices(client, stream, model=name)
        assert choice["text"] == alone(decoder, seed=7).text
        assert (choice["finish_reason"], choice["seed"], choice["exact"]) == ("length", 7, True)


def test_a_request_that_says_nothing_samples_sixteen_tokens_as_openai_does(client: Any) -> None:
    fields = {"model": "target", "prompt": PROMPT, "extra_body": {"ignore_eos": True}}
    answers = [client.completions.create(**fields) for _ in range(3)]
    assert len({answer.choices[0].text for answer in answers}) > 1
    assert [answer.usage.completion_tokens for answer in answers] == [16] * 3


@STREAMED
def test_a_drawn_seed_is_reported_and_repeats_the_text(client: Any, stream: bool) -> None:
    (first,) = choices(client, stream, seed=None)
    assert text(client, stream, seed=first["seed"]) == first["text"]


def test_a_prompt_is_a_text_ids_or_a_list_of_either(client: Any, served: dict[str, Decoder]) -> None:
    texts = [PROMPT, "a tree of"]
    ids = [served["target"].encode(each) for each in texts]
    expected = [alone(served["target"], prompt, seed=7).text for prompt in texts]
    assert [each["text"] for each in choices(client, False, prompt=texts)] == expected
    assert [each["text"] for each in choices(client, True, prompt=ids)] == expected
    assert text(client, False, prompt=ids[1]) == expected[1]


@STREAMED
def test_each_choice_has_a_seed_that_gives_it_alone(client: Any, stream: bool) -> None:
    made = choices(client, stream, n=3)
    assert [choice["seed"] for choice in made] == [7, 8, 9]
    assert len({choice["text"] for choice in made}) == 3
    assert [text(client, stream, seed=choice["seed"]) for choice in made] == [choice["text"] for choice in made]


def test_choices_of_several_prompts_are_in_their_order(client: Any) -> None:
    made = choices(client, False, prompt=[PROMPT, "a tree of"], n=2)
    assert [choice["index"] for choice in made] == [0, 1, 2, 3]
    assert [choice["text"] for choice in made[2:]] == [
        choice["text"] for choice in choices(client, False, prompt="a tree of", n=2)
    ]


SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.5},
    {"top_p": 0.5},
    {"frequency_penalty": 1.5},
    {"presence_penalty": 1.5},
    {"logit_bias": {"17": 100}},
]
EXTRA: list[dict[str, Any]] = [
    {"top_k": 3},
    {"min_p": 0.2},
    {"repetition_penalty": 1.5},
    {"min_tokens": 4},
    {"ignore_eos": True},
    {"stop_token_ids": [17, 18, 19, 20]},
]


@STREAMED
@pytest.mark.parametrize("field", [*SAMPLING, *EXTRA], ids=lambda field: next(iter(field)))
def test_every_field_does_what_the_runtimes_option_does(
    client: Any, served: dict[str, Decoder], stream: bool, field: dict[str, Any]
) -> None:
    given = {"extra_body": field} if field in EXTRA else field
    options = {name: {int(key): bias for key, bias in value.items()} if name == "logit_bias" else value
               for name, value in field.items()}  # fmt: skip
    if "stop_token_ids" in options:
        options["stop_token_ids"] = tuple(options["stop_token_ids"])
    assert text(client, stream, max_tokens=24, **given) == alone(served["target"], new=24, seed=7, **options).text


@STREAMED
@pytest.mark.parametrize("several", [False, True])
def test_a_stop_string_ends_the_text_before_it(
    client: Any, served: dict[str, Decoder], stream: bool, several: bool
) -> None:
    whole = alone(served["target"], new=24, seed=7).text
    stop = next(character for character in whole[4:] if character != "\ufffd")
    (choice,) = choices(client, stream, max_tokens=24, stop=["never", stop] if several else stop)
    assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")


@STREAMED
def test_echo_puts_the_prompt_before_each_choice(client: Any, stream: bool) -> None:
    plain = choices(client, stream, n=2)
    assert [each["text"] for each in choices(client, stream, n=2, echo=True)] == [
        PROMPT + each["text"] for each in plain
    ]


@STREAMED
def test_logprobs_are_of_the_target_alone(client: Any, served: dict[str, Decoder], stream: bool) -> None:
    request = alone(served["target"], seed=7, logprobs=2)
    (choice,) = choices(client, stream, logprobs=2)
    expected = request.chooser.logprobs
    given = choice["logprobs"]
    assert given["token_logprobs"] == [entry.logprob for entry in expected]
    assert all(logprob < 0 for logprob in given["token_logprobs"])
    assert [
        set(top.values()) >= {best[1] for best in entry.top}
        for top, entry in zip(given["top_logprobs"], expected, strict=True)
    ] == [True] * 12
    assert given["text_offset"][0] == 0
    assert len(given["tokens"]) == 12


def test_echoed_prompts_have_logprobs_but_for_their_first_token(client: Any, served: dict[str, Decoder]) -> None:
    request = alone(served["target"], seed=7, prompt_logprobs=0)
    (choice,) = choices(client, False, logprobs=0, echo=True)
    given, prompt = choice["logprobs"], len(request.prompt)
    assert given["token_logprobs"][0] is None
    assert given["token_logprobs"][1:prompt] == [entry.logprob for entry in request.prompt_logprobs[1:]]
    assert len(given["token_logprobs"]) == prompt + 12
    assert choice["text"][given["text_offset"][prompt] :][:1] == alone(served["target"], seed=7).text[:1]


def test_a_stream_ends_with_the_usage_where_that_is_asked_for(client: Any, server: Any) -> None:
    fields = {"model": "target", "prompt": PROMPT, "max_tokens": 12, "seed": 7, "stream": True}
    *parts, last = client.completions.create(**fields, stream_options={"include_usage": True})
    assert (last.choices, last.usage.completion_tokens, last.usage.prompt_tokens) == ([], 12, 5)
    assert last.metrics["speculative_decoding"]["num_spec_tokens"] >= 0
    assert all(part.usage is None for part in parts)
    *_, last = client.completions.create(**fields)
    assert last.usage is None
    assert "speculative_decoding" in last.metrics


def test_a_stream_may_have_the_usage_so_far_in_every_part(client: Any) -> None:
    fields = {"model": "target", "prompt": PROMPT, "max_tokens": 12, "seed": 7, "stream": True}
    parts = list(client.completions.create(**fields, stream_options={"continuous_usage_stats": True}))
    counts = [part.usage.completion_tokens for part in parts]
    assert (counts, counts[-1]) == (sorted(counts), 12)
    assert {part.usage.prompt_tokens for part in parts} == {5}


def test_drafting_can_be_switched_off_and_chosen_for_a_request(client: Any) -> None:
    def metrics(**speculative: Any) -> Any:
        fields = {"model": "target", "prompt": PROMPT, "max_tokens": 24, "seed": 7}
        answer = client.completions.create(**fields, extra_body={"speculative": speculative})
        return answer.choices[0].text, answer.metrics["speculative_decoding"], answer.choices[0].exact

    plain, nothing, exact = metrics(enabled=False)
    assert (nothing, exact) == (None, True)
    chain, counts, exact = metrics(policy="fixed", thresholds=[0.0, 0.0, 0.0], tree={"depth": 1})
    assert (chain, exact) == (plain, True)
    assert 0 < counts["num_accepted_draft_tokens"] <= counts["num_draft_tokens"] <= 2 * counts["num_spec_steps"]
    assert sum(counts["accepted_per_position"]) == counts["num_accepted_draft_tokens"]
    assert sum(counts["acceptance_histogram"]) == counts["num_spec_steps"]
    assert len(counts["acceptance_histogram"]) == counts["num_spec_tokens"] + 1
    tree, counts, exact = metrics(tree="paper")
    assert (tree, exact) == (plain, False)
    assert counts["num_spec_tokens"] > 4


@STREAMED
def test_a_text_has_the_form_that_is_asked_for(client: Any, stream: bool) -> None:
    pytest.importorskip("llguidance", reason="llguidance is not installed: pip install -e '.[grammar]'")
    schema = {"name": "answer", "schema": {"enum": ["yes", "no"]}, "strict": True}
    asked = {"response_format": {"type": "json_schema", "json_schema": schema}}
    (choice,) = choices(client, stream, max_tokens=64, extra_body=asked)
    assert (json.loads(choice["text"]) in ("yes", "no"), choice["finish_reason"]) == (True, "stop")
    assert text(client, stream, extra_body={"response_format": {"type": "json_object"}}).lstrip()[:1] in ("{", "")
    for outputs, pattern in (({"regex": "[0-9]{3}"}, "[0-9]{3}"), ({"choice": ["yes", "no"]}, "yes|no")):
        assert re.fullmatch(pattern, text(client, stream, extra_body={"structured_outputs": outputs}))


def test_the_fingerprint_names_the_target(client: Any) -> None:
    prints = [client.completions.create(model=model, prompt="a", max_tokens=1).system_fingerprint
              for model in ("target", "target", "other")]  # fmt: skip
    assert prints[0] == prints[1] != prints[2]


def test_the_asynchronous_client_gets_the_same(server: Any, served: dict[str, Decoder]) -> None:
    import asyncio

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
            answers = [client.completions.create(model=name, prompt=PROMPT, max_tokens=12, seed=7) for name in served]
            return [answer.choices[0].text for answer in await asyncio.gather(*answers)]

    assert asyncio.run(ask()) == [alone(decoder, seed=7).text for decoder in served.values()]
