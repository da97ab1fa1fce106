"""Reading the weights of a Hugging Face directory, block by block, with neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors needs to read it
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from export.config import Config, read_json, refuse_foreign_link
from export.rotary import Float32Array
from export.tensors import LM_HEAD, checkpoint_shapes, query_head_axis
from s2d_trt.errors import CheckpointError
from s2d_trt.spec import ModelSpec
from s2d_trt.tokenizer import load_tokenizer

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOAT_TYPES = ("BF16", "F16", "F32")
BLOCK_NUMBERS = 2**24
"""Numbers of a tensor in memory at a time: 64 MiB as float32."""
STRIP_ROWS = 256
RECOMPUTED = "rotary_emb.inv_freq"
"""Old checkpoints store these frequencies, which follow from the config."""


@dataclass(frozen=True, slots=True)
class HeadOrder:
    """The order in which a view gives the heads that lie along ``axis`` of the stored tensor."""

    heads: tuple[int, ...]
    axis: int

    def indices(self, size: int) -> NDArray[np.int64]:
        """Which of ``size`` stored rows or columns come one after another."""
        width = size // len(self.heads)
        return (np.array(self.heads)[:, None] * width + np.arange(width)).reshape(-1)

    def applied(self, array: NDArray[Any]) -> NDArray[Any]:
        """``array``, which holds ``axis`` whole, in this order."""
        return array.take(self.indices(array.shape[self.axis]), self.axis)


@dataclass(frozen=True, slots=True)
class TensorView:
    """A stored tensor that is read a block at a time, ``transposed`` if a linear layer's weight is for MatMul.

    ``order`` None keeps the checkpoint's order of heads.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    transposed: bool = False
    order: HeadOrder | None = None

    def blocks(self, step: int | None = None) -> Iterator[Float32Array]:
        """Consecutive rows of the tensor, float32; ``step`` of them at a time, by default what memory should hold.

        Raises:
            CheckpointError: the file is damaged, or the tensor holds something that is not a finite number.
        """
        rows, step = self.shape[0], step or _rows_of_a_block(self.shape)
        with open_safetensors(self.path) as tensors:
            stored = tensors.get_slice(self.name)
            for first in range(0, rows, step):
                try:
                    block = self._read(stored, first, min(rows, first + step))
                except (SafetensorError, OSError, ValueError) as cause:
                    raise CheckpointError(
                        f"{self.path}: tensor {self.name} cannot be read ({cause}); copy the file again"
                    ) from cause
                wide: Float32Array = block.astype(np.float32)
                if not np.isfinite(wide).all():
                    raise CheckpointError(
                        f"{self.path}: tensor {self.name} holds NaN or infinity; take a checkpoint that did not diverge"
                    )
                yield _transposed(wide) if self.transposed else wide

    def _read(self, stored: Any, first: int, last: int) -> NDArray[Any]:
        """Rows ``[first, last)`` of the view, as they are stored (``[:, first:last]`` where it is transposed)."""
        axis = 1 if self.transposed else 0
        if self.order is None or self.order.axis != axis:
            block: NDArray[Any] = stored[:, first:last] if self.transposed else stored[first:last]
            return block if self.order is None else self.order.applied(block)
        rows = self.order.indices(self.shape[0])[first:last]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        spans = [slice(int(run[0]), int(run[-1]) + 1) for run in runs]
        return np.concatenate([stored[:, span] if self.transposed else stored[span] for span in spans], axis)

    def read(self) -> Float32Array:
        """The whole tensor, float32. Raises CheckpointError."""
        return np.concatenate(list(self.blocks()))


