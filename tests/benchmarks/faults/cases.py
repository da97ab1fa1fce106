"""Bad input by kind: values, files and commands, each of which once brought a traceback, a hang or silence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

INFINITE, NAN, HUGE, LONG = float("inf"), float("nan"), 10**12, "n" * 300
DEEP = "[" * 100_000 + "]" * 100_000


def shown(value: Any) -> str:
    """A value as a title has it."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) < 40 else f"{text[:20]}... ({len(text)} characters)"


MANIFESTS: list[tuple[str, Any]] = [
    ("", DEEP), ("", "{"), ("", "[]"), ("graphs", []), ("graphs", {"target": LONG}), ("graphs", {"target": "../x"}),
    ("model.head_dim", 0), ("model.head_dim", 7), ("model.num_key_value_heads", 1), ("model.num_hidden_layers", 5),
    ("model.num_hidden_layers", 10**9), ("model.vocab_size", -1), ("model.vocab_size", 10), ("model.vocab_size", HUGE),
    ("model.rms_norm_eps", 1e300), ("model.rope_theta", -1.0), ("cache.max_length", 0), ("cache.max_length", "512"),
    ("cache.max_length", HUGE), ("cache.max_length", 4096), ("cache.layout", "x"), ("weight_format", "x"),
    ("precision", "x"), ("head_top_k", -1), ("exits", "6,9"), ("exits", [1]), ("name", 5), ("name", "\x1b[31mred"),
    ("name", "a/b"), ("name", ""), ("tokenizer.eos_token_ids", [-1]), ("tokenizer.eos_token_ids", ["a"]),
    ("tokenizer.eos_token_ids", [10**9]), ("files", []), ("files", {}), ("weights", LONG), ("lanes", [0]),
    ("lanes", [1, 10**9]), ("kind", "draft"), ("schema", 99), ("model", None),
]  # fmt: skip
"""Keys, separated by points, and the value that they get; all else stays right."""

