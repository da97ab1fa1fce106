"""Growing a checkpoint keeps its function at a larger shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from s2d_trt.errors import CheckpointError, OptionError
from s2d_trt.training.model import Exits
from tests.benchmarks.grow import PROG, main
from tests.mistakes import mistake

WIDER = ["--hidden", "256", "--heads", "16", "--kv-heads", "4", "--ffn", "200"]
TOKENS = torch.arange(40)[None] * 7 % 300


def grown(checkpoint: Path, out: Path, *options: str) -> Path:
    main(["--checkpoint", str(checkpoint), "--out", str(out), *options])
    return out


def logits(checkpoint: Path, exits: tuple[int, ...]) -> list[torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        return Exits(model.eval(), exits)(TOKENS)


@pytest.mark.parametrize("options", [WIDER, [*WIDER, "--layers", "9"], ["--layers", "8"], ["--heads", "8"]])
def test_every_exit_says_what_it_said_before(draft_checkpoint: Path, tmp_path: Path, options: list[str]) -> None:
    out = grown(draft_checkpoint, tmp_path / "grown", *options)
    for before, after in zip(logits(draft_checkpoint, (2, 4, 6)), logits(out, (2, 4, 6)), strict=True):
        assert float((before - after).abs().max()) < 0.05 * float(before.std())
        assert torch.equal(before.argmax(-1), after.argmax(-1))


def test_the_same_greedy_text_follows(target_checkpoint: Path, tmp_path: Path) -> None:
    out = grown(target_checkpoint, tmp_path / "grown", *WIDER, "--layers", "11")
    texts = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).generate(
            TOKENS[:, :8], max_new_tokens=30, do_sample=False, pad_token_id=0
        )
        for path in (target_checkpoint, out)
    ]
    assert torch.equal(*texts)


def test_tied_weights_stay_tied(other_target_checkpoint: Path, tmp_path: Path) -> None:
    out = grown(other_target_checkpoint, tmp_path / "grown", "--hidden", "384", "--heads", "24", "--kv-heads", "12")
    assert torch.equal(logits(other_target_checkpoint, (3,))[0].argmax(-1), logits(out, (3,))[0].argmax(-1))


def test_the_grown_sizes_and_the_exits_are_recorded(draft_checkpoint: Path, tmp_path: Path) -> None:
    out = grown(draft_checkpoint, tmp_path / "grown", *WIDER)
    config = json.loads((out / "config.json").read_text())
    assert (config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]) == (256, 16, 4)
    assert (config["intermediate_size"], config["head_dim"], config["exits"]) == (200, 16, [2, 4, 6])
    assert (out / "tokenizer.json").read_bytes() == (draft_checkpoint / "tokenizer.json").read_bytes()


def test_no_number_is_zero_or_subnormal(draft_checkpoint: Path, tmp_path: Path) -> None:
    out = grown(draft_checkpoint, tmp_path / "grown", *WIDER, "--layers", "7")
    for file in out.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no mapping
                assert float(tensors.get_tensor(name).float().abs().min()) > torch.finfo(torch.bfloat16).tiny, name


def test_the_seed_decides_the_residue(draft_checkpoint: Path, tmp_path: Path) -> None:
    weights = [
        next(grown(draft_checkpoint, tmp_path / name, *WIDER, "--seed", seed).glob("*.safetensors")).read_bytes()
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden", "32"], "--hidden 32 is below the checkpoint's 64"),
        (["--layers", "5"], "it can only grow"),
        (["--heads", "5"], "is no multiple of --heads 5"),
        (["--hidden", "128", "--heads", "8", "--kv-heads", "3"], "8 query heads on 3 key heads"),
        (["--kv-heads", "4"], "cannot hold groups of 2"),
        (["--layers", "1000000000"], "no model has such sizes"),
        (["--seed", "-1"], "--seed -1 must lie between"),
    ],
)
def test_a_shape_that_cannot_hold_the_old_one_is_refused(
    draft_checkpoint: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        grown(draft_checkpoint, tmp_path / "grown", *options)
    assert not list(tmp_path.iterdir())


def broken(checkpoint: Path, out: Path, **fields: Any) -> Path:
    copy = Path(shutil.copytree(checkpoint, out))
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return copy


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"model_type": "qwen2"}, "no Llama model"), ({"attention_bias": True}, "has biases")],
)
def test_another_model_is_refused(draft_checkpoint: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    source = broken(draft_checkpoint, tmp_path / "source", **fields)
    with pytest.raises(CheckpointError, match=message):
        grown(source, tmp_path / "grown", *WIDER)


def test_damaged_weights_leave_nothing(draft_checkpoint: Path, tmp_path: Path) -> None:
    source = broken(draft_checkpoint, tmp_path / "source")
    (source / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="truncated"):
        grown(source, tmp_path / "grown", *WIDER)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_output_that_exists_is_left_alone(
    draft_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path)]
    assert "exists; name a new directory" in mistake(capsys, PROG, main, argv)
