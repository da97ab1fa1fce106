"""Compiling for real, with TensorRT-RTX and no GPU."""

from __future__ import annotations

import dataclasses
import functools
import os
import resource
import shutil
import signal
import sys
import types
from pathlib import Path

import onnx
import pytest

import export.compile
from export import build, target
from export.tensorrt.bundle_plans import PlanOptions
from export.tensorrt.isolation import isolated
from export.tensorrt.plan import (
    FLAVORS,
    CompileError,
    PlanRequest,
    check_capabilities,
    compile_plan,
    find_flavor,
    gpu_compute_capability,
)
from s2d_trt import names
from s2d_trt.bundle import Bundle
from s2d_trt.errors import BundleError, OptionError
from s2d_trt.manifest import MANIFEST, QueryProfile
from tests.benchmarks import compile as benchmark

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt extra: pip install -e '.[tensorrt]'")

DEMO = Path(__file__).resolve().parents[2] / "engines" / "demo"


@pytest.fixture(scope="session")
def compiled(trt_draft_graphs, tmp_path_factory):
    """The draft's bundle with its plans."""
    out = Path(shutil.copytree(trt_draft_graphs, tmp_path_factory.mktemp("compiled") / "draft.engine"))
    export.compile.main([str(out)])
    return out


@pytest.fixture
def bundle(compiled, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(compiled, tmp_path / "draft.engine"))


def test_every_graph_gets_a_plan_and_the_manifest_tells_what_it_is(compiled, trt_draft_graphs):
    manifest = Bundle.open(compiled, verify=True).manifest
    assert [plan.graph for plan in manifest.plans] == list(manifest.graphs)
    for plan in manifest.plans:
        assert (plan.flavor, plan.builder_version) == ("tensorrt_rtx", trt.__version__)
        assert plan.bytes == manifest.files[plan.file].bytes == (compiled / plan.file).stat().st_size
        assert (compiled / plan.file).read_bytes()[:4] == b"vtrt"
        assert 0 < plan.memory_bytes < plan.bytes
        assert plan.activation_bytes > 0
        assert (plan.weight_format, plan.weight_streaming, plan.compute_capabilities) == ("fp16", False, ())
    graphs = Bundle.open(trt_draft_graphs).manifest
    assert dataclasses.replace(manifest, plans=(), files=graphs.files, built_with=graphs.built_with) == graphs
    assert manifest.built_with["tensorrt_rtx"] == trt.__version__


def test_profiles_cover_every_query_length_once_and_the_head_no_prompt(compiled):
    plans = {plan.graph: plan.profiles for plan in Bundle.open(compiled).manifest.plans}
    # A chunk of a prompt, with as many rows of other texts beside it as a tree has.
    assert plans["segment_0"] == (QueryProfile(1, 64, 64), QueryProfile(65, 192, 192))
    assert plans["head"] == (QueryProfile(1, 64, 64),)


def test_a_bundle_for_one_text_compiles_for_chunks_alone(target_checkpoint, tmp_path):
    out = tmp_path / "target.engine"
    form = ["--backend", "tensorrt", "--lanes", "1", "--no-parity"]
    target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), *form])
    manifest = Bundle.open(out, verify=True).manifest
    assert manifest.lanes == (1,)
    assert manifest.plans[0].profiles == (QueryProfile(1, 64, 64), QueryProfile(65, 128, 128))


@pytest.mark.parametrize("graph", [names.HEAD, names.segment(0), names.segment(1)])
def test_nothing_in_a_plan_is_left_to_chance(trt_draft_graphs, tmp_path, graph):
    """TensorRT numbers the axes that vary in the order of addresses, so each build is a process with the same ones."""
    manifest = Bundle.open(trt_draft_graphs).manifest
    model, lanes = trt_draft_graphs / manifest.graphs[graph], max(manifest.lanes)
    options = PlanOptions.choose("tensorrt_rtx")
    plans = set()
    for _ in range(4):
        profiles = options.profiles(graph, lanes)
        order = PlanRequest(graph, model, tmp_path / "plan", options.flavor, profiles, lanes=lanes)
        isolated(compile_plan, order)
        plans.add(order.out.read_bytes())
    assert len(plans) == 1


