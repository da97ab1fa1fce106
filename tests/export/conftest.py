"""Checkpoints to break, and graphs to run by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.session import GraphRun
from s2d_trt.bundle import Bundle

Tensors = dict[str, np.ndarray[Any, Any]]


class EditableCheckpoint:
    """A copy of the draft's checkpoint that a test may change."""

    def __init__(self, source: Path, directory: Path) -> None:
        self.directory = Path(shutil.copytree(source, directory))

    def edit_json(self, name: str = "config.json", drop: tuple[str, ...] = (), **fields: object) -> None:
        path = self.directory / name
        data = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({key: value for key, value in data.items() if key not in drop}))

    def edit_tensors(self, change: Callable[[Tensors], Tensors | None]) -> None:
        path = self.directory / "model.safetensors"
        tensors = load_file(path)
        save_file(change(tensors) or tensors, path)


@pytest.fixture
def checkpoint(draft_checkpoint: Path, tmp_path: Path) -> EditableCheckpoint:
    return EditableCheckpoint(draft_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def run_graph() -> Callable[..., GraphRun]:
    """Opens one graph of a bundle in ONNX Runtime, with fresh caches."""

    def opened(bundle: Path, name: str, slots: int = 64) -> GraphRun:
        return GraphRun(Bundle.open(bundle).manifest, bundle, name, slots)

    return opened


@pytest.fixture
def tokens() -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).integers(0, 300, 20)


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a directory, by name."""

    def taken(directory: Path) -> dict[str, bytes]:
        return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    return taken
