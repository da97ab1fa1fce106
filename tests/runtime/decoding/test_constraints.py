"""Texts under a JSON schema, a regular expression, a grammar or a choice: valid, and the target's own text."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.decoding.request import Request
from runtime.decoding.scheduler import Scheduler
from runtime.drafting.options import Policy
from runtime.drafting.text import TextDrafting
from runtime.evaluation.comparison import generate, same_bits, target_alone
from runtime.sampling.constraint import Constraint
from runtime.sampling.options import Sampling
from runtime.targets.target import Target
from runtime.tree.shape import TreeShape
from s2d_trt.errors import OptionError
from tests.runtime.decoding.cases import CHAINS, EXIT_POLICIES, LOOKUPS, PROMPTS, SURE, WARM, WIDE, assert_same

pytestmark = pytest.mark.usefixtures("known_costs")

NEW = 60
CALL = Constraint("lark", 'start: NAME "(" (NAME ("," NAME)*)? ")"\nNAME: /[a-c]{1,3}/')
CHOICES = ['the "draft"', "the\ntarget", "thé tree", "the"]
COMPACT = {"x-guidance": {"whitespace_flexible": False}}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["draft", "target"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "tags"]
        and len(value["name"]) <= 6
        and 0 <= value["age"] <= 120
        and 1 <= len(value["tags"]) <= 3
        and set(value["tags"]) <= {"draft", "target"}
    )


CONSTRAINTS: dict[str, tuple[Constraint, Any]] = {
    "json_schema": (Constraint.json_schema(PERSON | COMPACT), is_person),
    "spaced json": (Constraint.json_schema(PERSON), is_person),
    "regex": (Constraint("regex", "[0-9]{3}-[xyz]+!"), lambda text: re.fullmatch("[0-9]{3}-[xyz]+!", text)),
    "lark": (CALL, lambda text: re.fullmatch(r"[a-c]{1,3}\(([a-c]{1,3}(,[a-c]{1,3})*)?\)", text)),
    "choice": (Constraint.choice(CHOICES), lambda text: text in CHOICES),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_exact_texts_match_and_are_bit_identical_to_the_target_alone(
    decoder: Decoder, other_decoder: Decoder, name: str
) -> None:
    (constraint, matches), seen = CONSTRAINTS[name], Counter[str]()

    @settings(max_examples=10)
    @given(
        prompt=PROMPTS,
        sampling=st.builds(
            Sampling,
            st.sampled_from([0.0, 1.0]),
            top_k=st.sampled_from([0, 20]),
            seed=st.integers(0, 99),
            frequency_penalty=st.sampled_from([0.0, 0.5]),
        ),
        policy=st.one_of(st.just(SURE), st.builds(Policy, EXIT_POLICIES, CHAINS, LOOKUPS)),
        agreeing=st.booleans(),
    )
    def agrees(prompt: list[int], sampling: Sampling, policy: Policy, agreeing: bool) -> None:
        chosen = decoder if agreeing else other_decoder
        options = Options(NEW, sampling, policy=policy, exact=True, constraint=constraint, logprobs=1)
        request, alone = generate(chosen, prompt, options), target_alone(chosen, prompt, options, exact=True)
        assert same_bits(request, alone)
        assert request.chooser.logprobs[: len(request.tokens)] == alone.chooser.logprobs
        seen[request.finish_reason or ""] += 1
        seen["accepted"] += len(request.tokens) - 1 - request.stats.steps
        if request.finish_reason == "stop":
            assert matches(request.text), request.text

    agrees()
    assert seen["stop"] > 0 or name == "spaced json", "no text came to its end"
    assert seen["accepted"] > 0, "nothing was accepted: the test shows nothing"


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("sampling", [Sampling(), WARM], ids=["greedy", "warm"])
def test_trees_give_the_text_of_the_target_alone(decoder: Decoder, name: str, sampling: Sampling) -> None:
    options = Options(NEW, sampling, policy=WIDE, constraint=CONSTRAINTS[name][0])
    for prompt in ([5, 9], [44, 3, 8] * 9):
        request = generate(decoder, prompt, options)
        assert_same(decoder, request, target_alone(decoder, prompt, options))


def test_whoever_else_is_served_the_text_is_the_same(decoder: Decoder) -> None:
    requests = [
        decoder.request([5, 9, 7 + number], Options(NEW, WARM, constraint=constraint))
        for number in range(2)
        for constraint, _ in (*CONSTRAINTS.values(), (None, None))
    ]
    scheduler = Scheduler(4)
    for request in requests:
        scheduler.add(request)
    while scheduler.busy:
        scheduler.step()
    for request in requests:
        assert same_bits(request, target_alone(decoder, request.prompt, request.options, exact=True))


def finished(decoder: Decoder, constraint: Constraint, **changes: Any) -> Request:
    return generate(decoder, [5, 9], Options(NEW, constraint=constraint, **changes))


def test_the_end_of_the_grammar_ends_the_text_even_in_the_middle_of_a_step(decoder: Decoder) -> None:
    text = "the draft proposes and the target disposes"
    request = finished(decoder, Constraint.choice([text]), policy=Policy(SURE.exit, TreeShape(depth=40)))
    assert (request.text, request.finish_reason) == (text, "stop")
    assert request.stats.steps < len(request.tokens) - 2
    assert 1 + sum(request.stats.accept_lengths) == len(request.tokens), "tokens were drafted beyond the end"


@pytest.mark.parametrize("changes", [{"ignore_eos": True}, {"min_tokens": 30}], ids=str)
def test_where_nothing_can_follow_the_text_ends_whatever_else_is_asked_for(
    decoder: Decoder, changes: dict[str, Any]
) -> None:
    request = finished(decoder, Constraint.choice(["the draft"]), **changes)
    assert (request.text, request.finish_reason) == ("the draft", "stop")


def test_where_more_can_follow_min_tokens_holds(decoder: Decoder) -> None:
    request = finished(decoder, Constraint("regex", "[a-z ]*"), min_tokens=40, sampling=Sampling(logit_bias={0: 100.0}))
    assert (len(request.tokens), request.finish_reason) == (41, "stop")
    assert re.fullmatch("[a-z ]*", request.text)


def test_a_text_that_reaches_max_new_tokens_can_still_match(decoder: Decoder) -> None:
    request = finished(decoder, Constraint("regex", "(ab)*c"), sampling=Sampling(bad_words=("c",)))
    assert request.finish_reason == "length"
    assert re.fullmatch("(ab)*a?", request.text)


def test_tokens_that_the_grammar_forces_are_drafted_without_a_model(target: Target) -> None:
    text = "the draft proposes and the target disposes"
    decoder, options = Decoder(target), Options(NEW, constraint=Constraint.choice([text]))
    request = generate(decoder, [5, 9], options)
    alone = target_alone(decoder, [5, 9], options, exact=True)
    assert request.text == text
    assert request.stats.steps < alone.stats.steps / 2
    assert not request.stats.exit_counts


@pytest.mark.parametrize("sampling", [Sampling(), WARM], ids=["greedy", "warm"])
def test_forced_tokens_are_drafted_before_and_behind_the_tokens_of_the_model_and_all_accepted(
    decoder: Decoder, sampling: Sampling
) -> None:
    constraint = Constraint("regex", "(the draft proposes [ab]){4}")
    options = Options(NEW, sampling, policy=SURE, exact=True, constraint=constraint)
    request, alone = generate(decoder, [5, 9], options), target_alone(decoder, [5, 9], options, exact=True)
    assert same_bits(request, alone)
    assert re.fullmatch(constraint.text, request.text)
    forced = len(request.tokens) - 4
    assert sum(request.stats.exit_counts.values()) <= 3 * request.stats.steps
    assert request.stats.accepted_tokens >= forced - request.stats.steps
    assert request.stats.steps <= 5, "a step goes on at least to the end of what is forced"
    assert request.stats.exit_counts.keys() <= set(decoder.draft.exits if decoder.draft else ())


def test_the_draft_proposes_only_what_can_follow(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = Constraint("regex", "[01]{40}")
    for policy in (SURE, WIDE):
        request = decoder.request([5, 9], Options(NEW, WARM, policy=policy, constraint=constraint))
        drafted: list[Any] = []

        def propose(*arguments: Any, note: Any = drafted, plain: Any = TextDrafting.propose) -> Any:
            proposal = yield from plain(*arguments)
            note.append(proposal.tree)
            return proposal

        monkeypatch.setattr(TextDrafting, "propose", propose)
        list(decoder.run(request))
        tokens = {decoder.tokenizer.decode([token]) for tree in drafted for token in tree.tokens[1:].tolist()}
        assert tokens <= {"0", "1"}
        assert any(len(tree) > 2 for tree in drafted)


# Mistakes


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("yaml", "a: b", "constraint yaml is unknown; use one of json_schema, regex, lark, choice"),
        ("regex", " ", "the regular expression is empty"),
        ("json_schema", "{", "the JSON schema is not valid JSON"),
        ("choice", "[]", "choices must be a list of texts"),
        ("choice", '["a", ""]', "choices must be a list of texts"),
    ],
)
def test_a_constraint_that_says_nothing_is_refused(kind: Any, text: str, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        Constraint(kind, text)


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (Constraint.json_schema({"type": "strin"}), "JSON schema cannot be used: Invalid type: strin"),
        (Constraint.json_schema(False), "JSON schema cannot be used: Unsatisfiable schema"),
        (Constraint.json_schema({"type": "integer", "minimum": 3, "maximum": 2}), "minimum .3. is greater than"),
        (Constraint.json_schema({"not": {"type": "string"}}), 'Unimplemented keys: ."not".'),
        (Constraint("regex", "(a"), "regular expression cannot be used: .* unclosed group"),
        (Constraint("regex", r"[^\s\S]"), "no text matches the regular expression"),
        (Constraint("lark", "start: foo"), 'grammar cannot be used: .* unknown name: "foo"'),
    ],
)
def test_a_constraint_that_no_text_can_match_is_one_line_before_it_begins(
    decoder: Decoder, constraint: Constraint, reason: str
) -> None:
    with pytest.raises(OptionError, match=reason) as raised:
        decoder.request([5, 9], Options(4, constraint=constraint))
    assert "\n" not in str(raised.value)


def test_rules_that_leave_nothing_of_a_grammar_end_the_text_and_keep_what_there_is(decoder: Decoder) -> None:
    constraint = Constraint("regex", "aaab")
    bans = Sampling(bad_words=tuple((token,) for token in range(1, 300) if "b" in decoder.tokenizer.decode([token])))
    request = decoder.request([5, 9], Options(NEW, bans, constraint=constraint))
    with pytest.raises(OptionError, match="leave no token"):
        list(decoder.run(request))
    assert request.text == "aaa"


def test_without_the_library_one_line_says_what_to_install(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(OptionError, match=r"pip install -e '.\[grammar\]' in the checkout"):
        Decoder(target).request([5], Options(4, constraint=CALL))
    assert len(generate(Decoder(target), [5], Options(4)).tokens) == 4


def test_constraints_are_comparable_and_compiled_once(decoder: Decoder) -> None:
    assert Constraint.choice(["a", "b"]) == Constraint.choice(("a", "b"))
    schema = Constraint.json_schema(PERSON)
    before = decoder.grammars._compiled.cache_info()
    for _ in range(2):
        decoder.request([5], replace(Options(4), constraint=schema))
    assert decoder.grammars._compiled.cache_info().misses <= before.misses + 1
