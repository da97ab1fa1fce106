"""Texts that a target writes, and how soon its greedy ones repeat themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from s2d_trt.training import checkpoint, samples
from s2d_trt.training.repetition import first_repeat, greedy_lengths
from s2d_trt.training.samples import continue_texts, sampled_stream
from s2d_trt.training.windows import Stream

PROMPTS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.fixture(scope="module")
def model(target: Path) -> PreTrainedModel:
    return checkpoint.load(target)


def test_a_text_at_temperature_zero_is_the_greedy_one(model: PreTrainedModel) -> None:
    written = continue_texts(model, PROMPTS, 12, torch.tensor([0.0, 1.0]), seed=0)
    assert written.shape == (2, 12)
    assert torch.equal(written[:, :3], PROMPTS)
    choices = model(input_ids=written).logits.argmax(-1)
    assert torch.equal(written[0, 3:], choices[0, 2:-1])
    assert not torch.equal(written[1, 3:], choices[1, 2:-1])


def test_a_seed_gives_the_same_texts_again(model: PreTrainedModel) -> None:
    first, again, other = (continue_texts(model, PROMPTS, 12, torch.ones(2), seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_stopped_run_keeps_the_batches_it_has(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Stream.whole(np.arange(300) % 300)
    settings = {"texts": 5, "length": 10, "prompt": 4, "batch": 2, "seed": 3}
    whole = sampled_stream(model, text, tmp_path, **settings)
    assert len(whole) == 50
    (tmp_path / "1.npy").unlink()
    seeds = []

    def count(*arguments: object) -> torch.Tensor:
        seeds.append(arguments[-1])
        return continue_texts(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(samples, "continue_texts", count)
    assert np.array_equal(sampled_stream(model, text, tmp_path, **settings).ids, whole.ids)
    assert seeds == [4]


@pytest.mark.parametrize(
    ("tokens", "length"), [([1, 2, 3, 4], 4), ([1, 2, 1, 2, 5], 3), ([7, 7, 7], 2), ([1], 1), ([], 0)]
)
def test_a_text_is_counted_up_to_the_run_that_occurs_again(tokens: list[int], length: int) -> None:
    assert first_repeat(tokens, run=2) == length


def test_greedy_texts_are_counted_without_their_prompts(model: PreTrainedModel) -> None:
    lengths = greedy_lengths(model, Stream.whole(np.arange(100)), texts=3, prompt=20, length=40)
    assert len(lengths) == 3
    assert all(0 <= length <= 20 for length in lengths)
