"""The Triton model: what is written, and a real tritonserver that serves two targets over one draft."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from runtime.decoding.decoder import Decoder
from runtime.decoding.options import Options
from runtime.drafting.options import choose_policy
from runtime.embedding.triton import __main__ as triton
from runtime.embedding.triton.fields import OPTIONAL, options_of
from runtime.sampling.options import Sampling
from s2d_trt.errors import OptionError
from tests.runtime.embedding.programs import PROGRAMS
from tests.runtime.embedding.tritonserver import TritonServer, UnavailableError, install

PROMPT = "the draft proposes"


@pytest.fixture(scope="module")
def repository(
    draft_bundle: Path, target_bundle: Path, other_target_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("triton") / "repository"
    targets = ["--target", str(target_bundle), "--target", str(other_target_bundle)]
    triton.main([*targets, "--draft", str(draft_bundle), "--out", str(out), "--threads", "1"])
    return out


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    try:
        server = TritonServer(install(), repository.parent)
    except UnavailableError as reason:
        pytest.skip(str(reason))
    with server.running(repository):
        yield server


def text_of(decoder: Decoder, options: Options) -> str:
    request = decoder.request(PROMPT, options)
    for _ in decoder.run(request):
        pass
    return request.text


def open_answer(server: TritonServer, method: str, **given: Any) -> HTTPResponse:
    body = json.dumps({"text_input": PROMPT, **given}).encode()
    answer: HTTPResponse = urllib.request.urlopen(f"{server.url}/v2/models/s2d/{method}", body, timeout=60)
    return answer


def wait_until_cancelled(server: TritonServer, target: str) -> None:
    """Asking takes as long as a step of the texts; the server ends the text long before the last question."""
    for _ in range(2000):
        if server.metric("s2d_requests_total", model=target, finish_reason="cancelled"):
            return
    pytest.fail("the text was not cancelled")


def test_the_repository_names_bundles_and_all_inputs(repository: Path, draft_bundle: Path) -> None:
    config = (repository / "s2d" / "config.pbtxt").read_text(encoding="utf-8")
    assert "decoupled: true" in config
    assert str(draft_bundle) in config
    assert all(f'name: "{field.name}"' in config for field in OPTIONAL)
    assert "TritonPythonModel" in (repository / "s2d" / "1" / "model.py").read_text(encoding="utf-8")


def test_inputs_become_options() -> None:
    given = {
        "max_tokens": 9,
        "temperature": 0.9,
        "stop": ("a", "b"),
        "bad_words": ("c",),
        "stream": True,
        "target": "x",
        "thresholds": (0.5, 0.0),
        "draft": False,
    }
    policy = choose_policy(thresholds=[0.5, 0.0])
    expected = Options(9, Sampling(temperature=0.9, bad_words=("c",)), stop=("a", "b"), policy=policy, draft=False)
    assert options_of(given) == expected
    assert options_of({}) == Options()


def test_two_targets_of_one_name_are_refused(target_bundle: Path, tmp_path: Path) -> None:
    arguments = ["--target", str(target_bundle), "--target", str(target_bundle), "--draft", "none"]
    with pytest.raises(OptionError, match="two targets are named target"):
        triton.main([*arguments, "--out", str(tmp_path / "repository")])


def test_http_streams_the_text_that_python_generates(server: TritonServer, decoder: Decoder) -> None:
    with open_answer(server, "generate_stream", stream=True, max_tokens=24, temperature=0.9, seed=7) as answer:
        steps = [json.loads(line.removeprefix(b"data: ")) for line in answer if line.startswith(b"data: ")]
    expected = Options(24, Sampling(temperature=0.9, seed=7))
    assert "".join(step["text_output"] for step in steps) == text_of(decoder, expected)
    assert len(steps) > 1
    assert [step["finish_reason"] for step in steps] == [""] * (len(steps) - 1) + ["length"]
    assert steps[0]["seed"] == 7


def test_without_streaming_there_is_one_answer(server: TritonServer, other_decoder: Decoder) -> None:
    with open_answer(server, "generate", target="other", max_tokens=12, stop=["zz"], ignore_eos=True) as answer:
        given = json.loads(answer.read())
    assert given["text_output"] == text_of(other_decoder, Options(12, stop=("zz",), ignore_eos=True))
    assert len(given["token_ids"]) == len(given["drafted"])


def test_a_mistake_is_an_error_of_one_line(server: TritonServer) -> None:
    for given, words in (
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"target": "nobody"}, "take one of target, other"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            open_answer(server, "generate", **given)
        assert words in json.loads(refused.value.read())["error"]


def test_a_client_that_leaves_ends_its_text(server: TritonServer) -> None:
    with open_answer(server, "generate_stream", stream=True, max_tokens=240, ignore_eos=True) as answer:
        answer.readline()
    wait_until_cancelled(server, "target")


def test_grpc_streams_and_cancels(server: TritonServer, other_decoder: Decoder) -> None:
    command = [server.python, PROGRAMS / "triton_grpc.py", f"127.0.0.1:{server.grpc}"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == text_of(other_decoder, Options(12, Sampling(temperature=0.9, seed=7)))
    wait_until_cancelled(server, "other")


def test_the_metrics_page_counts_what_texts_gained(server: TritonServer) -> None:
    before = server.metric("s2d_generated_tokens_total", model="target")
    open_answer(server, "generate", max_tokens=5, ignore_eos=True).read()
    assert server.metric("s2d_generated_tokens_total", model="target") == before + 5
    assert server.metric("s2d_requests_running", model="target") == 0
