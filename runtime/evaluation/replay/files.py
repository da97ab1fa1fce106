"""Recordings in files: arrays in NumPy's ``.npz``, readable without this code."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from runtime.evaluation.replay.recording import PairShape, Recording, TextRecord
from s2d_trt.errors import OptionError
from s2d_trt.files import replacing_file
from s2d_trt.reading import parse_json


def write_recordings(recordings: list[Recording], path: Path) -> None:
    """Write recordings of one pair. Raises OptionError where the file cannot be written."""
    arrays: dict[str, np.ndarray] = {}
    header: dict[str, Any] = {"pair": asdict(recordings[0].pair), "recordings": []}
    for number, recording in enumerate(recordings):
        header["recordings"].append({"temperature": recording.temperature, "texts": len(recording.texts)})
        for index, record in enumerate(recording.texts):
            arrays |= {f"{number}/{index}/{name}": array for name, array in _arrays(record).items()}
    arrays["header"] = np.array(json.dumps(header))
    try:
        with replacing_file(path) as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as cause:
        raise OptionError(f"{path} cannot be written ({cause.strerror}); name another place") from cause


def read_recordings(path: Path) -> list[Recording]:
    """Read what ``write_recordings`` wrote. Raises OptionError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            header = parse_json(str(file["header"]))
            pair = _pair(header["pair"])
            return [
                Recording(pair, float(each["temperature"]), [_record(file, number, i) for i in range(each["texts"])])
                for number, each in enumerate(header["recordings"])
            ]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as cause:
        raise OptionError(f"{path} is no recording ({cause}); record again") from cause


def _pair(data: dict[str, Any]) -> PairShape:
    return PairShape(**(data | {"exits": tuple(data["exits"]), "draft_lanes": tuple(data["draft_lanes"])}))


def _arrays(record: TextRecord) -> dict[str, np.ndarray]:
    nodes = list(record.candidates)
    of_nodes = record.candidates.values()
    return {
        "category": np.array(record.category),
        "prompt": np.array(record.prompt, np.int32),
        "tokens": np.array(record.tokens, np.int32),
        "continuation": np.array(record.continuation, np.int32),
        "seed": np.array(record.seed, np.uint64),
        "limit": np.array(record.limit),
        "off_text": np.array(record.off_text, np.int32).reshape(-1, 2),
        "nodes": np.array(nodes, np.int32),
        "ids": np.array([[ids[0] for ids, _ in exits] for exits in of_nodes], np.int32),
        "logprobs": np.array([[logprobs[0] for _, logprobs in exits] for exits in of_nodes], np.float32),
    }


def _record(file: Any, number: int, index: int) -> TextRecord:
    def part(name: str) -> np.ndarray:
        array: np.ndarray = file[f"{number}/{index}/{name}"]
        return array

    ids, logprobs = part("ids").astype(np.int64), part("logprobs")
    candidates = {
        node: [(ids[row, exit_ : exit_ + 1], logprobs[row, exit_ : exit_ + 1]) for exit_ in range(ids.shape[1])]
        for row, node in enumerate(part("nodes").tolist())
    }
    return TextRecord(
        str(part("category")),
        part("prompt").tolist(),
        part("tokens").tolist(),
        part("continuation").tolist(),
        int(part("seed")),
        int(part("limit")),
        [(parent, token) for parent, token in part("off_text").tolist()],
        candidates,
    )
