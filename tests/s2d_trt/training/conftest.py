"""Small text, a small tokenizer and small models."""

from __future__ import annotations

import os

# Nothing here may wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from s2d_trt.spec import ModelSpec
from s2d_trt.training import checkpoint
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.corpus import train_tokenizer
from s2d_trt.training.model import new_model

SENTENCE = "the draft proposes and the target verifies every token of the tree it was given"
WORDS = tuple(SENTENCE.split())

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums in one fixed order, and no quarrel over the cores of a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 300 tokens."""
    return train_tokenizer([SENTENCE] * 4, 300)


@pytest.fixture(scope="session")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The same with its special ids."""
    return Vocabulary.trained(tokenizer)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of six small files; ``held/`` is meant to be held out."""
    folder = tmp_path / "texts"
    (folder / "held").mkdir(parents=True)
    for index in range(6):
        words = [WORDS[(index * 7 + n * n) % len(WORDS)] for n in range(200)]
        name = f"held/{index}.txt" if index > 3 else f"{index}.txt"
        (folder / name).write_text(" ".join(words), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """A checkpoint of four layers, its vocabulary padded to 320 rows, with a chat template."""
    folder = tmp_path_factory.mktemp("checkpoints") / "target"
    spec = ModelSpec.llama(hidden=16, layers=4, heads=2, kv_heads=1, ffn=24, vocab=320, tied=True)
    checkpoint.publish(new_model(spec, 64, (4,), 3, vocabulary), vocabulary, (4,), folder, {})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder
