"""The command in a process of its own: what it says, how it ends, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.serve import PROG, main
from s2d_trt.cli import run_command

httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install -e '.[dev]'")

ROOT = Path(__file__).resolve().parents[3]
GOOD = {"prompt": "the draft", "max_tokens": 12, "seed": 7, "temperature": 0.7}
LONG_WAIT = 60


@pytest.fixture(scope="module")
def engines_given(draft_bundle: Path, target_bundle: Path) -> list[str]:
    return ["--target", str(target_bundle), "--draft", str(draft_bundle), "--threads", "1", "--sequences", "2"]


@contextmanager
def running(arguments: Sequence[str], **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address on which it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.serve", *arguments],
        cwd=ROOT, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"^ready after [\d.]+ s on (\S+):", line):
                yield process, found[1]
                break
        else:
            raise AssertionError("".join(said))
    finally:
        process.kill()
        process.communicate(timeout=LONG_WAIT)


def ask(address: str, **options: object) -> str:
    response = httpx.post(f"{address}/v1/completions", json=GOOD, timeout=LONG_WAIT, trust_env=False, **options)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def test_it_says_what_it_loads_and_serves_the_text_of_the_command_line(
    engines_given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.run import main as run

    run([*engines_given[:-2], "--prompt", GOOD["prompt"], "--max-new-tokens", "12", "--seed", "7",
         "--temperature", "0.7", "--json"])  # fmt: skip
    expected = json.loads(capsys.readouterr().out)["text"]
    with running([*engines_given, "--port", "0"]) as (process, address):
        assert ask(address) == expected
        process.send_signal(signal.SIGTERM)
        said, log = process.stderr.read(), process.stdout.read()
        assert process.wait(LONG_WAIT) == 0
    assert "memory: " in said
    assert "for running texts" in said
    (line,) = map(json.loads, log.splitlines())
    assert (line["status"], line["completion_tokens"]) == (200, [12])


def test_a_killed_server_is_started_again_on_its_port_and_its_socket(engines_given: list[str], tmp_path: Path) -> None:
    path = tmp_path / "s2d.sock"
    texts = []
    for _ in range(2):
        with running([*engines_given, "--unix-socket", str(path)]) as (process, address):
            assert address == f"unix:{path}"
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=LONG_WAIT) as client:
                texts.append(client.post("http://here/v1/completions", json=GOOD).json()["choices"][0]["text"])
            process.kill()
    assert texts[0] == texts[1]
    with running([*engines_given, "--unix-socket", str(path)]) as (process, _):
        assert "another --unix-socket" in mistake_of([*engines_given, "--unix-socket", str(path)])
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG_WAIT) == 0
        assert not path.exists()


def test_the_key_may_come_from_a_file_or_the_environment(engines_given: list[str], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("first\n\n second \n", encoding="utf-8")
    for options, environment, key in (
        (["--api-key-file", str(path)], {}, "second"),
        ([], {"S2D_API_KEY": "third"}, "third"),
    ):
        with running([*engines_given, "--port", "0", *options], **environment) as (_, address):
            assert ask(address, headers={"Authorization": f"Bearer {key}"})
            assert httpx.post(f"{address}/v1/completions", json=GOOD, trust_env=False).status_code == 401


def test_tls_is_served_with_a_certificate(engines_given: list[str], tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    files = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    with running([*engines_given, "--port", "0", *files]) as (_, address):
        import ssl

        assert address.startswith("https://")
        assert ask(address, verify=ssl.create_default_context(cafile=str(certificate)))


def mistake_of(argv: Sequence[str]) -> str:
    """The one line of a mistaken call in this process."""
    done = subprocess.run(
        [sys.executable, "-m", "runtime.serve", *argv], cwd=ROOT, capture_output=True, text=True, timeout=LONG_WAIT
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith(PROG)]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_port_in_use_is_one_line_before_anything_is_loaded(engines_given: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        line = mistake_of([*engines_given, "--port", str(other.getsockname()[1])])
    assert "choose another --host or --port" in line


def test_a_bundle_that_is_missing_is_one_line(engines_given: list[str]) -> None:
    assert "no bundle named" in mistake_of([*engines_given, "--port", "0", "--target", "/nowhere/x.engine"])


def test_two_targets_of_one_name_are_one_line(engines_given: list[str]) -> None:
    assert "two targets are named target" in mistake_of([*engines_given, "--port", "0", *engines_given[:2]])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--port", "70000"], "not a port"),
        (["--port", "x"], "not a whole number"),
        (["--host", "no.such.host.invalid"], "cannot be had"),
        (["--sequences", "0"], "at least 1"),
        (["--max-queue", "-1"], "at least 0"),
        (["--drain-seconds", "nan"], "seconds"),
        (["--api-key", ""], "empty"),
        (["--api-key-file", "/nowhere/keys"], "cannot be read"),
        (["--api-key-file", "/dev/null"], "holds no key"),
        (["--ssl-keyfile", "x"], "needs --ssl-certfile"),
        (["--ssl-certfile", "/nowhere/cert"], "cannot be read"),
        (["--access-log", "/nowhere/log"], "cannot be written"),
        (["--unix-socket", "/nowhere/s2d.sock"], "another --unix-socket"),
        (["--policy", "adaptive", "--thresholds", "0,0,0"], "belong to the policy fixed"),
    ],
)
def test_a_wrong_option_is_one_line(
    capsys: pytest.CaptureFixture[str], engines_given: list[str], options: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(PROG, main, [*engines_given, *options])
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out, len(captured.err.splitlines())) == (2, "", 1), captured.err
    assert reason in captured.err


def test_a_package_that_is_missing_is_one_line(engines_given: list[str]) -> None:
    code = "import runpy, sys; sys.modules['starlette'] = None; sys.argv = sys.argv[1:];" \
           "runpy.run_module('runtime.serve', run_name='__main__', alter_sys=True)"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", *engines_given], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "pip install -e '.[serve]' in the checkout" in done.stderr