@pytest.mark.parametrize("place", ["again", "in/a/directory/whose/path/is/a/good/deal/longer/than/the/others/are"])
def test_compilations_of_one_bundle_give_the_same_bytes_wherever_it_lies(compiled, bundle, tmp_path, snapshot, place):
    moved = Path(shutil.copytree(bundle, tmp_path / place / "draft.engine"))
    export.compile.main([str(moved)])
    assert snapshot(moved) == snapshot(compiled)


def test_building_with_plans_gives_what_building_and_then_compiling_gives(draft_checkpoint, compiled, tmp_path):
    out = tmp_path / "draft.engine"
    build.main(["--checkpoint", str(draft_checkpoint), "--out", str(out), "--backend", "tensorrt", "--no-parity"])
    found, expected = (Bundle.open(directory, verify=True).manifest for directory in (out, compiled))
    assert dataclasses.replace(found, name=expected.name) == expected


def test_compiling_again_replaces_the_plans_and_leaves_the_weights_where_they_are(bundle):
    before = Bundle.open(bundle).manifest
    place = (bundle / before.weights).stat()
    export.compile.main([str(bundle), "--compute-capability", "8.6,8.9", "--tree-nodes", "16", "--prefill-chunk", "16"])
    after = Bundle.open(bundle, verify=True).manifest
    assert {plan.compute_capabilities for plan in after.plans} == {("8.6", "8.9")}
    profiles = {plan.graph: plan.profiles for plan in after.plans}
    assert profiles["segment_1"] == (QueryProfile(1, 16, 16), QueryProfile(17, 32, 32))
    assert not {plan.file for plan in before.plans} & {path.name for path in bundle.iterdir()}
    assert set(after.files) == {path.name for path in bundle.iterdir()} - {MANIFEST}
    assert (bundle / after.weights).stat() == place


def test_single_rows_and_streamed_weights_where_asked(bundle):
    export.compile.main(
        [str(bundle), "--row-profile", "--weight-streaming", "--tree-nodes", "8", "--prefill-chunk", "8"]
    )
    plans = Bundle.open(bundle).manifest.plans
    assert {plan.profiles[:2] for plan in plans} == {(QueryProfile(1, 1, 1), QueryProfile(2, 8, 8))}
    assert all(plan.weight_streaming for plan in plans)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_other_precisions_compile_too(target_checkpoint, tmp_path, precision):
    out = tmp_path / "target.engine"
    form = ["--backend", "tensorrt", "--precision", precision, "--tree-nodes", "8", "--prefill-chunk", "8"]
    target.main(["--checkpoint", str(target_checkpoint), "--out", str(out), "--no-parity", *form])
    (plan,) = Bundle.open(out, verify=True).manifest.plans
    assert (plan.graph, plan.weight_format) == ("target", precision)


@pytest.mark.parametrize(
    ("name", "command", "lanes"), [("draft", build, "8"), ("target-17m", target, "1"), ("target-6m", target, "8")]
)
def test_every_graph_of_the_demo_compiles(tmp_path, name, command, lanes):
    out = tmp_path / f"{name}.engine"
    form = ["--backend", "tensorrt", "--tree-nodes", "64", "--prefill-chunk", "64", "--lanes", lanes]
    command.main(["--checkpoint", str(DEMO / name), "--out", str(out), "--no-parity", *form])
    manifest = Bundle.open(out, verify=True).manifest
    assert [plan.graph for plan in manifest.plans] == list(manifest.graphs)


