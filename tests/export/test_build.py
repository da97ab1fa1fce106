"""The command that builds a draft."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from export import build
from export.checkpoint import Checkpoint, TensorView
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.errors import CheckpointError, OptionError, S2DError
from s2d_trt.manifest import MANIFEST
from tests.mistakes import mistake

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from export import build
build.main(sys.argv[1:])
"""


def run(checkpoint: Path, out: Path, *options: str) -> Bundle:
    build.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity", *options])
    return Bundle.open(out, kind="draft", verify=True)


def laned(graphs: list[str], lanes: tuple[int, ...]) -> set[str]:
    return {names.in_lanes(graph, count) for graph in graphs for count in lanes}


def test_the_manifest_tells_what_was_built(draft_bundle, draft_checkpoint):
    manifest = Bundle.open(draft_bundle, kind="draft", verify=True).manifest
    assert manifest.name == "draft"
    assert manifest.model == Checkpoint.open(draft_checkpoint).spec
    segments = [names.segment(index) for index in range(3)]
    assert manifest.lanes == (1, 2, 4, 8)
    assert set(manifest.graphs) == {names.HEAD, *laned(segments, manifest.lanes)}
    assert (manifest.exits, manifest.precision, manifest.head_top_k) == ((2, 4, 6), "fp32", 16)
    assert (manifest.cache.layout, manifest.cache.max_length) == ("BSH", 256)
    assert (manifest.tokenizer.bos_token_id, manifest.tokenizer.eos_token_ids) == (0, (0,))
    assert set(manifest.files) == {path.name for path in draft_bundle.iterdir()} - {MANIFEST}


def test_tokenizer_and_configs_are_copied_unchanged(draft_bundle, draft_checkpoint):
    bundle = Bundle.open(draft_bundle)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert bundle.companion(name).read_bytes() == (draft_checkpoint / name).read_bytes()
    assert bundle.companion("tokenizer.json") == bundle.path(bundle.manifest.tokenizer.file)
    assert bundle.companion("chat_template.jinja") is None


def test_a_chat_template_comes_along(checkpoint, tmp_path):
    (checkpoint.directory / "chat_template.jinja").write_text("{{ messages }}")
    bundle = run(checkpoint.directory, tmp_path / "draft.engine")
    assert bundle.companion("chat_template.jinja").read_text() == "{{ messages }}"


def test_an_identical_build_gives_identical_bytes(draft_bundle, draft_checkpoint, tmp_path, snapshot):
    out = tmp_path / "draft.engine"
    for _ in range(2):
        run(draft_checkpoint, out)
        assert snapshot(out) == snapshot(draft_bundle)


def test_exits_may_be_a_subset_of_those_trained(draft_checkpoint, tmp_path):
    manifest = run(draft_checkpoint, tmp_path / "draft.engine", "--exits", "2,6", "--lanes", "1").manifest
    assert (manifest.exits, sorted(manifest.graphs)) == ((2, 6), ["head", "segment_0", "segment_1"])


def test_layers_above_the_last_exit_are_not_stored(draft_bundle, draft_checkpoint, tmp_path):
    manifest = run(draft_checkpoint, tmp_path / "draft.engine", "--exits", "2,4").manifest
    whole = Bundle.open(draft_bundle).manifest
    assert manifest.model.num_hidden_layers == 4
    assert manifest.files[manifest.weights].bytes < whole.files[whole.weights].bytes


