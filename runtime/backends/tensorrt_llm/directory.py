"""A TensorRT-LLM engine directory, checked before anything is loaded; messages name the flag that mends a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, convert

from s2d_trt.errors import BundleError
from s2d_trt.manifest import TokenizerSpec
from s2d_trt.ranges import Slots, TokenId, Vocabulary
from s2d_trt.reading import read_json, read_object, reading
from s2d_trt.tokenizer import tokenizer_fingerprint

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
GENERATION_CONFIG = "generation_config.json"
REMEDY = "copy or build the engine again"
Ranks = Annotated[int, Meta(ge=1, le=2**12)]
_EXTERNAL = (2, "2", "DRAFT_TOKENS_EXTERNAL", "draft_tokens_external")
"""How ``SpeculativeDecodingMode.DRAFT_TOKENS_EXTERNAL``, a flag enumeration, has been written."""


@dataclass(frozen=True, slots=True)
class EngineDirectory:
    """What ``config.json`` says of an engine.

    ``max_length`` is the longest text. Each step sends the whole text as its prompt, so max_input_len bounds it, and
    max_seq_len must also hold the draft and the target's own token. ``ranks`` is the number of GPUs.
    """

    path: Path
    version: str
    vocab_size: int
    max_draft_len: int
    max_length: int
    ranks: int
    tokenizer: TokenizerSpec

    @property
    def name(self) -> str:
        """The directory's name without ``.engine``."""
        return self.path.name.removesuffix(".engine")

    @property
    def config_text(self) -> str:
        """``config.json`` as it is."""
        return (self.path / CONFIG).read_text(encoding="utf-8")

    @classmethod
    def open(cls, path: Path) -> EngineDirectory:
        """Read and check.

        Raises:
            BundleError: a file is missing or damaged, or the engine was built without what external drafts need.
        """
        config = _read_json(path / CONFIG)
        try:
            build, model = config["build_config"], config["pretrained_config"]
            if problems := list(_problems(build)):
                raise BundleError(f"{path} cannot verify drafts: {'; '.join(problems)}; run trtllm-build again so")
            draft, longest_input, longest_text = (
                convert(build[name], Slots) for name in ("max_draft_len", "max_input_len", "max_seq_len")
            )
            ranks = convert(model.get("mapping", {}).get("world_size", 1), Ranks)
            longest = min(longest_input, longest_text - draft - 1)
            if longest < 2:
                raise BundleError(
                    f"{path} holds no text beside its draft (max_seq_len {build['max_seq_len']}, max_draft_len {draft},"
                    f" max_input_len {build['max_input_len']}); run trtllm-build again with --max_seq_len and"
                    " --max_input_len of the longest text"
                )
            _check_ranks(path, ranks)
            return cls(
                path,
                str(config["version"]),
                convert(model["vocab_size"], Vocabulary),
                draft,
                longest,
                ranks,
                _read_tokenizer(path),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise BundleError(
                f"{path / CONFIG} is not that of a TensorRT-LLM engine ({cause!r}); copy or build the engine again"
            ) from cause


def is_engine_directory(path: Path) -> bool:
    """Whether a directory's ``config.json`` describes an engine and not a checkpoint."""
    try:
        return "build_config" in read_json(path / CONFIG)
    except (OSError, ValueError, TypeError):
        return False


def _problems(build: Mapping[str, Any]) -> Iterator[str]:
    """What the engine lacks, each with the flag of trtllm-build that adds it."""
    if int(build.get("max_draft_len") or 0) < 1:
        yield "max_draft_len is 0: --max_draft_len 8"
    mode = build.get("speculative_decoding_mode")
    if mode not in _EXTERNAL:
        yield f"speculative_decoding_mode is {mode}: --speculative_decoding_mode draft_tokens_external"
    plugins = build.get("plugin_config", {})
    if not plugins.get("use_paged_context_fmha"):
        yield "use_paged_context_fmha is off: --use_paged_context_fmha enable"
    if plugins.get("paged_kv_cache") is False or build.get("kv_cache_type", "PAGED") not in ("PAGED", "paged"):
        yield "the KV cache is not paged: --kv_cache_type paged"
    if not plugins.get("remove_input_padding", True):
        yield "remove_input_padding is off: --remove_input_padding enable"
    if not plugins.get("gpt_attention_plugin", True):
        yield "gpt_attention_plugin is off: --gpt_attention_plugin auto"


def _check_ranks(path: Path, ranks: int) -> None:
    missing = [name for name in (f"rank{rank}.engine" for rank in range(ranks)) if not (path / name).is_file()]
    if missing:
        raise BundleError(
            f"{path} lacks {', '.join(missing[:9])} of the engines for its {ranks} GPUs; copy the whole directory, or"
            " build it again"
        )


def _read_tokenizer(path: Path) -> TokenizerSpec:
    for name in (TOKENIZER, GENERATION_CONFIG):
        if not (path / name).is_file():
            raise BundleError(f"{path} has no {name}; copy it there from the checkpoint that the engine was built from")
    generation = _read_json(path / GENERATION_CONFIG)
    first, end = generation.get("bos_token_id"), generation.get("eos_token_id")
    ends = end if isinstance(end, list) else [] if end is None else [end]
    with reading(path / GENERATION_CONFIG, BundleError, REMEDY):
        ids = convert(first, TokenId | None), convert(ends, tuple[TokenId, ...])
    return TokenizerSpec(TOKENIZER, tokenizer_fingerprint(path / TOKENIZER, BundleError), *ids)


def _read_json(path: Path) -> dict[str, Any]:
    return read_object(path, BundleError, REMEDY)