@dataclass(frozen=True, slots=True)
class JoinedView:
    """Tensors side by side: the columns of matrices, or the numbers of vectors, follow one another."""

    name: str
    parts: tuple[TensorView, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the joined tensor."""
        return (*self.parts[0].shape[:-1], sum(part.shape[-1] for part in self.parts))

    def blocks(self) -> Iterator[Float32Array]:
        """Consecutive rows of the joined tensor, float32. Raises CheckpointError."""
        step = _rows_of_a_block(self.shape)
        if len(self.shape) == 1:
            yield from chain.from_iterable(part.blocks(step) for part in self.parts)
            return
        for blocks in zip(*(part.blocks(step) for part in self.parts), strict=True):
            yield np.concatenate(blocks, axis=1)

    def read(self) -> Float32Array:
        """The whole tensor, float32. Raises CheckpointError."""
        return np.concatenate(list(self.blocks()))


@dataclass(frozen=True, slots=True)
class RowsView:
    """Some rows of a matrix, by increasing ``ids``, and perhaps transposed. They are read into memory at once."""

    name: str
    source: TensorView
    ids: tuple[int, ...]
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kept rows."""
        shape = (len(self.ids), self.source.shape[1])
        return shape[::-1] if self.transposed else shape

    def blocks(self) -> Iterator[Float32Array]:
        """One block with every kept row, float32. Raises CheckpointError."""
        kept, first, ids = [], 0, np.array(self.ids)
        for block in self.source.blocks():
            kept.append(block[ids[(ids >= first) & (ids < first + len(block))] - first])
            first += len(block)
        rows = np.concatenate(kept)
        yield _transposed(rows) if self.transposed else rows

    def read(self) -> Float32Array:
        """The whole tensor, float32. Raises CheckpointError."""
        return next(self.blocks())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose config has been checked; tensors are read on demand."""

    directory: Path
    config: Config
    tensor_files: Mapping[str, str]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read the configs and the names of all tensors.

        Raises:
            CheckpointError: a file or field is missing, damaged, contradictory or not supported.
        """
        if not directory.is_dir():
            raise CheckpointError(f"no checkpoint directory at {directory}; give --checkpoint a Hugging Face directory")
        config = Config.read(directory)
        checkpoint = cls(directory, config, _list_tensors(directory))
        checkpoint._refuse_unread_tensors()
        return checkpoint

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes."""
        return self.config.spec

    @property
    def exits(self) -> tuple[int, ...]:
        """The exits that the config records; none in a target."""
        return self.config.exits

    def bytes_of(self, spec: ModelSpec) -> int:
        """Bytes that the tensors of ``spec``, checked by ``check_tensors``, take in the checkpoint's files."""
        total = 0
        for name, shape in checkpoint_shapes(spec).items():
            with open_safetensors(self.directory / self.tensor_files[name]) as tensors:
                width = 4 if tensors.get_slice(name).get_dtype() == "F32" else 2
            total += int(np.prod(shape)) * width
        return total

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
            with open_safetensors(self.directory / file) as tensors:
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

    def view(self, name: str, transposed: bool = False, heads: tuple[int, ...] = ()) -> TensorView:
        """A tensor of ``checkpoint_shapes``, to be read in blocks; its query heads, if any, in the order ``heads``."""
        shape, axis = checkpoint_shapes(self.spec)[name], query_head_axis(name)
        order = HeadOrder(heads, axis) if heads and axis is not None else None
        path = self.directory / self.tensor_files[name]
        return TensorView(path, name, shape[::-1] if transposed else shape, transposed, order)

    def joined(
        self, name: str, parts: Sequence[str], transposed: bool = False, heads: tuple[int, ...] = ()
    ) -> JoinedView:
        """Several tensors side by side, under a name of their own; query heads in the order ``heads``."""
        return JoinedView(name, tuple(self.view(part, transposed, heads) for part in parts))

    def read(self, name: str) -> Float32Array:
        """One tensor as float32, in its stored shape. Raises CheckpointError."""
        return self.view(name).read()

    def _refuse_unread_tensors(self) -> None:
        """Refuse a tensor that the config does not mention: leaving it out would change the model."""
        # Where the head is the embedding, a copy of it may be stored too.
        known = {*checkpoint_shapes(self.spec), LM_HEAD}
        for name in self.tensor_files:
            if name not in known and not name.endswith(RECOMPUTED):
                raise CheckpointError(
                    f"{self.directory} holds {name}, which is no part of a {self.spec.num_hidden_layers}-layer model of"
                    " its model_type; config.json and weights do not belong together"
                )


def _rows_of_a_block(shape: tuple[int, ...]) -> int:
    return max(1, BLOCK_NUMBERS * shape[0] // max(1, int(np.prod(shape))))


def _transposed(array: Float32Array) -> Float32Array:
    """A contiguous transpose, made in strips that fit a processor's cache: four times as fast as in one piece."""
    result = np.empty(array.shape[::-1], array.dtype)
    for first in range(0, len(array), STRIP_ROWS):
        result[:, first : first + STRIP_ROWS] = array[first : first + STRIP_ROWS].T
    return result


def check_tokenizer(path: Path, spec: ModelSpec) -> None:
    """Check that ``tokenizer.json`` loads and that the model has a row for each of its tokens.

    Raises:
        CheckpointError: it does not, or it is not there.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy the tokenizer that the model was trained with")
    refuse_foreign_link(path)
    vocabulary = load_tokenizer(path, CheckpointError).get_vocab(with_added_tokens=True)
    largest = max(vocabulary.values(), default=0)
    if largest >= spec.vocab_size:
        raise CheckpointError(
            f"{path} has token id {largest}, beyond the model's vocab_size {spec.vocab_size}; "
            "take the tokenizer that the model was trained with"
        )


def open_safetensors(path: Path) -> Any:
    """A safetensors file, as NumPy arrays. Raises CheckpointError."""
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({cause}); copy it again") from cause


def _list_tensors(directory: Path) -> dict[str, str]:
    """Tensor name -> file name, from the index of a sharded checkpoint or from the single file."""
    index = directory / INDEX_FILE
    if (directory / SINGLE_FILE).is_file():
        refuse_foreign_link(directory / SINGLE_FILE)
        with open_safetensors(directory / SINGLE_FILE) as tensors:
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
        refuse_foreign_link(directory / file)
    return files
