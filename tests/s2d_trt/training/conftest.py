"""Small text, a small tokenizer and small models."""

from __future__ import annotations

import os

# Nothing here may wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.corpus import train_tokenizer

SENTENCE = "the draft proposes and the target verifies every token of the tree it was given"
WORDS = tuple(SENTENCE.split())


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
