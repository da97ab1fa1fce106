"""A grammar along the paths of one text: forks go their own way, and where one fails the text goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from weakref import ref

import llguidance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.sampling.constraint import Constraint
from runtime.sampling.grammar import GrammarRule, Grammars, _Walk
from s2d_trt.errors import OptionError
from tests.conftest import VOCAB_SIZE, write_tokenizer

LISTS = Constraint("regex", r"\[([ab]+(,[ab]+)*)?\](;[0-9])?")


@pytest.fixture(scope="module")
def grammars(tmp_path_factory: pytest.TempPathFactory) -> Grammars:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Grammars(folder / "tokenizer.json", VOCAB_SIZE, (0,))


def allowed(rule: GrammarRule) -> list[int]:
    scores = rule.apply(np.zeros(VOCAB_SIZE, np.float32))
    return [int(token) for token in np.flatnonzero(scores > -np.inf)]


def after(grammars: Grammars, tokens: Sequence[int]) -> list[int]:
    """What a matcher of its own allows behind ``tokens``."""
    rule = grammars.rule(LISTS)
    for token in tokens:
        rule.follow(token)
    return allowed(rule)


@given(st.data())
def test_forks_and_the_text_allow_what_matchers_of_their_own_do(grammars: Grammars, data: st.DataObject) -> None:
    text, rule = list[int](), grammars.rule(LISTS)
    for _ in range(data.draw(st.integers(1, 5))):
        for _ in range(data.draw(st.integers(0, 3))):
            fork, path = rule.fork(), list[int]()
            while not fork.ended and len(path) < 4 and data.draw(st.booleans()):
                assert allowed(fork) == after(grammars, [*text, *path])
                path.append(data.draw(st.sampled_from(allowed(fork))))
                fork.follow(path[-1])
        if rule.ended:
            break
        assert allowed(rule) == after(grammars, text)
        text.append(data.draw(st.sampled_from(allowed(rule))))
        rule.follow(text[-1])


def test_a_path_that_the_grammar_does_not_allow_ends_and_the_text_goes_on(grammars: Grammars) -> None:
    rule = grammars.rule(LISTS)
    rule.follow(allowed(rule)[0])
    before, fork = allowed(rule), rule.fork()
    banned = next(token for token in range(1, VOCAB_SIZE) if token not in before)
    fork.follow(banned)
    assert fork.ended
    assert fork.forced() == []
    assert fork.admitted([1]) == 0
    assert allowed(rule) == before
    with pytest.raises(OptionError, match="cannot be followed any further"):
        rule.follow(banned)
    rule.follow(before[0])


def test_the_masks_of_paths_that_were_not_taken_are_let_go(grammars: Grammars) -> None:
    rule = grammars.rule(LISTS)
    rule.follow(allowed(rule)[0])
    taken, other, *_ = allowed(rule)
    fork = rule.fork()
    for token in (other, other):
        fork.follow(token)
        allowed(fork)
    state = ref(fork._state)
    del fork
    assert state() is not None, "another path may come by again"
    rule.follow(taken)
    assert state() is None


def test_where_the_librarys_limits_end_the_matching_only_the_target_says_so(grammars: Grammars) -> None:
    matcher = llguidance.LLMatcher(
        grammars._tokenizer,
        llguidance.LLMatcher.grammar_from_lark('start: "a" | "b" x\nx: y y y y y y\ny: ("c" | "d" x | )'),
        log_level=0,
        limits=llguidance.LLParserLimits(step_max_items=6),
    )
    assert not matcher.is_error()
    walk = _Walk(matcher)
    rule = GrammarRule(walk, walk.root)
    scores = rule.fork().apply(np.zeros(VOCAB_SIZE, np.float32))
    assert scores.shape == (VOCAB_SIZE,)
    with pytest.raises(OptionError, match="cannot be followed any further"):
        follow_all(rule, grammars._tokenizer.tokenize_str("bd"))
    assert rule.forced() == []


def follow_all(rule: GrammarRule, tokens: Sequence[int]) -> None:
    for token in tokens:
        allowed(rule)
        rule.follow(token)


# What is known without a mask

CALLS = Constraint("lark", 'start: ("call " NAME "(" NAME ("," NAME)* ")\\n")+\nNAME: /[a-z_]{1,6}/')
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "kind": {"enum": ["draft", "target", "tree"]}},
    "required": ["name", "kind"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
WALKED = [LISTS, CALLS, Constraint.json_schema(SCHEMA), Constraint.choice(["the draft", "the target", "a tree"])]


@settings(max_examples=20)
@given(st.sampled_from(WALKED), st.randoms(use_true_random=False))
def test_without_a_mask_the_same_tokens_are_allowed_and_a_forced_one_is_the_only_one(
    grammars: Grammars, constraint: Constraint, random: Random
) -> None:
    masked, asked, expected = grammars.rule(constraint), grammars.rule(constraint), list[int]()
    for _ in range(10):
        if masked.ended:
            break
        mask = allowed(masked)
        assert [token for token in range(VOCAB_SIZE) if asked.allows(token)] == mask
        assert asked._state.bits is None, "no mask was computed"
        few = masked.few()
        assert few is None or few.tolist() == mask
        assert [token for token in range(VOCAB_SIZE) if masked.allows(token)] == mask
        forced = asked.forced()
        assert forced[: len(expected)] == expected, "what is forced is forced to its end"
        assert mask == forced[:1] or not forced
        token = random.choice(mask)
        expected = forced[1:]
        for rule in (masked, asked):
            rule.follow(token)
    assert asked.ended == masked.ended


def test_words_change_no_mask(grammars: Grammars, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    monkeypatch.setattr("runtime.sampling.grammar.WORDS", [])
    others = Grammars(tmp_path / "tokenizer.json", VOCAB_SIZE, (0,))
    for constraint in WALKED:
        ours, theirs = grammars.rule(constraint), others.rule(constraint)
        for step in range(12):
            if ours.ended:
                break
            mask = allowed(ours)
            assert mask == allowed(theirs)
            ours.follow(mask[step % len(mask)])
            theirs.follow(mask[step % len(mask)])


def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OptionError, match=r"llguidance cannot read .*tokenizer.json"):
        Grammars(tmp_path / "tokenizer.json", VOCAB_SIZE, (0,))
