"""One option names the data, whatever its kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2d_trt.errors import OptionError
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.dataset import Dataset

CONVERSATION = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "bc"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of each kind, each in a folder of its own."""
    for kind in ("text", "conversations", "tokens"):
        (tmp_path / kind).mkdir()
    (tmp_path / "text" / "a.txt").write_text("the draft", encoding="utf-8")
    (tmp_path / "conversations" / "a.json").write_text(json.dumps([CONVERSATION]), encoding="utf-8")
    np.save(tmp_path / "tokens" / "a.npy", np.arange(5))
    return tmp_path


@pytest.mark.parametrize("kind", ["text", "conversations", "tokens"])
def test_the_endings_tell_what_a_folder_or_file_holds(kind: str, folder: Path) -> None:
    assert Dataset.scan(folder / kind).kind == kind
    (file,) = (folder / kind).iterdir()
    assert Dataset.scan(file).kind == kind


def test_a_file_of_unknown_ending_is_text_and_a_format_overrules(folder: Path) -> None:
    plain = folder / "text" / "LICENSE"
    plain.write_text("words", encoding="utf-8")
    assert Dataset.scan(plain).kind == "text"
    assert Dataset.scan(plain, "tokens").kind == "tokens"
    assert Dataset.scan(folder / "conversations", suffixes=(".json",)).kind == "text"


def test_a_folder_of_several_kinds_asks_which(folder: Path) -> None:
    with pytest.raises(OptionError, match="holds text and conversations and tokens; say which to read with --format"):
        Dataset.scan(folder)
    assert [path.name for path in Dataset.scan(folder, "tokens").files.train] == ["a.npy"]


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_every_token_of_text_and_shards_counts(kind: str, folder: Path, vocabulary: Vocabulary) -> None:
    stream = Dataset.scan(folder / kind).read(vocabulary, 300).train
    assert len(stream) > 0
    assert stream.counted.all()


def test_of_conversations_only_the_answers_count(folder: Path, target: Path) -> None:
    vocabulary = Vocabulary.load(target)
    stream = Dataset.scan(folder / "conversations").read(vocabulary, 300).train
    assert vocabulary.tokenizer.decode(stream.ids.tolist()) == "<user>a</><assistant>bc</>"
    assert vocabulary.tokenizer.decode(stream.ids[stream.counted].tolist()) == "bc</>"


def test_what_is_held_out_by_name_is_read_the_same_way(folder: Path, target: Path) -> None:
    np.save(folder / "tokens" / "last.npy", np.arange(7))
    text = Dataset.scan(folder / "tokens", held_out=["last*"]).read(Vocabulary.load(target), 300)
    assert text.train.ids.tolist() == list(range(5))
    assert text.held_out.ids.tolist() == list(range(7))


def test_else_the_end_is_held_out_at_least_a_window(vocabulary: Vocabulary, folder: Path) -> None:
    np.save(folder / "tokens" / "a.npy", np.arange(100))
    text = Dataset.scan(folder / "tokens").read(vocabulary, 300)
    assert text.hold_out(0.2, 4).held_out.ids.tolist() == list(range(80, 100))
    assert text.hold_out(0.01, 4).held_out.ids.tolist() == list(range(95, 100))
    assert len(text.hold_out(0.2, 4).train) == 80
