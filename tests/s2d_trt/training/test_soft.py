"""``python -m s2d_trt.training.soft``: from a folder of text to a checkpoint, or to one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from s2d_trt.cli import run_command
from s2d_trt.training import soft
from s2d_trt.training.model import Exits

TINY = [
    "--hidden", "16", "--heads", "2", "--kv-heads", "1", "--ffn", "24", "--vocab-size", "300",
    "--seq-length", "16", "--steps", "2", "--batch", "2", "--micro-batch", "1", "--precision", "fp32", "--no-compile",
]  # fmt: skip


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        run_command("soft", soft.main, [*TINY, *map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of two layers, trained with its second half of files held out."""
    folder = tmp_path_factory.mktemp("soft")
    (folder / "texts").mkdir()
    for index in range(4):
        text = " ".join(f"token {index * n % 13}" for n in range(150))
        (folder / "texts" / f"{index}.txt").write_text(text, encoding="utf-8")
    assert run("--data", folder / "texts", "--exits", "1,2", "--held-out", "3*", "--out", folder / "model") == 0
    return folder / "model"


def test_the_checkpoint_loads_in_transformers_and_records_its_exits(trained: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(trained)
    assert model.dtype == torch.bfloat16
    assert model.config.exits == [1, 2]
    assert json.loads((trained / "config.json").read_text())["exits"] == [1, 2]
    assert (trained / "generation_config.json").is_file()
    assert Tokenizer.from_file(str(trained / "tokenizer.json")).encode("a").ids[0] == model.config.bos_token_id == 0


def test_the_exits_of_the_loaded_checkpoint_are_prefixes_of_it(trained: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(trained, dtype=torch.float32)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        shallow, deep = Exits(model, (1, 2))(ids)
        hidden = model.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        assert torch.equal(shallow, model.lm_head(model.model.norm(hidden[1])))
        assert torch.equal(deep, model(input_ids=ids, use_cache=False).logits)


def test_the_model_card_tells_the_held_out_loss(trained: Path) -> None:
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# model\n")
    assert "| exit | held-out loss (nats/token) |" in card
    assert card.count("\n| 1 | ") == card.count("\n| 2 | ") == 1


def test_only_the_checkpoint_is_left(trained: Path) -> None:
    assert sorted(path.name for path in trained.parent.iterdir()) == ["model", "texts"]


def test_a_draft_takes_over_the_vocabulary_of_its_teacher(trained: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    texts = trained.parent / "texts"
    options = ("--data", texts, "--exits", "1,2", "--held-out", "3*", "--teacher", trained, "--out", draft)
    assert run(*options) == 0
    assert (draft / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    teacher, student = (json.loads((folder / "config.json").read_text()) for folder in (trained, draft))
    assert {key: student[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")} == {
        key: teacher[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")
    }
    assert "agreement with model" in (draft / "README.md").read_text(encoding="utf-8")


def test_the_special_ids_of_a_foreign_tokenizer_are_kept(trained: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    content = json.loads((trained / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (foreign / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (foreign / "generation_config.json").write_text('{"bos_token_id": 5, "eos_token_id": [6, 7]}', encoding="utf-8")
    out = tmp_path / "out"
    assert run("--data", trained.parent / "texts", "--exits", "1", "--tokenizer", foreign, "--out", out) == 0
    written = json.loads((out / "generation_config.json").read_text())
    assert (written["bos_token_id"], written["eos_token_id"]) == (5, [6, 7])
    assert (out / "tokenizer.json").read_bytes() == (foreign / "tokenizer.json").read_bytes()


BAD = {
    "a missing folder": (["--data", "{tmp}/nowhere"], "is not a folder"),
    "an empty folder": (["--data", "{tmp}"], "holds no file ending in"),
    "exits not increasing": (["--exits", "2,1"], "must be increasing"),
    "exits of zero": (["--exits", "0,2"], "must be increasing"),
    "a last exit before the last layer": (["--layers", "3"], "must be the last layer 3"),
    "an --out with files in it": (["--out", "{texts}"], "is not an empty folder"),
    "an --out that is a file": (["--out", "{texts}/0.txt"], "is not an empty folder"),
    "a teacher without config": (["--teacher", "{texts}"], "has no config.json"),
    "a teacher that is damaged": (["--teacher", "{damaged}"], "config.json is damaged"),
    "a teacher of another kind": (["--teacher", "{other}"], "of type gpt2"),
    "a teacher without weights": (["--teacher", "{hollow}"], "holds no *.safetensors"),
    "a target without weights": (["--target", "{hollow}"], "holds no *.safetensors"),
    "a tokenizer that is missing": (["--tokenizer", "{texts}"], "has no tokenizer.json"),
    "a tokenizer that is damaged": (["--tokenizer", "{damaged}"], "tokenizer.json cannot be loaded"),
    "too little text": (["--seq-length", "4000"], "too few for windows"),
    "too little held out": (["--held-out", "short.txt"], "too few for a window"),
    "weights for other exits": (["--exit-weights", "1,2,3"], "3 exit weights for 2 exits"),
    "a batch that does not divide": (["--batch", "3", "--micro-batch", "2"], "no multiple"),
    "a share above one": (["--held-out-share", "1.5"], "must lie between 0 and 1"),
    "distillation from no one": (["--distill", "0.5"], "--distill is about what a --teacher says"),
    "alignment with no one": (["--align", "1"], "--align is about what a --teacher says"),
    "a baseline with weights": (["--sft", "--exit-weights", "1,1"], "leave --exit-weights out"),
    "longer pre-training than training": (["--pretrain-steps", "3"], "more than all 2"),
    "a negative number of steps": (["--pretrain-steps", "-1"], "must lie between 0 and"),
    "a seed beyond all numbers": (["--seed", str(2**70)], "must lie between 0 and"),
    "a model beyond all memory": (["--layers", "2000000000", "--exits", "2000000000"], "of memory and"),
    "a chat template that is missing": (["--chat-template", "{tmp}/nowhere"], "is no file"),
    "a held-out pattern that matches nothing": (["--held-out", "nomatch*"], "matches no file"),
    "an --out of 300 characters": (["--out", "{tmp}/" + 300 * "x"], "File name too long"),
    "a teacher whose positions no bundle can have": (["--teacher", "{yarn}"], "scales rotary positions by 'yarn'"),
    "conversations without a model": (["--data", "{chat}"], "need a model's tokenizer"),
    "a learning rate of zero": (["--lr", "0"], "must be above 0"),
    "a state that is something else": (["--state", "{texts}/0.txt"], "is no saved run"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing(
    mistake: str, trained: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"tmp": tmp_path / "empty", "texts": texts}
    places["tmp"].mkdir()
    places["chat"] = tmp_path / "chat.json"
    places["chat"].write_text("[]", encoding="utf-8")
    (texts / "short.txt").write_text("few words", encoding="utf-8")
    for name in ("damaged", "other", "hollow", "yarn"):
        places[name] = tmp_path / name
        places[name].mkdir()
    (places["damaged"] / "config.json").write_text("{", encoding="utf-8")
    rope = json.loads((trained / "config.json").read_text()) | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    (places["yarn"] / "config.json").write_text(json.dumps(rope), encoding="utf-8")
    (places["damaged"] / "tokenizer.json").write_text("{", encoding="utf-8")
    (places["other"] / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    (places["hollow"] / "config.json").write_bytes((trained / "config.json").read_bytes())
    before = sorted(tmp_path.rglob("*"))

    extra, message = BAD[mistake]
    arguments = ["--data", texts, "--exits", "1,2", "--out", tmp_path / "out"]
    assert run(*arguments, *(part.format(**places) for part in extra)) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert error.startswith("soft: ")
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before


def test_two_different_tokenizers_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((trained / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "NFC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    options = ("--data", trained.parent / "texts", "--exits", "1", "--out", tmp_path / "out")
    assert run(*options, "--teacher", trained, "--tokenizer", tmp_path) == 2
    assert "differ; a draft and its targets share one" in capsys.readouterr().err