CONFIGS: list[tuple[str, str, Any]] = [
    ("config.json", "", DEEP), ("config.json", "", "null"), ("config.json", "num_hidden_layers", 10**9),
    ("config.json", "hidden_size", 10**11), ("config.json", "vocab_size", -1), ("config.json", "rms_norm_eps", 1e300),
    ("config.json", "rms_norm_eps", 1e-300), ("config.json", "rms_norm_eps", INFINITE),
    ("config.json", "rope_scaling", {"rope_type": "linear", "factor": INFINITE}),
    ("config.json", "rope_scaling", {"rope_type": "llama3", "factor": 1e308, "low_freq_factor": 1.0,
                                     "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
    ("config.json", "rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
    ("config.json", "max_position_embeddings", 10**18), ("config.json", "max_position_embeddings", "many"),
    ("config.json", "sliding_window", 0), ("config.json", "model_type", "mamba"), ("config.json", "head_dim", 0),
    ("config.json", "hidden_act", "relu"), ("config.json", "attention_bias", True),
    ("generation_config.json", "", DEEP), ("generation_config.json", "eos_token_id", []),
    ("generation_config.json", "eos_token_id", None), ("generation_config.json", "eos_token_id", [-5]),
    ("generation_config.json", "eos_token_id", "x"), ("tokenizer_config.json", "", "[]"),
    ("tokenizer_config.json", "", DEEP), ("tokenizer_config.json", "chat_template", 5),
    ("tokenizer.json", "", "{}"), ("tokenizer.json", "", DEEP),
    ("tokenizer.json", "truncation", {"max_length": 64, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}),
    ("tokenizer.json", "padding", {"strategy": {"Fixed": 400}, "direction": "Right", "pad_to_multiple_of": None,
                                   "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}),
    ("tokenizer.json", "normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 10**6}),
]  # fmt: skip
"""A file of the checkpoint, keys and the value that they get."""


def _replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(checkpoint: Path) -> None:
        (checkpoint / name).unlink(missing_ok=True)
        make(checkpoint / name)

    return change


def _tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def spoil(checkpoint: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(checkpoint / "model.safetensors")
        change(tensors)
        save_file(tensors, checkpoint / "model.safetensors")

    return spoil


def _shard(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": LONG}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


CHECKPOINTS: list[tuple[str, Callable[[Path], object]]] = [
    ("config.json is a FIFO", _replace("config.json", os.mkfifo)),
    ("config.json is a folder", _replace("config.json", lambda path: path.mkdir())),
    ("config.json is /dev/zero", _replace("config.json", lambda path: path.symlink_to("/dev/zero"))),
    ("model.safetensors is empty", _replace("model.safetensors", lambda path: path.touch())),
    ("model.safetensors claims a header of 2^63", _replace("model.safetensors", lambda p: p.write_bytes(b"\xff" * 64))),
    ("only pickled weights", lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin")),
    ("a shard's name of 300 characters", _shard),
    ("lm_head.bias", _tensors(lambda all_: all_.update({"lm_head.bias": all_["model.norm.weight"]}))),
    ("a norm's bias", _tensors(lambda all_: all_.update({"model.norm.bias": all_["model.norm.weight"]}))),
    ("NaN in a layer", _tensors(lambda all_: all_["model.norm.weight"].fill(NAN))),
    ("infinity in a layer", _tensors(lambda all_: all_["model.norm.weight"].fill(INFINITE))),
    ("weights of 3e38", _tensors(lambda all_: [tensor.fill(3e38) for tensor in all_.values()])),
    ("weights of 0", _tensors(lambda all_: [tensor.fill(0) for tensor in all_.values()])),
    ("template is a link to /etc/passwd", _replace("chat_template.jinja", lambda p: p.symlink_to("/etc/passwd"))),
    ("tokenizer is a link to /etc/passwd", _replace("tokenizer.json", lambda path: path.symlink_to("/etc/passwd"))),
    ("no tokenizer", lambda path: (path / "tokenizer.json").unlink()),
]
"""What is done to a checkpoint's files."""

TEMPLATES: list[tuple[str, str]] = [
    ("division by zero", "{{ 1 / 0 }}"), ("overflow", "{{ 10.0 ** 400 }}"), ("a huge power", "{{ 9 ** 9 ** 9 }}"),
    ("recursion", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), ("no content", "{{ messages[9].content }}"),
    ("its own error", "{{ raise_exception('two\nlines') }}"), ("syntax", "{% if %}"), ("unknown filter", "{{ 1 | x }}"),
    ("a text of 3 GB", "{{ 'x' * (3 * 10 ** 9) }}"), ("memory", "{{ range(99999999) | list | length }}"),
    ("an endless loop", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
    ("the sandbox", "{{ ''.__class__.__mro__[1].__subclasses__() }}"), ("an include", "{% include '/etc/passwd' %}"),
    ("empty", ""), ("deep", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"), ("half a character", "{{ '\\ud800' }}"),
]  # fmt: skip

_RUN = ("runtime.run", "--target", "TARGET", "--draft", "DRAFT", "--prompt", "a", "--max-new-tokens", "4")
_FILE = ("runtime.run", "--target", "TARGET", "--draft", "none", "--prompt-file")
_SMALL = ("--vocab-size", "300", "--hidden", "32", "--heads", "2", "--kv-heads", "1", "--ffn", "32", "--no-compile")
_ONCE = ("--steps", "1", "--seq-length", "16", "--batch", "1", "--micro-batch", "1")
_SOFT = ("s2d_trt.training.soft", "--data", "CHECKPOINT/README.md", "--out", "PLACE/out", "--exits", "1,2")
_BUILD = ("export.build", "--checkpoint", "CHECKPOINT", "--out", "PLACE/x.engine", "--no-parity")
_GROW = ("tests.benchmarks.grow", "--checkpoint", "CHECKPOINT", "--out", "PLACE/out")

COMMANDS: list[tuple[object, ...]] = [
    *((*_RUN, *more) for more in (
        ("--threads", "10000"), ("--threads", "0"), ("--thresholds", "nan,0.5,0"), ("--thresholds", "inf,0.5,0"),
        ("--thresholds", "0.5"), ("--tree-depth", "0"), ("--tree-depth", "-1"), ("--tree-nodes", "1000000"),
        ("--top-k", 10**21), ("--top-p", "nan"), ("--min-p", "2"), ("--temperature", "nan"), ("--temperature", "1,1"),
        ("--temperature", "-1"), ("--seed", 2**70), ("--seed", "-1"), ("--seed", "x"), ("--no-cuda-graphs",),
        ("--device", "cuda:99"), ("--device", "tpu"), ("--stop", ""), ("--stop", "x" * 10**5), ("--min-tokens", "-1"),
        ("--min-tokens", "9"), ("--regex", "(((("), ("--regex", "(a{1,99999}){1,99999}"), ("--frequency-penalty", "9"),
        ("--repetition-penalty", "0"), ("--confidence", "x"), ("--profile", "/dev/zero"), ("--profile", "no.json"),
        ("--json-schema", "/dev/zero"), ("--grammar", "/etc/passwd"), ("--max-new-tokens", HUGE), ("--chat",),
        ("--system", "a"), ("--lanes", "9"), ("--debug", "--nonsense"),
    )),
    (*_FILE, "/dev/zero"), (*_FILE, "/dev/full"), (*_FILE, "/"), (*_FILE, LONG), (*_FILE, "TARGET/weights.bin"),
    (*_FILE, "no such file"), ("runtime.run", "--target", LONG, "--prompt", "a"),
    ("runtime.run", "--target", "/dev/null", "--prompt", "a"), ("runtime.run", "--target", "", "--prompt", "a"),
    ("runtime.run", "--target", "DRAFT", "--prompt", "a"), ("runtime.run", "--target", "no/such", "--prompt", "a"),
    ("runtime.run", "--target", "TARGET", "--draft", "TARGET", "--prompt", "a"),
    ("runtime.run", "--target", "TARGET", "--draft", "DRAFT", "--prompt", "\udcff"),
    ("runtime.run", "--target", "TARGET", "--draft", "DRAFT", "--prompts", "/dev/zero"),
    ("runtime.bench", "--target", "TARGET", "--draft", "DRAFT", "--prompts", "demo", "--limit", "1", "--json",
     "/dev/full", "--max-new-tokens", "4"),
    ("runtime.bench", "--target", "TARGET", "--draft", "DRAFT", "--prompts", "demo", "--temperature", "1,1"),
    ("runtime.bench", "--target", "TARGET,TARGET", "--prompts", "/dev/null"),
    *((*_SOFT, *_SMALL, *_ONCE, *more) for more in (
        ("--hidden", 10**11), ("--layers", 10**9), ("--vocab-size", HUGE), ("--lr", "nan"), ("--lr", "inf"),
        ("--lr", "1e30", "--steps", "20"), ("--seed", 2**70), ("--seed", "-1"), ("--held-out-share", "1"),
        ("--held-out-share", "nan"), ("--exit-weights", "inf,1"), ("--exit-weights", "nan,1"), ("--align", "nan"),
        ("--held-out", "nomatch*"), ("--data", "/dev/zero"), ("--data", "/dev/null"), ("--out", f"PLACE/{LONG}"),
        ("--chat-template", "missing.jinja"), ("--tokenizer", "/dev/null"), ("--exits", "2,1"), ("--exits", "0"),
        ("--heads", "3"), ("--batch", "3", "--micro-batch", "2"), ("--seq-length", 10**9), ("--from-target", "/"),
    )),
    *((*_BUILD, *more) for more in (
        ("--exits", "0"), ("--exits", "99"), ("--exits", "2,1"), ("--tree-nodes", 10**6), ("--head-tokens", 10**9),
        ("--head-tokens", "9", "--calibration", "TARGET/weights.bin"), ("--calibration", "/dev/zero"),
        ("--out", f"PLACE/{LONG}"), ("--out", "CHECKPOINT/x.engine"), ("--out", "/dev/null"), ("--lanes", "10000"),
        ("--checkpoint", "meta-llama/Llama-3-8B"), ("--checkpoint", "/dev/null"), ("--precision", "int9"),
    )),
    *((*_GROW, *more) for more in (
        ("--layers", 10**9), ("--hidden", 10**11), ("--seed", 2**70), ("--seed", "-1"), ("--layers", "1"), (),
    )),
]  # fmt: skip
"""Module and arguments; TARGET, DRAFT and CHECKPOINT stand for paths, PLACE for a folder of the case's own."""
