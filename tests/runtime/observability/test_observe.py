"""One command starts a server, Prometheus and Alertmanager, and ends all three."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import observe
from runtime.observability.stack import Stack, answers, stack
from s2d_trt.errors import OptionError
from tests.runtime.observability.programs import free_address, needs, query, wait_for

ROOT = Path(__file__).resolve().parents[3]


@needs("prometheus", "prometheus-alertmanager")
def test_it_starts_everything_says_where_it_is_and_ends_everything(
    draft_bundle: Path, target_bundle: Path, tmp_path: Path
) -> None:
    server, prometheus, alertmanager = (free_address() for _ in range(3))
    ports = {name: address.split(":")[1] for name, address in (("p", prometheus), ("a", alertmanager), ("s", server))}
    observing = subprocess.Popen(
        [
            sys.executable, "-m", "runtime.observe", "--data", str(tmp_path / "data"), "--prometheus-port", ports["p"],
            "--alertmanager-port", ports["a"], "--scrape-seconds", "1", "--",
            "--target", str(target_bundle), "--draft", str(draft_bundle), "--port", ports["s"], "--policy", "fixed",
            "--sequences", "1",
        ],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert observing.stdout is not None
        said = [observing.stdout.readline() for _ in range(6)]
        assert re.search(rf"live page +http://{server}/", said[0])
        assert "dashboard.json" in said[4]
        up = wait_for(lambda: [each["value"][1] for each in query(prometheus, 'up{job="s2d"}')])
        assert up == ["1"]
        assert answers(alertmanager, "/-/ready")
    finally:
        observing.send_signal(signal.SIGTERM)
        code = observing.wait(30)
        observing.communicate()
    assert code == 130
    assert not any(answers(address, "/") for address in (server, prometheus, alertmanager))
    assert (tmp_path / "data" / "prometheus.log").exists()
    assert '"path":"/metrics"' in (tmp_path / "data" / "access.log").read_text(encoding="utf-8")


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OptionError, match="apt-get install prometheus"):
        observe.main(["--", "--target", "none"])


@pytest.mark.parametrize(
    "options", [["--port", "0"], ["--port", "high"], ["--port"], ["--unix-socket", "s"], ["--ssl-certfile", "c"]]
)
def test_a_server_that_prometheus_could_not_ask_is_refused(options: list[str]) -> None:
    with pytest.raises(OptionError, match="Prometheus"):
        observe.main(["--", "--target", "none", *options])


def test_a_process_that_ends_ends_the_others_with_its_last_words(tmp_path: Path) -> None:
    with stack(tmp_path) as running:
        running.start("steady", [sys.executable, "-c", "import signal; signal.pause()"], log=False)
        running.start("hasty", [sys.executable, "-c", "import sys; sys.exit('the port is in use')"])
        running.processes["hasty"].wait(30)
        with pytest.raises(OptionError, match="hasty ended with code 1: the port is in use"):
            running.check()
    assert running.processes["steady"].returncode is not None


def test_what_is_never_ready_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"server was not ready within 0 s"):
        Stack(tmp_path).wait_until_ready("server", free_address(), "/health", 0.0)
