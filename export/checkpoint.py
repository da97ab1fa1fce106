"""Reading a Hugging Face Llama directory, tensor by tensor, with neither torch nor transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors needs to read it
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from s2d_trt.errors import CheckpointError
from s2d_trt.spec import ModelSpec

Float32Array = NDArray[np.float32]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOAT_TYPES = ("BF16", "F16", "F32")


LAYER_TENSOR = re.compile(r"model\.layers\.(\d+)\.")
UNSUPPORTED_WHEN_SET = ("attention_bias", "mlp_bias", "quantization_config")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose config has been checked; tensors are read on demand."""

    directory: Path
    spec: ModelSpec
    exits: tuple[int, ...]
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    tensor_files: Mapping[str, str]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read ``config.json``, ``generation_config.json`` and the names of all tensors.

        Raises:
            CheckpointError: a file or field is missing, damaged, contradictory or not supported.
        """
        if not directory.is_dir():
            raise CheckpointError(f"no checkpoint directory at {directory}; give --checkpoint a Hugging Face directory")
        fields = _Fields(read_json(directory / "config.json"), directory / "config.json")
        generation_path = directory / "generation_config.json"
        generation = _Fields(read_json(generation_path) if generation_path.is_file() else {}, generation_path)
        spec = _read_spec(fields)
        eos = (*generation.token_ids("eos_token_id", spec), *fields.token_ids("eos_token_id", spec))
        bos = (*generation.token_ids("bos_token_id", spec), *fields.token_ids("bos_token_id", spec))
        tensor_files = _list_tensors(directory)
        _refuse_unread_tensors(tensor_files, spec, directory)
        return cls(
            directory=directory,
            spec=spec,
            exits=_read_exits(fields, spec),
            max_position_embeddings=fields.positive("max_position_embeddings"),
            bos_token_id=bos[0] if bos else None,
            eos_token_ids=tuple(dict.fromkeys(eos)),
            tensor_files=tensor_files,
        )

    def check_tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that each named tensor is there, has its shape, and holds floating-point numbers.

        Raises:
            CheckpointError: naming the tensor, what it is and what the config asks for.
        """
        by_file: dict[str, list[str]] = {}
        for name in shapes:
            if name not in self.tensor_files:
                raise CheckpointError(
                    f"{self.directory} has no tensor {name}, which config.json asks for; save the checkpoint again"
                )
            by_file.setdefault(self.tensor_files[name], []).append(name)
        for file, names in by_file.items():
            with _open_safetensors(self.directory / file) as tensors:
                stored = set(tensors.keys())
                for name in names:
                    if name not in stored:
                        raise CheckpointError(
                            f"{self.directory / file} has no tensor {name}, though {INDEX_FILE} puts it there; "
                            "download the checkpoint again"
                        )
                    view = tensors.get_slice(name)
                    shape, dtype = tuple(view.get_shape()), view.get_dtype()
                    if shape != shapes[name]:
                        raise CheckpointError(
                            f"tensor {name} in {file} has shape {list(shape)} where config.json asks for "
                            f"{list(shapes[name])}; config.json and weights do not belong together"
                        )
                    if dtype not in FLOAT_TYPES:
                        raise CheckpointError(
                            f"tensor {name} in {file} is {dtype}; supported are {', '.join(FLOAT_TYPES)}: "
                            "save the checkpoint unquantised"
                        )

    def read(self, name: str) -> Float32Array:
        """One tensor as float32, in its stored shape.

        Raises:
            CheckpointError: the file is damaged, or the tensor holds something that is not a finite number.
        """
        path = self.directory / self.tensor_files[name]
        with _open_safetensors(path) as tensors:
            try:
                array: Float32Array = tensors.get_tensor(name).astype(np.float32, copy=False)
            except (SafetensorError, OSError) as cause:
                raise CheckpointError(f"{path}: tensor {name} cannot be read ({cause}); copy the file again") from cause
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"{path}: tensor {name} holds NaN or infinity; take a checkpoint that did not diverge"
            )
        return array