def test_quantised_weights_stay_quantised_in_the_plan(tmp_path, capsys):
    shape = {"hidden": 1024, "layers": 1, "heads": 8, "kv-heads": 8, "ffn": 4096, "vocab": 512, "max-length": 64}
    options = [text for name, size in shape.items() for text in (f"--{name}", str(size))]
    options += ["--exits", "1", "--tree-nodes", "8", "--prefill-chunk", "8", "--scratch", str(tmp_path)]
    sizes = {}
    for weights in ("fp16", "int8", "int4"):
        benchmark.main([*options, *(["--weights", weights] if weights != "fp16" else [])])
        line = next(line for line in capsys.readouterr().out.splitlines() if "segment_0:" in line)
        sizes[weights] = float(line.split(":")[1].split()[0])
    assert sizes["fp16"] > 32
    assert 0.5 < sizes["int8"] / sizes["fp16"] < 0.6
    assert 0.25 < sizes["int4"] / sizes["fp16"] < 0.36
    assert not list(tmp_path.iterdir())


def test_a_bundle_for_onnx_runtime_is_refused_with_the_command_that_builds_another(draft_bundle, snapshot):
    before = snapshot(draft_bundle)
    with pytest.raises(OptionError, match=r"cache layout BSH.*--backend tensorrt"):
        export.compile.main([str(draft_bundle)])
    assert snapshot(draft_bundle) == before


def test_a_truncated_plan_is_named(bundle):
    file = Bundle.open(bundle).manifest.plans[0].file
    (bundle / file).write_bytes((bundle / file).read_bytes()[:-1])
    with pytest.raises(BundleError, match=rf"{file} has \d+ bytes instead of"):
        export.compile.main([str(bundle)])


def test_a_bundle_that_is_not_there_is_named_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="no bundle named draft"):
        export.compile.main(["draft"])
    assert not list(tmp_path.iterdir())


def request(bundle: Path, model: Path, out: Path) -> PlanRequest:
    return PlanRequest("segment_1", model, out, "tensorrt_rtx", (QueryProfile(1, 8, 8),), lanes=8)


def test_an_operator_that_tensorrt_refuses_is_named_with_its_reason(bundle, tmp_path):
    path = bundle / Bundle.open(bundle).manifest.graphs["segment_1"]
    model = onnx.load(path, load_external_data=False)
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    attention.attribute.append(onnx.helper.make_attribute("softcap", 30.0))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CompileError, match=rf"{attention.name}.*softcap.*polygraphy debug reduce") as caught:
        compile_plan(request(bundle, path, tmp_path / "segment_1.plan"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "segment_1.plan").exists()


def compile_in(mib: int, order: PlanRequest) -> None:
    """Compile with no more memory than that above what the builder needs to be loaded."""
    find_flavor(order.flavor)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (mib << 20),) * 2)
    compile_plan(order)


@pytest.mark.parametrize("mib", [2, 24])
def test_too_little_memory_is_an_error_that_says_so(bundle, monkeypatch, mib):
    """Where it is missed differs from run to run, and so whether the builder can still say so or just ends."""
    monkeypatch.setattr("export.tensorrt.bundle_plans.compile_plan", functools.partial(compile_in, mib))
    with pytest.raises(CompileError, match=r"not enough memory to compile|crashed on .* with more memory free"):
        export.compile.main([str(bundle)])


def left_by_the_loader(_: PlanRequest) -> None:
    os._exit(127)


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV", "loader"])
def test_a_builder_that_dies_leaves_the_bundle_as_it_was(bundle, snapshot, monkeypatch, death):
    before = snapshot(bundle)
    monkeypatch.setattr(
        "export.tensorrt.bundle_plans.compile_plan",
        {"SIGKILL": killed, "SIGSEGV": crashed, "loader": left_by_the_loader}[death],
    )
    message = {"SIGSEGV": "tensorrt_rtx crashed on .*SIGSEGV"}.get(death, "not enough memory")
    with pytest.raises(CompileError, match=message):
        export.compile.main([str(bundle)])
    assert snapshot(bundle) == before


