"""A draft from the first layers of a target: every option of the command, resuming, and several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from s2d_trt.cli import run_command
from s2d_trt.spec import ModelSpec
from s2d_trt.training import checkpoint, soft
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.model import Exits, new_model
from s2d_trt.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[3]
QUICK = [
    "--seq-length", "16", "--steps", "3", "--batch", "2", "--micro-batch", "1", "--precision", "fp32", "--no-compile",
]  # fmt: skip


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        run_command("soft", soft.main, [*QUICK, *map(str, arguments)])
    return int(exit_.value.code or 0)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of 600 ids."""
    path = tmp_path_factory.mktemp("shards") / "tokens.npy"
    np.save(path, np.random.default_rng(1).integers(0, 40, 600))
    return path


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Twenty conversations of two answers each."""
    turns = [{"from": who, "value": f"the {who} says more words than three"} for who in ("human", "gpt")] * 2
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": turns}] * 20), encoding="utf-8")
    return tmp_path / "chats.json"


def test_the_first_layers_are_the_targets(target: Path) -> None:
    draft, whole = checkpoint.load(target, 2), AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        one, two = Exits(draft, (1, 2)).hidden(ids)
        hidden = whole.model(input_ids=ids, output_hidden_states=True).hidden_states
        assert torch.equal(one, whole.model.norm(hidden[1]))
        assert torch.equal(two, whole.model.norm(hidden[2]))


def test_a_draft_keeps_the_targets_shape_vocabulary_and_template(target: Path, tokens: Path, tmp_path: Path) -> None:
    out = tmp_path / "draft"
    assert run("--from-target", target, "--layers", "3", "--exits", "1,2,3", "--data", tokens, "--out", out) == 0
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, target))
    assert (ours["num_hidden_layers"], ours["exits"]) == (3, [1, 2, 3])
    assert [ours[key] for key in ("hidden_size", "vocab_size")] == [
        theirs[key] for key in ("hidden_size", "vocab_size")
    ]
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (target / name).read_bytes()
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "begun as the first 3 layers of target" in card
    assert "agreement with target" in card
    assert "report.svg" in card
    assert (out / "report.svg").read_text(encoding="utf-8").count("held-out loss") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draft"]


def test_conversations_teach_the_answers_in_the_targets_template(
    target: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "draft"
    options = ("--from-target", target, "--exits", "1,2", "--data", chats, "--held-out-share", "0.2", "--out", out)
    assert run(*options) == 0
    said = capsys.readouterr().out.splitlines()[0].replace(",", "").split()
    read, learnt, held_out = int(said[2]), int(said[4]), int(said[8])
    assert 0.3 * read < learnt < 0.7 * read
    assert held_out == pytest.approx(0.2 * (read + held_out), abs=1)


@pytest.mark.parametrize("family", checkpoint.FAMILIES)
def test_a_target_of_every_family_gives_a_draft_of_its_family(
    family: str, target: Path, tokens: Path, tmp_path: Path
) -> None:
    """Sharded, in bf16 and with an embedding of its own, as they are published."""
    config = AutoConfig.for_model(
        family, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=24, vocab_size=320, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    published = tmp_path / "published"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(published, max_shard_size="10KB")
    assert len(list(published.glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (published / name).write_bytes((target / name).read_bytes())
    out = tmp_path / "draft"
    assert run("--from-target", published, "--exits", "1,2", "--data", tokens, "--lr", "1e-12", "--out", out) == 0
    draft = AutoModelForCausalLM.from_pretrained(out)
    assert (draft.config.model_type, draft.config.exits, len(draft.model.layers)) == (family, [1, 2], 2)
    ours, theirs = draft.state_dict(), model.state_dict()
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"} <= set(ours)
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-9) for name in ours)


def test_two_targets_of_one_name_are_told_apart(target: Path, tokens: Path, tmp_path: Path) -> None:
    twin = tmp_path / "elsewhere" / "target"
    twin.mkdir(parents=True)
    for path in target.iterdir():
        (twin / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "draft"
    options = ("--from-target", target, "--target", twin, "--teacher", target, "--exits", "1,2", "--data", tokens)
    assert run(*options, "--out", out) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.count("agreement with") == 2
    assert f"agreement with {twin}" in card


ABLATIONS = {
    "SoFT": [],
    "SFT": ["--sft"],
    "pre-training": ["--pretrain-steps", "2"],
    "distillation": ["--teacher", "{target}"],
    "distillation later": ["--teacher", "{target}", "--distill-from", "0.5"],
    "alignment": ["--teacher", "{target}", "--distill", "0", "--align", "1"],
    "weights": ["--exit-weights", "0.1,1"],
    "muon": ["--optimizer", "muon"],
}


def test_every_ablation_trains_another_draft(target: Path, tokens: Path, tmp_path: Path) -> None:
    found = []
    for name, extra in ABLATIONS.items():
        options = (
            "--from-target",
            target,
            "--exits",
            "1,2",
            "--data",
            tokens,
            "--lr",
            "1e-2",
            "--out",
            tmp_path / name,
        )
        assert run(*options, *(word.format(target=target) for word in extra)) == 0
        found.append(weights(tmp_path / name)["model.layers.0.mlp.up_proj.weight"])
    assert not [(a, b) for a in range(len(found)) for b in range(a) if torch.equal(found[a], found[b])]


def test_recomputing_layers_gives_the_same_draft(target: Path, tokens: Path, tmp_path: Path) -> None:
    options = ("--from-target", target, "--exits", "1,2", "--data", tokens, "--lr", "1e-2")
    assert run(*options, "--out", tmp_path / "kept") == 0
    assert run(*options, "--gradient-checkpointing", "--out", tmp_path / "recomputed") == 0
    kept, recomputed = weights(tmp_path / "kept"), weights(tmp_path / "recomputed")
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_bf16_trains_nearly_the_same_draft(target: Path, tokens: Path, tmp_path: Path) -> None:
    options = ("--from-target", target, "--exits", "1,2", "--data", tokens, "--lr", "1e-3")
    assert run(*options, "--out", tmp_path / "fp32") == 0
    assert run(*options, "--precision", "bf16", "--out", tmp_path / "bf16") == 0
    fp32, bf16 = weights(tmp_path / "fp32"), weights(tmp_path / "bf16")
    assert all(torch.allclose(fp32[name].float(), bf16[name].float(), atol=8e-3) for name in fp32)
    assert not all(torch.equal(fp32[name], bf16[name]) for name in fp32)


def test_a_command_that_was_killed_goes_on_to_the_same_draft(
    target: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--from-target", target, "--exits", "1,2", "--data", tokens, "--teacher", target, "--save-every", "1")
    assert run(*options, "--out", tmp_path / "whole") == 0
    save = Trainer.save

    def save_and_die(trainer: Trainer) -> None:
        save(trainer)
        if trainer.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save_and_die)
        assert run(*options, "--out", tmp_path / "parts") == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.state", "whole"]
    assert run(*options, "--out", tmp_path / "parts") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes_train_the_draft_that_one_trains(target: Path, tokens: Path, tmp_path: Path) -> None:
    """What ``accelerate launch`` starts for several GPUs, here on the CPU; alignment brings a projection along."""
    wide = tmp_path / "wide"
    vocabulary = Vocabulary.load(target)
    spec = ModelSpec.llama(hidden=24, layers=2, heads=2, kv_heads=1, ffn=24, vocab=320, tied=True)
    checkpoint.publish(new_model(spec, 64, (2,), 4, vocabulary), vocabulary, (2,), wide, {})
    options = (
        "--from-target", target, "--exits", "1,2", "--data", tokens, "--lr", "1e-3", "--teacher", wide, "--align", "1",
        "--batch", "4", "--pretrain-steps", "1",
    )  # fmt: skip
    assert run(*options, "--out", tmp_path / "one") == 0
    done = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
            "-m", "s2d_trt.training.soft", *QUICK, *map(str, options), "--out", str(tmp_path / "two"),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held out") == 1
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-3) for name in one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two", "wide"]


def test_processes_that_would_each_train_alone_are_refused(
    target: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("--from-target", target, "--exits", "1,2", "--data", tokens, "--out", tmp_path / "draft") == 2
    assert "2 processes were started, and each would train alone" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["state", "checkpoint"])
def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing_half_written(
    place: str, target: Path, tokens: Path, tmp_path: Path
) -> None:
    """Files end at a size: the system's own limit, in a process of its own. The state is larger than the weights."""
    options = ("--from-target", target, "--exits", "1,2", "--data", tokens, "--state", tmp_path / "state")
    limit, weights_only = (4096, "False") if place == "state" else (8192, "True")
    program = (
        "import resource, sys; from s2d_trt.cli import run_command; from s2d_trt.training import soft, trainer\n"
        f"if {weights_only}: trainer.Trainer.save = lambda self: None\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); run_command('soft', soft.main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *QUICK, *map(str, options), "--out", str(tmp_path / "draft")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    last = done.stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith(f"soft: {tmp_path / ('state' if place == 'state' else 'draft')} cannot be written (")
    assert not list(tmp_path.iterdir())


BAD = {
    "more layers than the target has": (["--exits", "2,6"], "has 4 layers; --layers 6 asks for more"),
    "exits beyond --layers": (["--layers", "3", "--exits", "2,4"], "exit 4 lies beyond"),
    "sizes of its own": (["--hidden", "32"], "are the target's"),
    "windows beyond its positions": (["--seq-length", "100"], "beyond the target's 64 positions"),
    "ids beyond its rows": (["--data", "{wrong}"], "has token 320, but the vocabulary ends at 319"),
    "an empty file": (["--data", "{empty}"], "cannot be read"),
    "conversations without a template": (["--from-target", "{other}", "--data", "{chats}"], "has no chat template"),
    "another tokenizer": (["--target", "{other}"], "differ; a draft and its targets share one"),
    "a target without weights": (["--target", "{hollow}"], "holds no *.safetensors"),
    "a target with pickled weights": (["--target", "{pickled}"], "holds pickled weights"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing(
    mistake: str, target: Path, tokens: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: tmp_path / name for name in ("other", "hollow", "pickled")} | {"chats": chats}
    places |= {"wrong": tmp_path / "wrong.npy", "empty": tmp_path / "empty.bin"}
    np.save(places["wrong"], np.arange(321))
    places["empty"].touch()
    for name in ("other", "hollow", "pickled"):
        places[name].mkdir()
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (places[name] / file).write_bytes((target / file).read_bytes())
    (places["pickled"] / "pytorch_model.bin").touch()
    (places["other"] / "model.safetensors").write_bytes((target / "model.safetensors").read_bytes())
    content = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
    (places["other"] / "tokenizer.json").write_text(json.dumps(content | {"normalizer": {"type": "NFC"}}))
    before = sorted(tmp_path.rglob("*"))

    extra, message = BAD[mistake]
    options = ("--from-target", target, "--exits", "1,2", "--data", tokens, "--out", tmp_path / "draft")
    assert run(*options, *(word.format(**places) for word in extra)) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before
