"""Prompt files: both line forms, and the shipped set that no demo checkpoint has seen."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from runtime.evaluation.prompts import Prompt, load_prompts
from s2d_trt.errors import OptionError
from s2d_trt.training.sources import LIBRARY_HELD_OUT


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def test_a_plain_line_is_a_prompt_of_one_turn(prompt_file: Path) -> None:
    prompt_file.write_text('{"prompt": "def f():"}\n')
    assert load_prompts(str(prompt_file)) == [Prompt("", ("def f():",))]


def test_a_spec_bench_line_keeps_its_category_and_turns(prompt_file: Path) -> None:
    prompt_file.write_text('{"question_id": 81, "category": "writing", "turns": ["One.", "Two."]}\n')
    assert load_prompts(str(prompt_file)) == [Prompt("writing", ("One.", "Two."), 81)]


def test_both_forms_may_stand_in_one_file_and_blank_lines_do_not_count(prompt_file: Path) -> None:
    prompt_file.write_text('{"prompt": "a", "category": "code"}\n\n   \n{"turns": ["b"]}\n')
    assert load_prompts(str(prompt_file)) == [Prompt("code", ("a",)), Prompt("", ("b",))]


def test_a_limit_keeps_the_first_prompts(prompt_file: Path) -> None:
    prompt_file.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c"}\n')
    assert [prompt.turns for prompt in load_prompts(str(prompt_file), limit=2)] == [("a",), ("b",)]


def test_text_is_read_as_utf_8(prompt_file: Path) -> None:
    prompt_file.write_text('{"prompt": "naïve 図"}\n', encoding="utf-8")
    assert load_prompts(str(prompt_file))[0].turns == ("naïve 図",)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "{}",
        "[]",
        "3",
        '"text"',
        '{"prompt": ""}',
        '{"prompt": 3}',
        '{"prompt": null}',
        '{"turns": []}',
        '{"turns": "one"}',
        '{"turns": ["one", 2]}',
        '{"turns": ["one", ""]}',
    ],
)
def test_a_line_of_neither_form_is_refused_with_its_number(prompt_file: Path, line: str) -> None:
    prompt_file.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(OptionError, match=r"prompts\.jsonl line 2 is neither"):
        load_prompts(str(prompt_file))


def test_a_missing_file_is_refused(prompt_file: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        load_prompts(str(prompt_file))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        load_prompts(str(tmp_path))


def test_a_file_that_is_not_utf_8_is_refused(prompt_file: Path) -> None:
    prompt_file.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(OptionError, match="not UTF-8"):
        load_prompts(str(prompt_file))


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_prompts_is_refused(prompt_file: Path, content: str) -> None:
    prompt_file.write_text(content)
    with pytest.raises(OptionError, match="holds no prompt"):
        load_prompts(str(prompt_file))


def test_the_shipped_prompts_load() -> None:
    prompts = load_prompts("demo")
    assert len(prompts) >= 20
    assert len({prompt.turns for prompt in prompts}) == len(prompts)


def test_the_shipped_prompts_come_from_modules_that_no_demo_checkpoint_has_seen() -> None:
    for prompt in load_prompts("demo"):
        assert any(fnmatch(prompt.category, pattern) for pattern in LIBRARY_HELD_OUT), prompt.category
