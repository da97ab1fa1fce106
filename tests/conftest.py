"""Small random-weight checkpoints that share one tokenizer, and the bundles built from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 300
EXITS = (2, 4, 6)
MAX_LENGTH = 256
GROWTH = 0.3
"""Size of what the grown layers add: enough that the target now and then disagrees with the draft."""
CORPUS = ["the draft proposes and the target disposes", "a tree of tokens is verified in one call", "the other one"]


def write_tokenizer(directory: Path) -> None:
    """A byte-level BPE whose token 0 begins and ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT).save_pretrained(
        directory
    )


def llama_config(**changes: object) -> LlamaConfig:
    """The draft's sizes; a test changes what it needs."""
    from transformers import LlamaConfig

    sizes: dict[str, object] = {
        "hidden_size": 64,
        "num_hidden_layers": EXITS[-1],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": MAX_LENGTH,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return LlamaConfig(**(sizes | changes))


def random_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """Random weights, scaled so that the next token's distribution is far from uniform."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 2:
                    scale = 0.35 if "embed" in name or "lm_head" in name else weight.shape[1] ** -0.5
                    weight.normal_(0.0, scale)
                else:
                    weight.uniform_(0.7, 1.3)
    return model


def grown_model(draft: LlamaForCausalLM, layers: int, seed: int) -> LlamaForCausalLM:
    """The draft with layers added that change its answer only now and then."""
    import torch

    model = random_model(llama_config(num_hidden_layers=layers), seed)
    model.load_state_dict(draft.state_dict(), strict=False)
    with torch.no_grad():
        for layer in model.model.layers[len(draft.model.layers) :]:
            layer.self_attn.o_proj.weight *= GROWTH
            layer.mlp.down_proj.weight *= GROWTH
    return model


def save_checkpoint(model: LlamaForCausalLM, directory: Path, exits: tuple[int, ...] = ()) -> Path:
    """Save in bf16 with the tokenizer, as trained checkpoints are."""
    import torch
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    if exits:
        model.config.exits = list(exits)
    model.to(torch.bfloat16).save_pretrained(directory)
    GenerationConfig(bos_token_id=0, eos_token_id=0).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint directories ``draft``, ``target`` (grown from the draft) and ``other`` (unrelated weights)."""
    import torch

    torch.set_num_threads(1)  # these models are too small to share
    root = tmp_path_factory.mktemp("checkpoints")
    draft = random_model(llama_config(), seed=1)
    target = grown_model(draft, layers=9, seed=2)
    other = random_model(
        llama_config(
            hidden_size=96, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=3, tie_word_embeddings=True
        ),
        seed=3,
    )
    return {
        "draft": save_checkpoint(draft, root / "draft", EXITS),
        "target": save_checkpoint(target, root / "target"),
        "other": save_checkpoint(other, root / "other"),
    }


@pytest.fixture(scope="session")
def draft_checkpoint(checkpoints: dict[str, Path]) -> Path:
    """A sorted draft: 6 layers, exits 2, 4, 6."""
    return checkpoints["draft"]


@pytest.fixture(scope="session")
def target_checkpoint(checkpoints: dict[str, Path]) -> Path:
    """A target of 9 layers that often agrees with the draft."""
    return checkpoints["target"]


@pytest.fixture(scope="session")
def other_target_checkpoint(checkpoints: dict[str, Path]) -> Path:
    """A wider target of 3 layers, its head tied, that has nothing to do with the draft but the tokenizer."""
    return checkpoints["other"]


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's bundles are built."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def draft_bundle(draft_checkpoint: Path, engines: Path) -> Path:
    """The draft's bundle."""
    from export import build

    out = engines / "draft.engine"
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(out), "--no-parity"])
    return out


@pytest.fixture(scope="session")
def int8_draft_bundle(draft_checkpoint: Path, engines: Path) -> Path:
    """The draft with rows and weights in int8."""
    from export import build

    out = engines / "draft.int8.engine"
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(out), "--no-parity", "--precision", "int8"])
    return out


@pytest.fixture(scope="session")
def int8_target_bundle(target_checkpoint: Path, engines: Path) -> Path:
    """The target with rows and weights in int8."""
    from export import target

    out = engines / "target.int8.engine"
    target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), "--no-parity", "--precision", "int8"])
    return out


@pytest.fixture(scope="session")
def trt_draft_graphs(draft_checkpoint: Path, engines: Path) -> Path:
    """The draft in the form that TensorRT compiles, fp16, without plans."""
    from export import build

    out = engines / "draft.trt.engine"
    form = ["--backend", "tensorrt", "--no-compile"]
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(out), "--no-parity", *form])
    return out


@pytest.fixture(scope="session")
def target_bundle(target_checkpoint: Path, engines: Path) -> Path:
    """The bundle of the target that often agrees with the draft."""
    return _build_target(target_checkpoint, engines / "target.engine")


@pytest.fixture(scope="session")
def other_target_bundle(other_target_checkpoint: Path, engines: Path) -> Path:
    """The bundle of the unrelated target."""
    return _build_target(other_target_checkpoint, engines / "other.engine")


@pytest.fixture(scope="session")
def unshared_target_bundle(tmp_path_factory: pytest.TempPathFactory, engines: Path) -> Path:
    """A small target whose query heads share no key head: a row alone in its lane has other bits than among others."""
    model = random_model(llama_config(num_hidden_layers=2, num_key_value_heads=4), seed=9)
    return _build_target(save_checkpoint(model, tmp_path_factory.mktemp("unshared")), engines / "unshared.engine")


def _build_target(checkpoint: Path, out: Path) -> Path:
    from export import target

    target.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity"])
    return out
