"""The command that builds a target."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import target
from export.checkpoint import Checkpoint
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.errors import CheckpointError, OptionError


def test_the_manifest_tells_what_was_built(other_target_bundle, other_target_checkpoint):
    manifest = Bundle.open(other_target_bundle, kind="target", verify=True).manifest
    assert manifest.name == "other"
    assert manifest.model == Checkpoint.open(other_target_checkpoint).spec
    assert manifest.lanes == (1, 2, 4, 8)
    assert set(manifest.graphs) == {names.in_lanes(names.TARGET, count) for count in manifest.lanes}
    assert (manifest.exits, manifest.head_top_k) == ((), 0)


def test_draft_and_targets_share_a_tokenizer(draft_bundle, target_bundle, other_target_bundle):
    bundles = draft_bundle, target_bundle, other_target_bundle
    assert len({Bundle.open(bundle).manifest.tokenizer.fingerprint for bundle in bundles}) == 1


def test_an_identical_build_gives_identical_bytes(target_bundle, target_checkpoint, tmp_path, snapshot):
    out = tmp_path / "target.engine"
    target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), "--no-parity"])
    assert snapshot(out) == snapshot(target_bundle)


def test_parity_is_printed_and_the_next_command_too(target_checkpoint, tmp_path, capsys):
    out = tmp_path / "target.engine"
    target.main(["--checkpoint", str(target_checkpoint), "--out", str(out)])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "against PyTorch (prefill" in lines["parity"]
    assert lines["next"] == f"python -m runtime.run --target {out} --prompt 'TEXT'"


def test_the_checkpoint_itself_is_never_overwritten(checkpoint, snapshot):
    before = snapshot(checkpoint.directory)
    with pytest.raises(OptionError, match="not a bundle"):
        target.main(["--checkpoint", str(checkpoint.directory), "--out", str(checkpoint.directory)])
    assert snapshot(checkpoint.directory) == before


def test_a_missing_checkpoint_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        target.main(["--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "target.engine")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["--checkpoint", "--out"])
def test_both_paths_are_required(tmp_path, capsys, missing):
    argv = {"--checkpoint": str(tmp_path), "--out": str(tmp_path / "x.engine")}
    del argv[missing]
    with pytest.raises(SystemExit) as stopped:
        target.main([part for pair in argv.items() for part in pair])
    assert stopped.value.code == 2
    assert missing in capsys.readouterr().err


def test_the_example_of_the_help_names_a_checkpoint_of_the_demo():
    first = next(line for line in (target.__doc__ or "").splitlines() if "--checkpoint" in line).split()
    assert (Path(__file__).resolve().parents[2] / first[first.index("--checkpoint") + 1] / "config.json").is_file()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_file_that_only_the_runtime_reads_may_be_no_link_out_of_the_checkpoint(checkpoint, tmp_path, name):
    (tmp_path / "secret").write_text("{}")
    (checkpoint.directory / name).unlink(missing_ok=True)
    (checkpoint.directory / name).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=f"{name} is a link out of its directory"):
        target.main(["--checkpoint", str(checkpoint.directory), "--out", str(tmp_path / "x.engine"), "--no-parity"])
    assert not (tmp_path / "x.engine").exists()


def test_a_tokenizer_configuration_that_is_no_object_is_refused(checkpoint, tmp_path):
    (checkpoint.directory / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is damaged"):
        target.main(["--checkpoint", str(checkpoint.directory), "--out", str(tmp_path / "x.engine"), "--no-parity"])


def test_a_bundle_is_not_written_into_its_checkpoint(checkpoint):
    out = checkpoint.directory / "x.engine"
    with pytest.raises(OptionError, match="inside the checkpoint"):
        target.main(["--checkpoint", str(checkpoint.directory), "--out", str(out)])
    assert not out.exists()


def test_the_capacity_and_a_missing_end_of_text_are_printed(checkpoint, tmp_path, capsys):
    checkpoint.edit_json(eos_token_id=None)
    checkpoint.edit_json("generation_config.json", eos_token_id=[])
    target.main(["--checkpoint", str(checkpoint.directory), "--out", str(tmp_path / "x.engine"), "--no-parity"])
    out = capsys.readouterr().out
    assert "capacity 256 tokens in a text" in out
    assert "name no end-of-text token" in out
