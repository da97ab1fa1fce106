"""A Triton model repository with one model, whose process serves several targets over one draft."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtime.embedding.triton.fields import OPTIONAL, OUTPUTS, PROMPT, Field
from s2d_trt.files import publishing_directory

_MODEL = '''"""Serves targets with a sorted draft; see the parameters in config.pbtxt."""

from runtime.embedding.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(out: Path, name: str, parameters: Mapping[str, str]) -> None:
    """Write the model ``name`` into the repository ``out``, in place of an earlier one. Raises OSError."""
    with publishing_directory(out / name, replace=True) as folder:
        (folder / "config.pbtxt").write_text(_config(name, parameters), encoding="utf-8")
        (folder / "1").mkdir()
        (folder / "1" / "model.py").write_text(_MODEL, encoding="utf-8")


def parameters_of(
    targets: Sequence[Path], draft: Path | None, sequences: int, threads: int | None, device: str | None
) -> dict[str, str]:
    """What the model is told, as the texts that Triton passes on."""
    return {
        "targets": json.dumps([str(target.resolve()) for target in targets]),
        "draft": str(draft.resolve()) if draft else "",
        "sequences": str(sequences),
        "threads": str(threads or 0),
        "device": device or "",
    }


def _config(name: str, parameters: Mapping[str, str]) -> str:
    inputs = [_tensor(PROMPT), *(_tensor(field, "optional: true") for field in OPTIONAL)]
    described = (
        f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(text, ensure_ascii=False)} }} }}\n'
        for key, text in parameters.items()
    )
    return (
        f'name: "{name}"\n'
        'backend: "python"\n'
        "max_batch_size: 0\n"
        "# Each step of a text is a response; the texts of all requests step together in one process.\n"
        "model_transaction_policy { decoupled: true }\n"
        "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
        f"input [\n{_listed(inputs)}\n]\n"
        f"output [\n{_listed(map(_tensor, OUTPUTS))}\n]\n" + "".join(described)
    )


def _tensor(field: Field, extra: str = "") -> str:
    return f'  {{ name: "{field.name}" data_type: {field.kind} dims: [ {field.size} ] {extra}'.rstrip() + " }"


def _listed(entries: Iterable[str]) -> str:
    return ",\n".join(entries)
