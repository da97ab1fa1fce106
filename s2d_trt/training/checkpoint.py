"""Reading and writing Hugging Face checkpoint directories; a directory appears only when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from s2d_trt.errors import CheckpointError, OptionError
from s2d_trt.families import FAMILIES, SCALINGS
from s2d_trt.files import publishing_directory
from s2d_trt.reading import read_object
from s2d_trt.tokenizer import load_tokenizer
from s2d_trt.training.conversations import Message, Render
from s2d_trt.training.corpus import END_OF_TEXT

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer, the ids that begin and end a text, and ``source``, the checkpoint it was read from, if any.

    ``chat_template`` is a Jinja file that is used instead of the checkpoint's own template.
    """

    tokenizer: Tokenizer
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    source: Path | None = None
    chat_template: Path | None = None

    @classmethod
    def trained(cls, tokenizer: Tokenizer) -> Vocabulary:
        """For a tokenizer from ``corpus.train_tokenizer``, whose ``END_OF_TEXT`` begins and ends a text."""
        end = tokenizer.token_to_id(END_OF_TEXT)
        return cls(tokenizer, end, end)

    @classmethod
    def load(cls, directory: Path, chat_template: Path | None = None) -> Vocabulary:
        """Read the tokenizer of a checkpoint.

        Raises:
            CheckpointError: ``tokenizer.json`` is missing or damaged.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{directory} has no tokenizer.json; name a checkpoint directory that has one")
        tokenizer = load_tokenizer(path, CheckpointError)
        ids: dict[str, Any] = {}
        for name in ("config.json", "generation_config.json"):
            ids |= {key: value for key, value in _read_json(directory / name).items() if key.endswith("os_token_id")}
        bos = ids.get("bos_token_id")
        bos = bos if isinstance(bos, int) else None
        return cls(tokenizer, bos, ids.get("eos_token_id"), directory, chat_template)

    @property
    def size(self) -> int:
        """Number of rows that the embedding needs: the largest id plus one."""
        return 1 + max(self.tokenizer.get_vocab().values())

    def chat_renderer(self) -> Render:
        """A function that renders messages to text with the chat template.

        Raises:
            OptionError: there is no chat template, or it cannot be read.
        """
        if self.source is None:
            raise OptionError(
                "conversations need a chat template; name a model with --from-target, --teacher or --tokenizer"
            )
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(self.source, local_files_only=True)
            if self.chat_template is not None:
                tokenizer.chat_template = self.chat_template.read_text(encoding="utf-8")
        except (OSError, ValueError) as cause:
            raise OptionError(f"the chat template of {self.source} cannot be read ({cause}); mend it") from cause
        if not tokenizer.chat_template:
            raise OptionError(f"{self.source} has no chat template; give one with --chat-template FILE")

        def render(messages: Sequence[Message], answer: bool) -> str:
            return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer)

        return render

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files; files that were read from a checkpoint are copied unchanged."""
        if self.source is None:
            PreTrainedTokenizerFast(
                tokenizer_object=self.tokenizer,
                bos_token=END_OF_TEXT,
                eos_token=END_OF_TEXT,
                clean_up_tokenization_spaces=False,
            ).save_pretrained(directory)
            return
        for name in TOKENIZER_FILES:
            if (self.source / name).is_file():
                shutil.copyfile(self.source / name, directory / name)
        if self.chat_template is not None:
            shutil.copyfile(self.chat_template, directory / "chat_template.jinja")


def publish(
    model: PreTrainedModel, vocabulary: Vocabulary, exits: Sequence[int], out: Path, documents: Mapping[str, str]
) -> None:
    """Write config, bf16 weights, tokenizer, generation config and ``documents`` (text by file name) to ``out``.

    An existing ``out`` is replaced when the new one is complete. The model is converted to bf16.

    Raises:
        OptionError: the disk is full or cannot be written; ``out`` is unchanged.
    """
    model.config.exits = list(exits)
    model.generation_config = GenerationConfig(
        bos_token_id=vocabulary.bos_token_id, eos_token_id=vocabulary.eos_token_id
    )
    try:
        with publishing_directory(out, replace=True) as scratch:
            model.to(torch.bfloat16).save_pretrained(scratch)
            vocabulary.save(scratch)
            for name, text in documents.items():
                (scratch / name).write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as cause:
        raise OptionError(f"{out} cannot be written ({cause}); make room there or choose another --out") from cause


def load(directory: Path, layers: int | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Read a checkpoint, or its first ``layers`` layers with embedding, final norm and head.

    Raises:
        CheckpointError: transformers cannot read the directory, weights are missing, or it has fewer layers.
    """
    inspect(directory)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        if layers is not None:
            _keep_layers(config, layers, directory)
        model, loading = AutoModelForCausalLM.from_pretrained(
            directory, config=config, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except CheckpointError:
        raise
    except Exception as cause:  # transformers and safetensors raise many types
        raise CheckpointError(f"{directory} cannot be read ({cause}); copy the checkpoint again") from cause
    if loading["missing_keys"]:
        # transformers fills missing weights with random numbers.
        raise CheckpointError(f"{directory} lacks {min(loading['missing_keys'])}; copy the checkpoint again")
    return model


def inspect(directory: Path) -> None:
    """Check from config and file names that ``load`` can read ``directory``, before hours of training.

    Raises:
        CheckpointError: config or weights are missing or not supported.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{directory} has no config.json; name a Hugging Face checkpoint directory")
    config = _read_json(path)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(f"{path} describes a model of type {kind}; supported are {', '.join(FAMILIES)}")
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name) or {}
        scaling = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
        if scaling not in SCALINGS:
            raise CheckpointError(
                f"{path} scales rotary positions by {scaling!r}, which no bundle can; supported are"
                f" {', '.join(SCALINGS)}"
            )
    if any(directory.glob("*.safetensors")):
        return
    if any(directory.glob("*.bin")):
        raise CheckpointError(f"{directory} holds pickled weights, which can run code; save them as safetensors")
    raise CheckpointError(f"{directory} holds no *.safetensors; copy the checkpoint again")


def load_frozen(directory: Path) -> PreTrainedModel:
    """Read a checkpoint for inference only: in bf16 if there is a GPU, to save its memory, else in fp32."""
    return load(directory, dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32).eval()


def _keep_layers(config: Any, layers: int, directory: Path) -> None:
    if layers > config.num_hidden_layers:
        raise CheckpointError(f"{directory} has {config.num_hidden_layers} layers; --layers {layers} asks for more")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or an empty one if the file does not exist. Raises CheckpointError."""
    return read_object(path, CheckpointError, "copy the checkpoint again") if path.exists() else {}
