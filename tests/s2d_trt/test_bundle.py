"""Bundles: a manifest survives JSON, and each way a bundle can be wrong is one ``BundleError``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_trt.bundle import (
    MANIFEST,
    SCHEMA,
    Bundle,
    CacheSpec,
    FileEntry,
    Manifest,
    PlanEntry,
    QueryProfile,
    TokenizerSpec,
)
from s2d_trt.errors import BundleError
from s2d_trt.spec import ModelSpec

FILES = {"weights.bin": b"\x00\x01" * 64, "target.onnx": b"graph", "tokenizer.json": b"{}"}

sizes = st.integers(1, 2**40)
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1)
models = st.builds(
    ModelSpec,
    **{
        field.name: {"int": sizes, "float": finite, "bool": st.booleans()}[str(field.type)]
        for field in dataclasses.fields(ModelSpec)
    },
)
plans = st.builds(
    PlanEntry,
    file=names,
    compute_capabilities=st.lists(names).map(tuple),
    profiles=st.lists(st.builds(QueryProfile, sizes, sizes, sizes)).map(tuple),
)
manifests = st.builds(
    Manifest,
    kind=st.sampled_from(["draft", "target"]),
    name=names,
    model=models,
    exits=st.lists(sizes).map(tuple),
    precision=names,
    weight_format=names,
    cache=st.builds(CacheSpec, layout=names, max_length=sizes, slots=sizes),
    head_top_k=sizes,
    tokenizer=st.builds(
        TokenizerSpec,
        file=names,
        fingerprint=names,
        bos_token_id=st.none() | sizes,
        eos_token_ids=st.lists(sizes).map(tuple),
    ),
    graphs=st.dictionaries(names, names),
    weights=names,
    files=st.dictionaries(names, st.builds(FileEntry, bytes=sizes, sha256=names)),
    built_with=st.dictionaries(names, names),
    plans=st.lists(plans).map(tuple),
)

PLAN = PlanEntry(
    "../outside", "target", "tensorrt_rtx", "1.7.1.116", ("8.9",), (QueryProfile(1, 1, 1),), 6, 6, 0, "fp16", False
)


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "kind": "target",
        "name": "tiny",
        "model": ModelSpec(8, 1, 2, 1, 4, 16, 32, 1e-5, 1e4, True),
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


@given(manifests)
def test_a_manifest_survives_json(original: Manifest) -> None:
    assert Manifest.from_mapping(json.loads(original.to_json()), Path(MANIFEST)) == original


def test_a_whole_bundle_opens_and_finds_its_files(directory: Path) -> None:
    bundle = Bundle.open(directory, kind="target", verify=True)
    assert bundle.manifest == manifest()
    assert bundle.path(bundle.manifest.weights).read_bytes() == FILES["weights.bin"]


def test_a_manifest_of_an_earlier_version_is_read_without_its_query_lengths(directory: Path) -> None:
    rewrite(directory, profiles={"min": 1, "max": 8})
    assert Bundle.open(directory).manifest == manifest()


def test_files_that_the_manifest_does_not_name_are_ignored(directory: Path) -> None:
    (directory / "weights-of-an-older-build.bin").write_bytes(b"")
    Bundle.open(directory)


def test_a_missing_directory_is_named_with_the_command_that_builds_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere; build one with python -m export"):
        Bundle.open(tmp_path / "nowhere")


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"schema": 1} trailing'])
def test_a_manifest_that_is_no_json_cannot_be_read(directory: Path, content: bytes) -> None:
    (directory / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        Bundle.open(directory)


@pytest.mark.parametrize("schema", [None, 0, SCHEMA + 1, "1"])
def test_another_schema_is_refused_with_both_numbers(directory: Path, schema: object) -> None:
    rewrite(directory, schema=schema)
    with pytest.raises(BundleError, match=rf"has schema {schema}, this version reads {SCHEMA}"):
        Bundle.open(directory)


@pytest.mark.parametrize("content", ["[]", "null", "7", '"text"'])
def test_json_that_is_no_object_has_no_schema(directory: Path, content: str) -> None:
    (directory / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match="has schema None"):
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
    ],
)
def test_a_manifest_with_a_wrong_field_is_damaged(directory: Path, changes: dict[str, Any]) -> None:
    rewrite(directory, **changes)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
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


@pytest.mark.parametrize("name", ["../outside", "sub/../../outside", "/etc/hostname", "..", "."])
def test_a_name_that_leaves_the_bundle_is_refused_even_if_the_file_exists(directory: Path, name: str) -> None:
    (directory.parent / "outside").write_bytes(b"secret")
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    rewrite(directory, files={name: entry} | dataclasses.asdict(manifest())["files"])
    with pytest.raises(BundleError, match="missing from the bundle"):
        Bundle.open(directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "../outside"},
        {"graphs": {"target": "../outside"}},
        {"plans": [dataclasses.asdict(PLAN)]},
        {"tokenizer": {"file": "../outside", "fingerprint": "", "bos_token_id": None, "eos_token_ids": []}},
    ],
)
def test_a_graph_weights_or_tokenizer_that_is_not_listed_is_refused(directory: Path, changes: dict[str, Any]) -> None:
    (directory.parent / "outside").write_bytes(b"secret")
    rewrite(directory, **changes)
    with pytest.raises(BundleError, match=r"does not list \.\./outside"):
        Bundle.open(directory)


def test_a_bundle_of_the_wrong_kind_is_refused(directory: Path) -> None:
    with pytest.raises(BundleError, match="is a target bundle where a draft is needed"):
        Bundle.open(directory, kind="draft")
