"""Reading and writing standard Hugging Face directories; writing is whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from s2d_trt.errors import CheckpointError
from s2d_trt.training.corpus import END_OF_TEXT

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer, the ids that begin and end a text, and the checkpoint it was read from, if any."""

    tokenizer: Tokenizer
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    source: Path | None = None

    @classmethod
    def trained(cls, tokenizer: Tokenizer) -> Vocabulary:
        """That of a tokenizer from ``corpus.train_tokenizer``: ``END_OF_TEXT`` begins and ends a text."""
        end = tokenizer.token_to_id(END_OF_TEXT)
        return cls(tokenizer, end, end)

    @classmethod
    def load(cls, directory: Path) -> Vocabulary:
        """Read the tokenizer of a checkpoint.

        Raises:
            CheckpointError: ``tokenizer.json`` is missing or damaged.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{directory} has no tokenizer.json; name a checkpoint directory that has one")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as cause:  # the library raises nothing narrower
            raise CheckpointError(f"{path} cannot be read ({cause}); copy it again") from cause
        # A file may hold settings for inference, which would cut documents short.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ids: dict[str, Any] = {}
        for name in ("config.json", "generation_config.json"):
            ids |= {key: value for key, value in _read_json(directory / name).items() if key.endswith("os_token_id")}
        bos = ids.get("bos_token_id")
        return cls(tokenizer, bos if isinstance(bos, int) else None, ids.get("eos_token_id"), directory)

    @property
    def size(self) -> int:
        """Rows that an embedding needs: one above the largest id."""
        return 1 + max(self.tokenizer.get_vocab().values())

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files; those that were read are copied unchanged."""
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


def publish(model: LlamaForCausalLM, vocabulary: Vocabulary, exits: Sequence[int], out: Path, card: str) -> None:
    """Write config, bf16 weights, tokenizer, generation config and ``README.md`` (the model card) to ``out``.

    An existing directory is replaced at the end. The model is bf16 afterwards.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    partial.chmod(0o755)
    try:
        model.config.exits = list(exits)
        model.to(torch.bfloat16).save_pretrained(partial)
        vocabulary.save(partial)
        GenerationConfig(bos_token_id=vocabulary.bos_token_id, eos_token_id=vocabulary.eos_token_id).save_pretrained(
            partial
        )
        (partial / "README.md").write_text(card, encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(directory: Path) -> LlamaForCausalLM:
    """Read a Llama checkpoint as fp32.

    Raises:
        CheckpointError: the directory is not one that transformers can read, or lacks weights.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{directory} has no config.json; name a Hugging Face checkpoint directory")
    kind = _read_json(path).get("model_type")
    if kind != "llama":
        raise CheckpointError(f"{path} describes a model of type {kind}; a teacher must be of type llama")
    try:
        model, loading = LlamaForCausalLM.from_pretrained(
            directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except Exception as cause:  # transformers and safetensors each raise kinds of their own
        raise CheckpointError(f"{directory} cannot be read ({cause}); copy the checkpoint again") from cause
    if loading["missing_keys"]:
        # transformers would fill them with random numbers.
        raise CheckpointError(f"{directory} lacks {min(loading['missing_keys'])}; copy the checkpoint again")
    return model


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as cause:
        raise CheckpointError(f"{path} cannot be read ({cause}); copy the checkpoint again") from cause
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object; copy the checkpoint again")
    return content