def killed(_: PlanRequest) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashed(_: PlanRequest) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_without_tensorrt_the_install_command_is_shown_and_nothing_is_written(draft_checkpoint, tmp_path, monkeypatch):
    for flavor in FLAVORS:
        monkeypatch.setitem(sys.modules, flavor, None)
    out = tmp_path / "draft.engine"
    with pytest.raises(OptionError, match=r"no TensorRT that can compile.*pip install -e '.\[tensorrt\]'"):
        build.main(["--checkpoint", str(draft_checkpoint), "--out", str(out), "--backend", "tensorrt"])
    assert not list(tmp_path.iterdir())


def test_a_builder_that_is_too_old_is_refused_with_its_version(monkeypatch):
    monkeypatch.setattr(trt, "__version__", "1.2.0.54")
    with pytest.raises(OptionError, match=r"tensorrt_rtx 1\.2\.0\.54 is older than 1\.5"):
        find_flavor("tensorrt_rtx")


def test_tensorrt_proper_is_refused_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(__version__="11.4.0.1"))
    monkeypatch.setattr("export.tensorrt.plan.gpu_compute_capability", lambda: None)
    with pytest.raises(OptionError, match="tensorrt compiles only on a machine with a GPU"):
        find_flavor("tensorrt")
    assert find_flavor()[0] == "tensorrt_rtx"
    monkeypatch.setattr("export.tensorrt.plan.gpu_compute_capability", lambda: "9.0")
    assert find_flavor() == ("tensorrt", "11.4.0.1")


def test_capabilities_that_the_builder_does_not_know_are_refused_with_those_it_does():
    with pytest.raises(OptionError, match=r"compute capability 9\.0; it supports .*8\.9.*--trt-flavor tensorrt"):
        check_capabilities("tensorrt_rtx", ("8.9", "9.0"))
    with pytest.raises(OptionError, match="tensorrt compiles for the GPU that is here"):
        check_capabilities("tensorrt", ("8.9",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tree_nodes": 1}, "--tree-nodes 1 is not between 2 and 256"),
        ({"prefill_chunk": 257}, "--prefill-chunk 257 is not between 2 and 256"),
    ],
)
def test_rows_that_no_cache_has_to_spare_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        PlanOptions.choose(**options)


@pytest.mark.parametrize(
    "options", [["--weights", "int8"], ["--no-compile"], ["--trt-flavor", "tensorrt_rtx"], ["--weight-streaming"]]
)
def test_options_of_tensorrt_are_refused_for_another_backend(draft_checkpoint, tmp_path, options):
    with pytest.raises(OptionError, match=f"{options[0]} is for --backend tensorrt"):
        build.main(["--checkpoint", str(draft_checkpoint), "--out", str(tmp_path / "draft.engine"), *options])
    assert not list(tmp_path.iterdir())


def test_the_builders_log_is_shown_at_the_level_asked_for(bundle, capfd):
    export.compile.main([str(bundle), "--tree-nodes", "8", "--prefill-chunk", "8"])
    quiet = capfd.readouterr().err
    export.compile.main([str(bundle), "--tree-nodes", "8", "--prefill-chunk", "8", "--builder-log", "info"])
    assert quiet == ""
    assert "segment_0: Total Weights Memory" in capfd.readouterr().err


@pytest.mark.skipif(gpu_compute_capability() is None, reason="needs a GPU: a plan cannot be read without one")
def test_a_plan_has_the_graphs_inputs_and_its_caches_are_updated_in_place(compiled):
    bundle = Bundle.open(compiled)
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    for plan in bundle.manifest.plans:
        engine = runtime.deserialize_cuda_engine((compiled / plan.file).read_bytes())
        assert engine.num_optimization_profiles == len(plan.profiles)
        graph = onnx.load(bundle.path(bundle.manifest.graphs[plan.graph]), load_external_data=False).graph
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        assert found == {value.name for value in (*graph.input, *graph.output)}
        for name in found:
            if name.startswith("present."):
                assert engine.get_aliased_input_tensor(name) == name.replace("present", "past_key_values")
