"""Graphs in fp16 and bf16, and with quantised weights, against their float32 form and against PyTorch."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from export import build, target
from export.encoding import Encoding
from export.parity import BOUND as PARITY_BOUND
from export.parity import ParityError
from export.precision import BF16, FP16
from export.rounding import BOUNDS, check_rounding
from s2d_trt.bundle import Bundle
from s2d_trt.errors import CheckpointError

FORM = ["--backend", "tensorrt", "--no-compile"]


def lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("parity")]


@pytest.mark.parametrize(
    ("precision", "form"),
    [
        ("fp16", FORM),
        ("fp16", [*FORM, "--weights", "int8"]),
        ("fp16", [*FORM, "--weights", "int4"]),
        ("fp16", ["--precision", "fp16"]),
        ("int8", ["--precision", "int8"]),
    ],
    ids=["BHSD", "BHSD int8", "BHSD int4", "BSH", "BSH int8"],
)
def test_every_graph_stays_within_its_precisions_bound_of_float32(draft_checkpoint, tmp_path, capsys, precision, form):
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "draft.engine"), *form])
    against_torch, against_wide = lines(capsys)
    assert "against PyTorch (exit 2" in against_torch
    for graph in ("segment_0", "segment_1", "segment_2", "head"):
        assert f"{graph} " in against_wide
    assert f"{precision} within " in against_wide
    assert f"bound {BOUNDS[precision]:g}" in against_wide


@pytest.mark.parametrize("weights", [(), ("--weights", "int8")], ids=["bf16", "int8"])
def test_bf16_graphs_are_compared_through_float32_with_bf16_weights(target_checkpoint, tmp_path, capsys, weights):
    out = tmp_path / "target.engine"
    target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), "--precision", "bf16", *FORM, *weights])
    against_torch, against_wide = lines(capsys)
    assert "against PyTorch (prefill" in against_torch
    assert "bf16 not measured" in against_wide
    manifest = Bundle.open(out).manifest
    assert (manifest.precision, manifest.weight_format) == ("bf16", weights[1] if weights else "bf16")
    onnx.checker.check_model(str(out / manifest.graphs["target"]), full_check=True)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_tied_head_is_quantised_beside_an_embedding_that_is_not(other_target_checkpoint, tmp_path, capsys, weights):
    out = tmp_path / "target.engine"
    options = ["--checkpoint", str(other_target_checkpoint), "--out", str(out), "--weights", weights]
    target.main([*options, *FORM])
    assert float(lines(capsys)[0].split("error ")[1].split()[0]) < PARITY_BOUND / 10
    bundle = Bundle.open(out)
    onnx.checker.check_model(str(bundle.path(bundle.manifest.graphs["target"])), full_check=True)
    graph = onnx.load(bundle.path(bundle.manifest.graphs["target"]), load_external_data=False).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert types["model.embed_tokens.weight"] == onnx.TensorProto.FLOAT16
    assert types["lm_head.weight"] == onnx.TensorProto.INT8


def test_bundles_shrink_with_their_weights(target_checkpoint, tmp_path):
    sizes = {}
    for weights in ("fp16", "int8", "int4"):
        out = tmp_path / f"{weights}.engine"
        chosen = ["--weights", weights] if weights != "fp16" else []
        target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), "--no-parity", *FORM, *chosen])
        manifest = Bundle.open(out).manifest
        graph = onnx.load(out / manifest.graphs["target"], load_external_data=False).graph
        sizes[weights] = sum(
            int({entry.key: entry.value for entry in tensor.external_data}["length"])
            for tensor in graph.initializer
            if "_proj" in tensor.name
        )
    assert 0.5 < sizes["int8"] / sizes["fp16"] < 0.54
    assert 0.25 < sizes["int4"] / sizes["fp16"] < 0.29


def test_weights_beyond_the_range_of_fp16_are_refused_with_the_remedy(checkpoint, tmp_path):
    checkpoint.edit_tensors(
        lambda tensors: tensors | {"model.norm.weight": np.full(64, 1e5, tensors["model.norm.weight"].dtype)}
    )
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds numbers up to 9\.98e\+04.*--precision bf16"):
        build.main(["--checkpoint", str(checkpoint.directory), "--out", str(tmp_path / "draft.engine"), *FORM])
    assert not (tmp_path / "draft.engine").exists()


def test_activations_beyond_the_range_of_fp16_are_refused_with_the_remedy(checkpoint, tmp_path):
    def enlarge(tensors):
        for name in tensors:
            if "up_proj" in name or "down_proj" in name:
                tensors[name] = (tensors[name].astype(np.float32) * 300).astype(tensors[name].dtype)

    checkpoint.edit_tensors(enlarge)
    with np.errstate(all="ignore"), pytest.raises(ParityError, match="use --precision bf16"):
        build.main(["--checkpoint", str(checkpoint.directory), "--out", str(tmp_path / "draft.engine"), *FORM])
    assert not (tmp_path / "draft.engine").exists()


def test_a_graph_that_is_not_the_float32_one_is_caught(trt_draft_graphs):
    manifest = Bundle.open(trt_draft_graphs).manifest
    graphs = {name: manifest.graphs[name] for name in ("segment_0", "segment_1")}
    narrow = dataclasses.replace(manifest, graphs=graphs)
    other = dataclasses.replace(manifest, graphs=graphs | {"segment_1": manifest.graphs["segment_2"]})
    assert "segment_1 0.0e+00" in check_rounding(narrow, narrow, trt_draft_graphs)
    with pytest.raises(ParityError, match="fp16 moves results by more than"):
        check_rounding(narrow, other, trt_draft_graphs)


@pytest.mark.parametrize(("precision", "unit"), [(FP16, 2.0**-11), (BF16, 2.0**-8)])
def test_rounding_moves_a_weight_by_half_a_unit_at_most(precision, unit):
    array = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    rounded = Encoding(precision, precision.name).rounded("w", array, None)
    assert 0 < (np.abs(rounded - array) / np.abs(array)).max() <= unit
