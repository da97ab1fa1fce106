"""Whatever is wrong with a file or a body, it is read, or refused in one line: no other exception, no delay, no trace.

The cases are the same at every run. ``S2D_FUZZ=20`` tries twenty times as many.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.checkpoint import Checkpoint, check_tokenizer
from export.tensors import checkpoint_shapes
from runtime import evaluate
from runtime.backends.placement import Placement
from runtime.backends.tensorrt_llm.directory import EngineDirectory
from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.costs import WIDTHS
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.measurement import read_costs
from runtime.drafting.options import Policy
from runtime.drafting.profile import Profile
from runtime.drafting.static import StaticTree
from runtime.evaluation.comparison import generate
from runtime.evaluation.matrix.comparing import changes
from runtime.evaluation.matrix.figures import report_lines
from runtime.evaluation.matrix.plan import Matrix
from runtime.evaluation.matrix.runs import read_runs
from runtime.evaluation.matrix.spec_bench import answer_lines
from runtime.evaluation.prompts import load_prompts
from runtime.evaluation.report import plots_of_runs
from runtime.evaluation.roofline import Hardware
from runtime.sampling.options import Sampling
from runtime.serving.errors import ApiError
from runtime.serving.fields import ChatBody, CompletionBody, read_body
from runtime.targets.target import Target
from runtime.text.chat import ChatTemplate, TemplateSource
from runtime.tree.shape import TreeShape
from s2d_trt.bundle import MANIFEST, Bundle
from s2d_trt.cli import one_line
from s2d_trt.errors import BundleError, S2DError
from s2d_trt.fields import is_plain
from s2d_trt.reading import parse_json
from s2d_trt.tokenizer import load_tokenizer
from tests.faults.mutations import MANY, Mutate, mutated_bytes, mutated_json

LONGEST = 2.0
"""Seconds of the processor for one case."""


def fuzz(path: Path, cases: int, mutate: Mutate, read: Callable[[], object]) -> int:
    """Let ``read`` meet the file at ``path`` in many forms; how often it succeeded."""
    original, others, rng = path.read_bytes(), sorted(path.parent.rglob("*")), random.Random(cases)
    succeeded, said = 0, []
    for _ in range(cases * MANY):
        path.write_bytes(mutate(rng, original))
        began = time.process_time()
        try:
            read()
            succeeded += 1
        except S2DError as error:
            said.append(one_line(str(error)))
        except BaseException as error:
            path.with_name("failing-case").write_bytes(path.read_bytes())
            raise AssertionError(f"{type(error).__name__} for the file in {path.parent}/failing-case") from error
        assert time.process_time() - began < LONGEST, path.read_bytes()[:2000]
        assert sorted(path.parent.rglob("*")) == others
    path.write_bytes(original)
    assert said
    assert all(said)
    return succeeded


@pytest.fixture
def bundle(other_target_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(other_target_bundle, tmp_path / "target.engine"))


@pytest.fixture
def checkpoint(draft_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(draft_checkpoint, tmp_path / "checkpoint"))


def test_manifests(bundle: Path) -> None:
    fuzz(bundle / MANIFEST, 3000, mutated_json, lambda: Bundle.open(bundle))


def test_manifests_of_bundles_that_are_run(bundle: Path) -> None:
    def run() -> None:
        decoder = Decoder(Target.open(bundle, Placement(threads=1)))
        generate(decoder, [5, 9], Options(2, draft=False))

    assert fuzz(bundle / MANIFEST, 60, mutated_json, run) > 0


def test_configs(checkpoint: Path) -> None:
    def read() -> None:
        found = Checkpoint.open(checkpoint)
        found.check_tensors(checkpoint_shapes(found.spec))

    fuzz(checkpoint / "config.json", 1500, mutated_json, read)
    fuzz(checkpoint / "generation_config.json", 500, mutated_json, read)


def test_weights(checkpoint: Path) -> None:
    def header(rng: random.Random, data: bytes) -> bytes:
        size = 8 + int.from_bytes(data[:8], "little")
        return mutated_bytes(rng, data[:size]) + data[size:]

    def read() -> None:
        found = Checkpoint.open(checkpoint)
        found.check_tensors(checkpoint_shapes(found.spec))
        found.read("model.norm.weight")

    fuzz(checkpoint / "model.safetensors", 1000, header, read)


def test_tokenizers(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec, path = Checkpoint.open(checkpoint).spec, checkpoint / "tokenizer.json"

    def read() -> None:
        check_tokenizer(path, spec)
        tokenizer = load_tokenizer(path, BundleError)
        tokenizer.decode(tokenizer.encode("the draft").ids)

    fuzz(path, 800, mutated_json, read)
    capfd.readouterr()  # the library prints a report where its own code panics


def test_configurations_of_tokenizers(bundle: Path) -> None:
    path = bundle / "tokenizer_config.json"
    path.write_text('{"chat_template": [{"name": "default", "template": "x"}], "bos_token": {"content": "<s>"}}')
    target = Target.open(bundle, Placement(threads=1))
    target.companion = {"tokenizer_config.json": path}.get  # type: ignore[method-assign]
    fuzz(path, 500, mutated_json, lambda: TemplateSource.of(target))


def test_kept_costs(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    times = [1.0 + width for width in WIDTHS]
    path.write_text(
        json.dumps(
            {"verify": times, "segments": [times], "head": times, "verify_lanes": [[2, 1.0]], "segment_tokens": [0.0]}
        )
    )

    def read() -> None:
        try:
            costs = read_costs(parse_json(path.read_bytes()), 1)
        except ValueError as cause:
            raise S2DError(str(cause)) from cause
        if costs is None:
            raise S2DError("not usable")
        assert costs.verify_ms(100, 2) > 0
        assert costs.exit_ms(0, 300, 8) > 0

    assert fuzz(path, 1000, mutated_json, read) > 0


@pytest.mark.parametrize(
    "policy",
    [
        Policy(FixedThresholds((0.3, 0.6, 0.0)), TreeShape(5, 1, 7), lookup=True),
        Policy(StaticTree((0.2, 0.2, 0.0), "mean", {(0,): 0.8, (0, 1): 0.1, (1,): 0.05}, TreeShape(1, 4, 4))),
    ],
    ids=["fixed", "static"],
)
def test_profiles(tmp_path: Path, policy: Policy) -> None:
    path = tmp_path / "profile.json"
    Profile("target", "draft", policy, exact=True, evidence={"gain": 1.2}).write(path)
    fuzz(path, 400, mutated_json, lambda: Profile.read(path))


def test_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "def f("}\n{"turns": ["a", "b"], "category": "c"}\n')
    fuzz(path, 700, mutated_bytes, lambda: load_prompts(str(path)))


def test_run_files(tmp_path: Path, draft_bundle: Path, target_bundle: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "the draft", "category": "a"}\n{"prompt": "x", "category": "b"}\n')
    matrix = tmp_path / "matrix.toml"
    matrix.write_text(
        f'targets = ["{target_bundle}"]\ndrafts = ["{draft_bundle}"]\nprompts = "{tmp_path / "p.jsonl"}"\n'
        "max_new_tokens = 4\nthreads = 1\n[policies.published]\nthresholds = [0.5, 0.5, 0]\n"
    )
    assert evaluate.main([str(matrix), "--out", str(tmp_path / "runs")]) == 0
    (path,) = (tmp_path / "runs").iterdir()

    def read() -> None:
        (run,) = read_runs(path)
        report_lines(run)
        list(answer_lines(run, "drafted"))
        list(changes(run, run))
        list(plots_of_runs([run]))

    fuzz(path, 150, mutated_json, read)
    fuzz(matrix, 400, mutated_bytes, lambda: Matrix.read(matrix))


def test_hardware(tmp_path: Path) -> None:
    path = tmp_path / "hardware.json"
    path.write_text(Hardware(1e6, 1e9, 0.1).to_json())
    assert fuzz(path, 300, mutated_json, lambda: Hardware.read(path)) > 0


def test_engine_directories(tmp_path: Path, draft_checkpoint: Path) -> None:
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(draft_checkpoint / name, tmp_path / name)
    (tmp_path / "rank0.engine").touch()
    sizes = {"max_draft_len": 5, "max_input_len": 220, "max_seq_len": 256}
    plugins = {"use_paged_context_fmha": True, "remove_input_padding": True}
    model = {"vocab_size": 300, "mapping": {"world_size": 1}}
    build = sizes | {"speculative_decoding_mode": 2, "kv_cache_type": "PAGED", "plugin_config": plugins}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"version": "1.2.1", "pretrained_config": model, "build_config": build}))
    assert EngineDirectory.open(tmp_path)
    fuzz(path, 300, mutated_json, lambda: EngineDirectory.open(tmp_path))


BODIES: dict[type[Any], dict[str, Any]] = {
    CompletionBody: {"prompt": ["a", [1, 2]], "max_tokens": 4, "stop": ["x"], "logit_bias": {"5": 1.5}, "n": 2},
    ChatBody: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "temperature": 0.5,
        "stream_options": {"include_usage": True},
        "speculative": {"policy": "fixed", "thresholds": [0.5, 0.0], "tree": {"depth": 3, "top_k": 2}},
    },
}


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_bodies(tmp_path: Path, kind: type[Any]) -> None:
    path = tmp_path / "body.json"
    path.write_text(json.dumps(BODIES[kind]))

    def read() -> None:
        try:
            read_body(path.read_bytes(), kind)
        except ApiError as error:
            raise S2DError(str(error)) from error

    assert fuzz(path, 1000, mutated_json, read) > 0


def test_chat_templates(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_text(
        "{% for message in messages %}{{ message.role + ': ' + message['content'] | trim }}"
        "{% if loop.last and add_generation_prompt %}{{ bos_token * 2 }}{% endif %}{% endfor %}"
    )

    def render() -> None:
        source = TemplateSource("fuzzed", path.read_bytes().decode(errors="replace"), {"bos_token": "<s>"})
        ChatTemplate(source).render([{"role": "user", "content": " hi "}])

    assert fuzz(path, 40, mutated_bytes, render) > 0


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.integers(-1, 400) | st.floats() | st.text(max_size=2), max_size=3), st.just(np.arange(3)),
    st.just({}), st.just(object()),
)  # fmt: skip


@given(st.sampled_from([Options, Sampling, TreeShape, FixedThresholds, Placement]), st.data())
@settings(max_examples=1000 * MANY, derandomize=True, deadline=None)
def test_options(kind: type[Any], data: st.DataObject) -> None:
    hints = get_type_hints(kind)
    plain = [field.name for field in fields(kind) if is_plain(hints[field.name])]
    values = data.draw(st.dictionaries(st.sampled_from(plain), VALUES, max_size=3))
    with contextlib.suppress(S2DError):
        kind(**values)


@given(VALUES, st.dictionaries(st.sampled_from(["max_new_tokens", "temperature", "stop", "seed"]), VALUES, max_size=2))
@settings(
    max_examples=300 * MANY,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_requests(decoder: Decoder, prompt: Any, options: dict[str, Any]) -> None:
    with contextlib.suppress(S2DError):
        assert all(0 <= token < 300 for token in decoder.request(prompt, **options).prompt)
