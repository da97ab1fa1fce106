"""Bundles: a manifest survives JSON, and each way a bundle can be wrong is one ``BundleError``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_trt.bundle import Bundle, find_bundle
from s2d_trt.errors import BundleError
from s2d_trt.manifest import (
    MANIFEST,
    SCHEMA,
    SCRATCH_ROWS,
    CacheSpec,
    FileEntry,
    Manifest,
    PlanEntry,
    QueryProfile,
    TokenizerSpec,
    least_bytes,
)
from s2d_trt.spec import ModelSpec

FILES = {"weights.bin": b"\x00\x01" * 512, "target.onnx": b"graph", "tokenizer.json": b"{}"}

hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
files = st.from_regex(r"[a-z_.-]{1,20}", fullmatch=True)
rows = st.integers(1, 4096)
texts = st.text(max_size=20)
plans = st.builds(
    PlanEntry,
    file=files,
    graph=texts,
    flavor=texts,
    builder_version=texts,
    compute_capabilities=st.lists(texts).map(tuple),
    profiles=st.lists(st.builds(QueryProfile, rows, rows, rows)).map(tuple),
    bytes=rows,
    memory_bytes=rows,
    activation_bytes=rows,
    weight_format=texts,
)


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    heads = draw(st.integers(1, 8))
    shared = draw(st.sampled_from([each for each in range(1, heads + 1) if heads % each == 0]))
    eps, theta, flags = draw(st.floats(1e-6, 0.1)), draw(st.floats(1, 1e9)), [draw(st.booleans()) for _ in range(5)]
    return ModelSpec(
        draw(rows), draw(st.integers(1, 99)), heads, shared, 2 * draw(rows), draw(rows), draw(rows), eps, theta, *flags
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest that does not contradict itself."""
    model, positions = draw(models()), draw(rows)
    layout = draw(st.sampled_from(["BSH", "BHSD"]))
    exits = draw(st.none() | st.sets(st.integers(1, model.num_hidden_layers)))
    ids = st.integers(0, model.vocab_size - 1)
    weights = FileEntry(least_bytes(model, positions), draw(hashes))
    return Manifest(
        kind="target" if exits is None else "draft",
        name=draw(st.text("abc -é図", min_size=1)),
        model=model,
        exits=() if exits is None else tuple(sorted({*exits, model.num_hidden_layers})),
        precision=draw(st.sampled_from(["fp32", "fp16", "bf16", "int8"])),
        weight_format=draw(st.sampled_from(["fp32", "fp16", "bf16", "int8", "int7", "int4"])),
        cache=CacheSpec(layout, positions, positions + SCRATCH_ROWS if layout == "BHSD" else 0),
        head_top_k=0 if exits is None else 1,
        tokenizer=TokenizerSpec(draw(files), draw(hashes), draw(st.none() | ids), draw(st.lists(ids).map(tuple))),
        graphs=draw(st.dictionaries(texts, files)),
        weights="weights.bin",
        files=draw(st.dictionaries(files, st.builds(FileEntry, bytes=rows, sha256=hashes))) | {"weights.bin": weights},
        built_with=draw(st.dictionaries(texts, texts)),
        plans=draw(st.lists(plans).map(tuple)),
        lanes=draw(st.sampled_from([(1,), (1, 2, 4, 8), (1, 64)])),
    )


PLAN = PlanEntry(
    "outside", "target", "tensorrt_rtx", "1.7.1.116", ("8.9",), (QueryProfile(1, 1, 1),), 6, 6, 0, "fp16", False
)