def check_tokenizer(path: Path, spec: ModelSpec) -> None:
    """Check that ``tokenizer.json`` loads and that the model has a row for each of its tokens.

    Raises:
        CheckpointError: it does not, or it is not there.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy the tokenizer that the model was trained with")
    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as cause:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{path} cannot be loaded by the tokenizers library ({cause}); copy it again") from cause
    largest = max(vocabulary.values(), default=0)
    if largest >= spec.vocab_size:
        raise CheckpointError(
            f"{path} has token id {largest}, beyond the model's vocab_size {spec.vocab_size}; "
            "take the tokenizer that the model was trained with"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the checkpoint.

    Raises:
        CheckpointError: no such file, or no JSON object in it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; give --checkpoint a complete Hugging Face directory") from None
    except OSError as cause:
        raise CheckpointError(f"{path} cannot be read ({cause.strerror}); check its permissions") from cause
    except ValueError as cause:
        raise CheckpointError(f"{path} is not JSON ({cause}); copy it again") from cause
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object; copy it again")
    return data


@dataclass(frozen=True, slots=True)
class _Fields:
    """A JSON object whose fields are read with their type checked."""

    data: Mapping[str, Any]
    path: Path

    def value(self, name: str, default: object = None) -> Any:
        found = self.data.get(name)
        return default if found is None else found

    def positive(self, name: str, default: int | None = None) -> int:
        value = self.value(name, default)
        if value is None:
            raise CheckpointError(f"{self.path} has no {name}; take the config.json that belongs to the weights")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{self.path}: {name} is {value!r}; it must be a whole number of at least 1")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{self.path}: {name} is {value!r}; it must be a number above 0")
        return float(value)

    def token_ids(self, name: str, spec: ModelSpec) -> tuple[int, ...]:
        value = self.value(name, [])
        ids = value if isinstance(value, list) else [value]
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < spec.vocab_size:
                raise CheckpointError(
                    f"{self.path}: {name} is {value!r}; it must be token ids below vocab_size {spec.vocab_size}"
                )
        return tuple(ids)

    def refuse(self, name: str, value: object, supported: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {name} is {value!r}; supported is {supported}")


def _read_spec(fields: _Fields) -> ModelSpec:
    if fields.value("model_type") != "llama":
        raise fields.refuse("model_type", fields.value("model_type"), "'llama'")
    if fields.value("hidden_act", "silu") != "silu":
        raise fields.refuse("hidden_act", fields.value("hidden_act"), "'silu'")
    for name in UNSUPPORTED_WHEN_SET:
        if fields.value(name):
            raise fields.refuse(name, fields.value(name), "a checkpoint without it")
    hidden, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
    kv_heads = fields.positive("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.refuse("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads {heads}")
    if fields.value("head_dim") is None and hidden % heads:
        raise fields.refuse("hidden_size", hidden, f"a multiple of num_attention_heads {heads}, or head_dim given")
    head_dim = fields.positive("head_dim", hidden // heads)
    if head_dim % 2:
        raise fields.refuse("head_dim", head_dim, "an even number, which rotary positions need")
    return ModelSpec(
        hidden_size=hidden,
        num_hidden_layers=fields.positive("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.positive("intermediate_size"),
        vocab_size=fields.positive("vocab_size"),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_read_rope_theta(fields),
        tie_word_embeddings=bool(fields.value("tie_word_embeddings", False)),
    )


def _read_rope_theta(fields: _Fields) -> float:
    """``rope_theta`` stands at top level (transformers 4) or under ``rope_parameters`` (transformers 5)."""
    thetas = [fields.number("rope_theta", 10000.0)] if fields.value("rope_theta") is not None else []
    for name in ("rope_parameters", "rope_scaling"):
        rope = fields.value(name, {})
        if not isinstance(rope, dict):
            raise fields.refuse(name, rope, "an object with rope_theta")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise fields.refuse(f"{name}.rope_type", kind, "'default' (no context scaling)")
        if rope.get("rope_theta") is not None:
            thetas.append(_Fields(rope, fields.path).number("rope_theta", 10000.0))
    if len(set(thetas)) > 1:
        raise CheckpointError(
            f"{fields.path}: rope_theta is given as {thetas[0]:g} and {thetas[1]:g}; keep the one it was trained with"
        )
    return thetas[0] if thetas else 10000.0


def _read_exits(fields: _Fields, spec: ModelSpec) -> tuple[int, ...]:
    exits = fields.value("exits", [])
    if not isinstance(exits, list) or any(isinstance(e, bool) or not isinstance(e, int) for e in exits):
        raise fields.refuse("exits", exits, "a list of layer counts like [6, 9, 12]")
    if exits != sorted(set(exits)) or any(not 1 <= e <= spec.num_hidden_layers for e in exits):
        raise fields.refuse("exits", exits, f"increasing layer counts up to num_hidden_layers {spec.num_hidden_layers}")
    return tuple(exits)


def _list_tensors(directory: Path) -> dict[str, str]:
    """Tensor name -> file name, from the index of a sharded checkpoint or from the single file."""
    index = directory / INDEX_FILE
    if (directory / SINGLE_FILE).is_file():
        with _open_safetensors(directory / SINGLE_FILE) as tensors:
            return dict.fromkeys(tensors.keys(), SINGLE_FILE)
    if not index.is_file():
        if any(directory.glob("*.bin")) or any(directory.glob("*.pt*")):
            raise CheckpointError(
                f"{directory} holds pickled weights only, which can run code when loaded; "
                "save it as safetensors with save_pretrained"
            )
        raise CheckpointError(f"{directory} has no {SINGLE_FILE}; copy or save the weights as safetensors")
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise CheckpointError(f"{index} has no weight_map; copy it again")
    for file in sorted(set(files.values())):
        if Path(file).name != file or not (directory / file).is_file():
            raise CheckpointError(f"{directory / file} is missing though {INDEX_FILE} names it; copy it again")
    return files


def _refuse_unread_tensors(names: Iterable[str], spec: ModelSpec, directory: Path) -> None:
    """A layer or bias that the config does not tell of would be left out, and the model would be another one."""
    for name in names:
        layer = LAYER_TENSOR.match(name)
        if layer and int(layer[1]) >= spec.num_hidden_layers:
            raise CheckpointError(
                f"{directory} holds {name}, but config.json has num_hidden_layers {spec.num_hidden_layers}; "
                "config.json and weights do not belong together"
            )
        if layer and name.endswith(".bias"):
            raise CheckpointError(f"{directory} holds {name}; supported are Llama models without biases")


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({cause}); copy it again") from cause