def test_max_length_is_the_checkpoints_unless_given(draft_checkpoint, tmp_path):
    assert run(draft_checkpoint, tmp_path / "draft.engine", "--max-length", "64").manifest.cache.max_length == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exits", "4,2"], "exits 4,2 must be increasing"),
        (["--exits", "0,6"], "must be increasing and start at 1"),
        (["--exits", "2,2,6"], "must be increasing"),
        (["--exits", "2,4,8"], "exit 8 lies beyond the checkpoint's 6 layers"),
        (["--exits", "3,6"], "exit 3 was not trained: .* has exits 2,4,6; choose among them"),
        (["--max-length", "257"], "--max-length 257 is beyond the 256 positions"),
        (["--max-length", "8"], "use --max-length 32 or more"),
    ],
)
def test_an_option_that_does_not_fit_is_named_and_nothing_is_written(draft_checkpoint, tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        run(draft_checkpoint, tmp_path / "draft.engine", *options)
    assert not list(tmp_path.iterdir())


def test_exits_are_asked_for_where_the_checkpoint_records_none(checkpoint, tmp_path, capsys):
    checkpoint.edit_json(drop=("exits",))
    with pytest.raises(OptionError, match="records no exits"):
        run(checkpoint.directory, tmp_path / "draft.engine")
    assert run(checkpoint.directory, tmp_path / "draft.engine", "--exits", "3,6").manifest.exits == (3, 6)
    assert "records no exits; it is assumed" in capsys.readouterr().out


def test_a_checkpoint_that_breaks_while_it_is_read_leaves_the_old_bundle(
    draft_checkpoint, tmp_path, monkeypatch, snapshot
):
    out = tmp_path / "draft.engine"
    run(draft_checkpoint, out, "--exits", "2,6")
    before, real = snapshot(tmp_path), TensorView.blocks

    def failing(view, *step):
        if view.name.startswith("model.layers.3"):
            raise CheckpointError(f"tensor {view.name} cannot be read")
        return real(view, *step)

    monkeypatch.setattr(TensorView, "blocks", failing)
    with pytest.raises(CheckpointError, match=r"layers\.3"):
        run(draft_checkpoint, out)
    assert snapshot(tmp_path) == before


def test_a_disk_that_is_too_full_is_found_before_anything_is_written(draft_checkpoint, tmp_path, monkeypatch, snapshot):
    run(draft_checkpoint, tmp_path / "draft.engine", "--exits", "2,6")
    before = snapshot(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**18))
    with pytest.raises(OptionError, match=r"needs \d\.\d MiB and its disk has 0\.2 MiB free; make room"):
        run(draft_checkpoint, tmp_path / "draft.engine")
    assert snapshot(tmp_path) == before


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(draft_checkpoint, tmp_path):
    """The limit on a file's size stands for the full disk: writing fails in the same way, half-way through."""
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18));"
    command = "sys.argv = sys.argv[1:]; runpy.run_module('export.build', run_name='__main__')"
    out = tmp_path / "draft.engine"
    arguments = ["export.build", "--checkpoint", str(draft_checkpoint), "--out", str(out), "--no-parity"]
    found = subprocess.run([sys.executable, "-c", limited + command, *arguments], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "cannot be written" in found.stderr
    assert not out.exists()


def test_parity_of_a_large_model_is_left_to_the_user(draft_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("export.pipeline.PARITY_BYTES", 1000)
    arguments = ["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "draft.engine")]
    build.main(arguments)
    assert "not checked" in capsys.readouterr().out
    build.main([*arguments, "--parity"])
    assert "max abs logit error" in capsys.readouterr().out


def test_a_graph_that_disagrees_is_not_published(draft_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("export.parity.measure", lambda *_: {"exit 2": 0.5})
    with pytest.raises(S2DError, match="differ from PyTorch"):
        build.main(["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "draft.engine")])
    assert not list(tmp_path.iterdir())


def test_a_diverged_checkpoint_leaves_nothing(checkpoint, tmp_path):
    checkpoint.edit_tensors(lambda tensors: tensors | {"model.norm.weight": np.full(64, np.nan, np.float32)})
    with pytest.raises(CheckpointError, match="NaN"):
        run(checkpoint.directory, tmp_path / "draft.engine")
    assert not (tmp_path / "draft.engine").exists()


def test_a_missing_tokenizer_is_named(checkpoint, tmp_path):
    (checkpoint.directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        run(checkpoint.directory, tmp_path / "draft.engine")


def test_the_checkpoint_itself_is_never_overwritten(checkpoint, snapshot):
    before = snapshot(checkpoint.directory)
    with pytest.raises(OptionError, match="not a bundle"):
        run(checkpoint.directory, checkpoint.directory)
    assert snapshot(checkpoint.directory) == before


def test_a_mistake_is_one_line_and_exit_code_2(draft_checkpoint, tmp_path, capsys):
    argv = ["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "draft.engine"), "--exits", "3,6"]
    line = mistake(capsys, build.PROG, build.main, argv)
    assert line.startswith("python -m export.build: exit 3 was not trained")


def test_the_output_says_what_was_read_checked_and_written_and_what_to_type_next(draft_checkpoint, tmp_path, capsys):
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "draft.engine")])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["read"].endswith("6 layers, hidden 64, 4/2 heads, vocabulary 300, exits 2,4,6")
    assert lines["graphs"] == "segment_0, segment_1, segment_2, head"
    assert lines["lanes"] == "1, 2, 4, 8: texts in one call"
    assert lines["weights"].endswith("MiB, 41 tensors")
    assert "against PyTorch (exit 2" in lines["parity"]
    assert lines["wrote"].startswith(str(tmp_path / "draft.engine"))
    assert lines["next"].startswith("python -m export.target")


def test_defaults_are_relative_to_the_working_directory(draft_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "engines" / "demo").mkdir(parents=True)
    (tmp_path / "engines" / "demo" / "draft").symlink_to(draft_checkpoint)
    monkeypatch.chdir(tmp_path)
    build.main(["--no-parity"])
    assert Bundle.open(Path("engines/draft.engine")).manifest.exits == (2, 4, 6)


def test_building_needs_neither_torch_nor_transformers(draft_bundle, draft_checkpoint, tmp_path, snapshot):
    out = tmp_path / "draft.engine"
    command = [sys.executable, "-c", WITHOUT_TORCH, "--checkpoint", str(draft_checkpoint), "--out", str(out)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "parity   skipped: torch and transformers are not installed" in process.stdout
    assert snapshot(out) == snapshot(draft_bundle)


def test_the_manifest_holds_no_path_or_time_of_the_build(draft_bundle, draft_checkpoint):
    text = (draft_bundle / MANIFEST).read_text()
    assert str(draft_checkpoint) not in text
    assert not {"time", "date", "created"} & set(json.loads(text))