MODEL = dataclasses.asdict(ModelSpec(8, 1, 2, 1, 4, 16, 32, 1e-5, 1e4, True))
TOKENIZER = {"file": "tokenizer.json", "fingerprint": "f" * 64, "bos_token_id": 0, "eos_token_ids": [0]}


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "kind": "target",
        "name": "tiny",
        "model": ModelSpec(**MODEL),
        "exits": (),
        "precision": "fp32",
        "weight_format": "fp32",
        "cache": CacheSpec("BSH", 64),
        "head_top_k": 0,
        "tokenizer": TokenizerSpec("tokenizer.json", "f" * 64, 0, (0,)),
        "graphs": {"target": "target.onnx"},
        "weights": "weights.bin",
        "files": {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()},
        "built_with": {"s2d-trt": "0"},
    }
    return Manifest(**values | changes)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A whole bundle."""
    folder = tmp_path / "tiny.engine"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_text(manifest().to_json(), encoding="utf-8")
    return folder


def rewrite(directory: Path, **changes: Any) -> None:
    data = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    (directory / MANIFEST).write_text(json.dumps(data | changes), encoding="utf-8")


@given(manifests())
def test_a_manifest_survives_json(original: Manifest) -> None:
    assert Manifest.from_mapping(json.loads(original.to_json()), Path(MANIFEST)) == original


def test_a_whole_bundle_opens_and_finds_its_files(directory: Path) -> None:
    bundle = Bundle.open(directory, kind="target", verify=True)
    assert bundle.manifest == manifest()
    assert bundle.path(bundle.manifest.weights).read_bytes() == FILES["weights.bin"]


def test_a_manifest_of_an_older_build_that_still_has_profiles_is_read(directory: Path) -> None:
    rewrite(directory, profiles={"min": 1, "opt": 8, "max": 64})
    assert Bundle.open(directory).manifest == manifest()


def test_files_that_the_manifest_does_not_name_are_ignored(directory: Path) -> None:
    (directory / "weights-of-an-older-build.bin").write_bytes(b"")
    Bundle.open(directory)


def test_a_missing_directory_is_named_with_the_command_that_builds_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere; build one with python -m export"):
        Bundle.open(tmp_path / "nowhere")


def test_a_path_that_is_no_text_is_refused(directory: Path) -> None:
    moved = Path(shutil.move(directory, os.fsdecode(os.fsencode(directory.parent) + b"/\xff.engine")))
    with pytest.raises(BundleError, match="is not UTF-8; rename or move the bundle"):
        Bundle.open(moved)


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"schema": 1} trailing'])
def test_a_manifest_that_is_no_json_cannot_be_read(directory: Path, content: bytes) -> None:
    (directory / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        Bundle.open(directory)


@pytest.mark.parametrize("schema", [None, 0, SCHEMA + 1, "1"])
def test_another_schema_is_refused_with_both_numbers(directory: Path, schema: object) -> None:
    rewrite(directory, schema=schema)
    with pytest.raises(BundleError, match=rf"has schema {schema!r}, this version reads {SCHEMA}"):
        Bundle.open(directory)


@pytest.mark.parametrize("content", ["[]", "null", "7", '"text"'])
def test_json_that_is_no_object_has_no_schema(directory: Path, content: str) -> None:
    (directory / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match="holds no JSON object"):
        Bundle.open(directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"hidden_size": 8}},
        {"model": None},
        {"exits": 5},
        {"cache": []},
        {"tokenizer": "tokenizer.json"},
        {"tokenizer": {}},
        {"files": ["weights.bin"]},
        {"files": {"weights.bin": 128}},
        {"plans": [{"file": "target.plan"}]},
        {"plans": "target.plan"},
        {"unknown_field": 1},
        {"kind": "drafty"},
        {"cache": {"layout": "x", "max_length": 64}},
        {"cache": {"layout": "BSH", "max_length": 0}},
        {"cache": {"layout": "BSH", "max_length": 10**12}},
        {"cache": {"layout": "BSH", "max_length": "64"}},
        {"model": MODEL | {"head_dim": 0}},
        {"model": MODEL | {"vocab_size": -1}},
        {"model": MODEL | {"vocab_size": 10**12}},
        {"model": MODEL | {"num_hidden_layers": 10**9}},
        {"model": MODEL | {"rms_norm_eps": 1e300}},
        {"model": MODEL | {"rope_theta": "many"}},
        {"weight_format": "x"},
        {"head_top_k": -1},
        {"exits": "6,9"},
        {"name": 7},
        {"lanes": [1, 65]},
        {"graphs": ["target.onnx"]},
        {"graphs": {"target": "x" * 300}},
        {"weights": "../outside"},
        {"tokenizer": TOKENIZER | {"eos_token_ids": [-1]}},
        {"tokenizer": TOKENIZER | {"eos_token_ids": ["end"]}},
        {"tokenizer": TOKENIZER | {"file": "/etc/hostname"}},
        {"plans": [dataclasses.asdict(dataclasses.replace(PLAN, file="../outside"))]},
        {"files": {"../outside": {"bytes": 6, "sha256": "0" * 64}}},
        {"files": {"weights.bin": {"bytes": -1, "sha256": "0" * 64}}},
        {"files": {"weights.bin": {"bytes": 1, "sha256": "no hash"}}},
    ],
    ids=str,
)
def test_a_manifest_with_a_wrong_field_is_damaged(directory: Path, changes: dict[str, Any]) -> None:
    rewrite(directory, **changes)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        Bundle.open(directory)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "a\x1b[31m"}, "holds characters that no bundle's name has"),
        ({"name": "../x"}, "holds characters"),
        ({"name": ""}, "the name ''"),
        ({"model": MODEL | {"num_attention_heads": 3, "num_key_value_heads": 2}}, "cannot share 2 key/value heads"),
        ({"model": MODEL | {"head_dim": 5}}, "head_dim 5 is odd"),
        ({"exits": [1]}, "a target has no exits"),
        ({"head_top_k": 8}, "a target has no exits"),
        ({"kind": "draft", "head_top_k": 8}, r"exits \[\] do not rise to the 1 layers"),
        ({"kind": "draft", "head_top_k": 8, "exits": [2]}, "do not rise to the 1 layers"),
        ({"kind": "draft", "exits": [1]}, "head_top_k 0 is not between"),
        ({"lanes": [2, 1]}, "do not rise"),
        ({"lanes": []}, "do not rise"),
        ({"tokenizer": TOKENIZER | {"eos_token_ids": [32]}}, "token id 32 is outside the vocabulary"),
        ({"tokenizer": TOKENIZER | {"bos_token_id": 40}}, "token id 40 is outside"),
        ({"cache": {"layout": "BHSD", "max_length": 64, "slots": 64}}, "64 slots do not fit layout BHSD"),
        ({"cache": {"layout": "BSH", "max_length": 4096}}, "too small for the model and its 4096 positions"),
        ({"model": MODEL | {"num_hidden_layers": 4096}}, "a weight file of 1024 bytes is too small"),
        ({"model": MODEL | {"vocab_size": 2**20}}, "is too small"),
    ],
    ids=str,
)
def test_a_manifest_that_contradicts_itself_is_refused(directory: Path, changes: dict[str, Any], reason: str) -> None:
    rewrite(directory, **changes)
    with pytest.raises(BundleError, match=reason):
        Bundle.open(directory)


@pytest.mark.parametrize("name", sorted(f.name for f in dataclasses.fields(Manifest) if f.default is dataclasses.MISSING
                                        and f.default_factory is dataclasses.MISSING))  # fmt: skip
def test_a_manifest_without_a_required_field_is_damaged(directory: Path, name: str) -> None:
    data = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    del data[name]
    (directory / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError, match="is damaged"):
        Bundle.open(directory)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(directory)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_truncated_file_is_named_with_both_sizes(directory: Path, name: str) -> None:
    (directory / name).write_bytes(FILES[name][:-1])
    with pytest.raises(BundleError, match=f"{name} has {len(FILES[name]) - 1} bytes instead of {len(FILES[name])}"):
        Bundle.open(directory)


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_changed_byte_is_noticed(directory: Path, name: str) -> None:
    data = bytearray(FILES[name])
    data[-1] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} does not match its hash"):
        Bundle.open(directory)


def test_a_large_bundle_is_hashed_only_on_request(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2d_trt.bundle.ALWAYS_HASH_BELOW", 1)
    (directory / "target.onnx").write_bytes(b"GRAPH")
    Bundle.open(directory)
    with pytest.raises(BundleError, match="hash"):
        Bundle.open(directory, verify=True)


@pytest.mark.parametrize("name", ["..", "."])
def test_a_name_that_is_no_file_is_missing(directory: Path, name: str) -> None:
    rewrite(directory, files={name: {"bytes": 6, "sha256": "0" * 64}} | dataclasses.asdict(manifest())["files"])
    with pytest.raises(BundleError, match="missing from the bundle"):
        Bundle.open(directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "outside"},
        {"graphs": {"target": "outside"}},
        {"plans": [dataclasses.asdict(PLAN)]},
        {"tokenizer": TOKENIZER | {"file": "outside"}},
    ],
)
def test_a_graph_weights_or_tokenizer_that_is_not_listed_is_refused(directory: Path, changes: dict[str, Any]) -> None:
    (directory / "outside").write_bytes(b"secret")
    rewrite(directory, **changes)
    with pytest.raises(BundleError, match="does not list outside"):
        Bundle.open(directory)


def test_a_bundle_of_the_wrong_kind_is_refused(directory: Path) -> None:
    with pytest.raises(BundleError, match="is a target bundle where a draft is needed"):
        Bundle.open(directory, kind="draft")


@pytest.mark.parametrize("name", ["n" * 300, "n" * 300_000, "a\0b", ""])
def test_a_name_that_no_bundle_can_have_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle.open(find_bundle(name))
    assert len(str(caught.value)) < 2000
