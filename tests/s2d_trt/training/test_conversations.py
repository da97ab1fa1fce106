"""Conversations: every common form is read, and exactly what the assistant wrote is learnt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from s2d_trt.errors import OptionError
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.conversations import Document, Message, documents, read_conversations, tokenize

QUESTION = {"role": "user", "content": "two?"}
ANSWER = {"role": "assistant", "content": "three"}


def render(messages: Sequence[Message], answer: bool) -> str:
    """What the target's chat template gives."""
    return "".join(f"<{m['role']}>{m['content']}</>" for m in messages) + ("<assistant>" if answer else "")


def answers(document: Document) -> list[str]:
    return [document.text[first:end] for first, end in document.answers]


def read(path: Path, content: Any) -> list[list[Message]]:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_conversations(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"conversations": [{"from": "human", "value": "two?"}, {"from": "gpt", "value": "three"}]},
        {"messages": [QUESTION, ANSWER], "id": "x"},
    ],
    ids=["sharegpt", "messages"],
)
def test_json_and_json_lines_of_either_form_are_read(entry: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path / "a.json", [entry, entry]) == [[QUESTION, ANSWER]] * 2
    assert read(tmp_path / "a.jsonl", f"{json.dumps(entry)}\n\n{json.dumps(entry)}\n") == [[QUESTION, ANSWER]] * 2


def test_other_line_separators_are_part_of_what_is_said(tmp_path: Path) -> None:
    entry = {"messages": [QUESTION, {"role": "assistant", "content": "one\u2028two\x85three"}]}
    found = read(tmp_path / "a.jsonl", json.dumps(entry, ensure_ascii=False))
    assert found[0][1]["content"] == "one\u2028two\x85three"


def test_what_one_says_twice_running_is_one_turn(tmp_path: Path) -> None:
    turns = [QUESTION, QUESTION, ANSWER, {"role": "assistant", "content": " "}, ANSWER]
    found = read(tmp_path / "a.json", [{"messages": turns}])
    assert [m["content"] for m in found[0]] == ["two?\n\ntwo?", "three\n\nthree"]


def test_an_answer_before_any_question_and_conversations_without_answers_are_left_out(tmp_path: Path) -> None:
    system = {"role": "system", "content": "be brief"}
    entries = [{"messages": [system, ANSWER, QUESTION, ANSWER]}, {"messages": [QUESTION]}, {"messages": []}]
    assert read(tmp_path / "a.json", entries) == [[system, QUESTION, ANSWER]]


BAD = {
    "no JSON": ("{", "cannot be read"),
    "nothing": ("", "cannot be read"),
    "an object": ({"messages": []}, "holds no list of conversations"),
    "numbers": ([1, 2], "conversation 1 is not in ShareGPT's form"),
    "texts": (["hello"], "conversation 1 is not in ShareGPT's form"),
    "other fields": ([{"prompt": "a", "completion": "b"}], "conversation 1 is not in ShareGPT's form"),
    "a turn that is text": ([{"messages": ["hello"]}], "conversation 1 is not in ShareGPT's form"),
    "an unknown role": (
        [{"messages": [QUESTION, ANSWER]}, {"messages": [{"role": "narrator", "content": "a"}]}],
        "conversation 2 is not in ShareGPT's form (KeyError('narrator'))",
    ),
    "content that is a list": ([{"messages": [{"role": "user", "content": []}]}], "content that is no text"),
    "no answer": ([{"messages": [QUESTION]}], "holds no conversation with an answer"),
    "no conversation": ([], "holds no conversation with an answer"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_another_form_is_refused_with_the_file_and_the_place(mistake: str, tmp_path: Path) -> None:
    content, message = BAD[mistake]
    with pytest.raises(OptionError) as error:
        read(tmp_path / "a.json", content)
    assert str(error.value).startswith(str(tmp_path / "a.json"))
    assert message in str(error.value)


def test_each_answer_counts_with_its_end_of_turn() -> None:
    (document,) = documents([QUESTION, ANSWER, QUESTION, ANSWER], render)
    assert document.text == "<user>two?</><assistant>three</>" * 2
    assert answers(document) == ["three</>", "three</>"]


def test_a_question_without_an_answer_at_the_end_is_left_out() -> None:
    (document,) = documents([QUESTION, ANSWER, QUESTION], render)
    assert document.text == "<user>two?</><assistant>three</>"


def test_where_the_template_rewrites_earlier_turns_each_answer_is_a_document() -> None:
    def forgetful(messages: Sequence[Message], answer: bool) -> str:
        """Reasoning models: only the last answer keeps its thoughts."""
        last = len(messages) - 1
        kept = [m if i == last else {**m, "content": m["content"].split("|")[-1]} for i, m in enumerate(messages)]
        return render(kept, answer)

    thought = {"role": "assistant", "content": "hm|three"}
    first, second = documents([QUESTION, thought, QUESTION, thought], forgetful)
    assert (first.text, answers(first)) == ("<user>two?</><assistant>hm|three</>", ["hm|three</>"])
    assert second.text == "<user>two?</><assistant>three</><user>two?</><assistant>hm|three</>"
    assert answers(second) == ["hm|three</>"]


def test_a_template_that_does_not_continue_its_own_prompt_is_refused() -> None:
    with pytest.raises(OptionError, match="does not continue its generation prompt"):
        list(documents([QUESTION, ANSWER], lambda messages, answer: f"{answer}"))


def test_a_conversation_that_the_template_refuses_is_named(target: Path, tmp_path: Path) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text("{{ raise_exception('roles must alternate') }}", encoding="utf-8")
    strict = Vocabulary.load(target, template).chat_renderer()
    with pytest.raises(OptionError, match=r"refuses the conversation that begins 'two\?' \(roles must alternate\)"):
        list(documents([QUESTION, ANSWER], strict))


words = st.text("abc déf\n", min_size=1).filter(str.strip)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_the_tokens_that_count_are_the_answers(tokenizer: Tokenizer, turns: list[tuple[str, str]]) -> None:
    messages = [
        {"role": role, "content": said}
        for turn in turns
        for role, said in zip(("user", "assistant"), turn, strict=True)
    ]
    stream = tokenize([messages], tokenizer, render)
    assert tokenizer.decode(stream.ids.tolist()) == render(messages, False)
    assert tokenizer.decode(stream.ids[stream.counted].tolist()) == "".join(f"{said}</>" for _, said in turns)


def test_the_checkpoints_own_template_renders_the_conversation(target: Path) -> None:
    assert Vocabulary.load(target).chat_renderer()([QUESTION], True) == render([QUESTION], True)


def test_without_a_template_one_is_asked_for(vocabulary: Vocabulary, target: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="conversations need a chat template"):
        vocabulary.chat_renderer()
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (bare / name).write_bytes((target / name).read_bytes())
    with pytest.raises(OptionError, match="has no chat template; give one with --chat-template"):
        Vocabulary.load(bare).chat_renderer()
    with pytest.raises(OptionError, match="cannot be read"):
        Vocabulary.load(bare, tmp_path / "nowhere.jinja").chat_renderer()
