"""Text comes out whole, character by character, and never past a stop string."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from runtime.text.tokenizer import TextStream

ALPHABET = sorted(ByteLevel.alphabet())
END = "<end>"


def byte_tokenizer() -> Tokenizer:
    """A byte-level tokenizer of single bytes, some longer pieces, and a special end token."""
    merges = [("a", "b"), ("ab", "c"), ("Ã", "©"), ("S", "T"), ("ST", "O"), ("STO", "P"), ("Ġ", "ð"), ("P", "å")]
    symbols = ALPHABET + ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(BPE({symbol: index for index, symbol in enumerate(symbols)}, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return tokenizer


TOKENIZER = byte_tokenizer()
VOCABULARY = TOKENIZER.get_vocab()
TEXTS = st.text(st.sampled_from("abcé図🙂 STOP\n"), max_size=12)
ANY_TOKENS = st.lists(st.sampled_from(sorted(VOCABULARY.values())), max_size=16)


def byte_ids(text: str) -> list[int]:
    """One token a byte."""
    parts = TOKENIZER.pre_tokenizer.pre_tokenize_str(text) if text else []
    return [TOKENIZER.token_to_id(char) for part, _ in parts for char in part]


@st.composite
def splits(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXTS) -> tuple[str, list[int]]:
    """A text, and some way to split its bytes into tokens."""
    text = draw(texts)
    symbols, tokens = [TOKENIZER.id_to_token(token) for token in byte_ids(text)], []
    while symbols:
        beginnings = ["".join(symbols[:size]) for size in range(1, min(4, len(symbols)) + 1)]
        piece = draw(st.sampled_from([piece for piece in beginnings if piece in VOCABULARY]))
        tokens.append(VOCABULARY[piece])
        del symbols[: len(piece)]
    return text, tokens


def stream(tokens: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    """The text released before and after each token and at the end, and whether a stop string was met."""
    made, released = TextStream(TOKENIZER, stop), [""]
    for token in tokens:
        stopped = made.push(token)
        released.append(made.text)
        if stopped:
            return released, True
    made.finish()
    released.append(made.text)
    return released, False


def first_stop(text: str, stop: Sequence[str]) -> int:
    """Index of the first stop string; the text's length if there is none."""
    return min([at for one in stop if (at := text.find(one)) >= 0], default=len(text))


@given(splits())
def test_any_split_of_any_text_gives_the_same_text(case: tuple[str, list[int]]) -> None:
    text, tokens = case
    released, _ = stream(tokens)
    assert released[-1] == text


@given(ANY_TOKENS)
def test_any_tokens_give_what_decoding_them_at_once_gives(tokens: list[int]) -> None:
    released, _ = stream(tokens)
    assert released[-1] == TOKENIZER.decode(tokens, skip_special_tokens=True)


@given(ANY_TOKENS, st.lists(st.sampled_from(["STOP", "ab", "é", "\n\n"]), max_size=2))
def test_released_text_is_only_ever_added_to(tokens: list[int], stop: list[str]) -> None:
    released, _ = stream(tokens, stop)
    for shorter, longer in itertools.pairwise(released):
        assert longer.startswith(shorter)


@given(splits())
def test_only_whole_characters_are_released_before_the_end(case: tuple[str, list[int]]) -> None:
    released, _ = stream(case[1])
    assert all(case[0].startswith(text) for text in released)


def test_without_stop_strings_a_whole_character_is_released_at_once() -> None:
    released, _ = stream(byte_ids("a図b"))
    assert released == ["", "a", "a", "a", "a図", "a図b", "a図b"]


def test_an_incomplete_character_at_the_end_becomes_the_replacement_character() -> None:
    released, _ = stream(byte_ids("a図")[:-1])
    assert released[-1] == "a\ufffd"


def test_special_tokens_give_no_text() -> None:
    released, _ = stream([*byte_ids("a"), TOKENIZER.token_to_id(END), *byte_ids("b")])
    assert released[-1] == "ab"


@given(splits(), st.lists(st.sampled_from(["STOP", "ab", "b", "é図", "🙂", "\n", "TO", "OP S"]), max_size=3))
def test_text_ends_before_the_first_stop_string(case: tuple[str, list[int]], stop: list[str]) -> None:
    text, tokens = case
    released, stopped = stream(tokens, stop)
    at = first_stop(text, stop)
    assert stopped == (at < len(text))
    assert all(text[:at].startswith(shown) for shown in released)
    if not stopped:
        assert released[-1] == text


def test_a_stop_string_is_found_across_tokens() -> None:
    released, stopped = stream(byte_ids("xSTOPy"), ["STOP"])
    assert stopped
    assert released == ["", "x", "x", "x", "x", "x"]


def test_what_could_begin_a_stop_string_is_held_back_until_it_does_not() -> None:
    released, stopped = stream(byte_ids("STOa"), ["STOP"])
    assert not stopped
    assert released == ["", "", "", "", "STOa", "STOa"]


def test_what_was_held_back_is_released_at_the_end() -> None:
    released, stopped = stream(byte_ids("aSTO"), ["STOP"])
    assert not stopped
    assert released[-1] == "aSTO"


def test_ending_a_text_returns_what_was_held_back() -> None:
    cut_short = TextStream(TOKENIZER, ["STOP"])
    for token in byte_ids("aSTO図")[:-1]:
        cut_short.push(token)
    assert cut_short.text == "a"
    assert cut_short.finish() == "STO\ufffd"
    assert cut_short.text == "aSTO\ufffd"
    assert cut_short.finish() == ""


@given(ANY_TOKENS, st.lists(st.sampled_from(["STOP", "ab", "é", "\n\n"]), max_size=2))
def test_what_each_token_releases_and_the_end_make_up_the_text(tokens: list[int], stop: list[str]) -> None:
    made, pieces = TextStream(TOKENIZER, stop), []
    for token in tokens:
        before = len(made.text)
        stopped = made.push(token)
        pieces.append(made.text[before:])
        if stopped:
            break
    pieces.append(made.finish())
    assert "".join(pieces) == made.text


def test_the_longest_beginning_of_any_stop_string_is_held_back() -> None:
    released, _ = stream(byte_ids("aab"), ["bc", "aabc"])
    assert released[-2] == ""


def test_of_two_stop_strings_that_one_token_completes_the_earlier_one_ends_the_text() -> None:
    token = TOKENIZER.token_to_id("abc")
    released, stopped = stream([*byte_ids("x"), token], ["c", "b"])
    assert stopped
    assert released[-1] == "xa"


def test_text_behind_a_stop_string_in_the_same_token_is_not_released() -> None:
    released, stopped = stream([TOKENIZER.token_to_id("abc")], ["b"])
    assert stopped
    assert released[-1] == "a"


def test_a_stop_string_whose_token_also_begins_a_character_still_ends_the_text() -> None:
    ends_with_half_a_character = TOKENIZER.token_to_id("På")
    released, _ = stream([*byte_ids("xSTO"), ends_with_half_a_character], ["STOP"])
    assert released[-1] == "x"
