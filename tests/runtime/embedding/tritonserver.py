"""A real Triton Inference Server from the package index: its Python backend runs on a CPU.

It is kept in the user's cache for later runs. NumPy is there in a version that the server's process for Python models
works with; that process finds it, and this environment's packages, through the `python3` on PATH.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.embedding.build import PACKAGES, shared_python
from s2d_trt.files import publishing_directory

SERVER = "nvidia-pytriton==0.7.0"
BESIDE = ("numpy==1.26.4", "tritonclient[grpc]==2.73.0")
"""With NumPy 2 the Python backend reads texts wrongly now and then, and aborts."""
INSTALLED = Path.home() / ".cache" / "s2d-trt" / "tests" / "nvidia-pytriton-0.7.0-numpy-1.26.4"


class UnavailableError(Exception):
    """The server cannot be had here, and why."""


def install() -> Path:
    """The folder with the server, and what its processes need beside this environment."""
    if not INSTALLED.exists():
        with publishing_directory(INSTALLED) as folder:
            _pip("--no-deps", SERVER, "--target", str(folder / "server"))
            _pip(*BESIDE, "--target", str(folder / "packages"))
            server = folder / "server" / "pytriton" / "tritonserver"
            stub = server / "python_backend_stubs" / f"3.{sys.version_info.minor}" / "triton_python_backend_stub"
            if not stub.exists():
                raise UnavailableError(f"{SERVER} has no process for Python 3.{sys.version_info.minor}")
            shutil.copy(stub, server / "backends" / "python")
            for program in (server / "bin" / "tritonserver", server / "backends" / "python" / stub.name):
                program.chmod(0o755)
    return INSTALLED


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise UnavailableError(f"{SERVER} cannot be installed: {last}")


class TritonServer:
    """A running server, whose Python environment is made in ``work``."""

    def __init__(self, folder: Path, work: Path) -> None:
        self._folder, self._log, environment = folder, work / "log", work / "environment"
        self.http, self.grpc, self._metrics = _free_ports(3)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        self.python = environment / "bin" / "python3"
        """Has the client's packages too."""
        packages = [str(folder / "packages"), str(PACKAGES), *(path for path in sys.path if "site-packages" in path)]
        library = environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        (library / "packages.pth").write_text("\n".join(packages), encoding="utf-8")

    @contextmanager
    def running(self, repository: Path) -> Iterator[None]:
        """Run it with a model repository until the block ends."""
        server = self._folder / "server" / "pytriton" / "tritonserver"
        libraries = f"{self._folder / 'server' / 'nvidia_pytriton.libs'}:{shared_python().parent}"
        variables = os.environ | {"PATH": f"{self.python.parent}:{os.environ['PATH']}", "LD_LIBRARY_PATH": libraries}
        command = [
            str(server / "bin" / "tritonserver"), "--model-repository", str(repository),
            "--backend-directory", str(server / "backends"), "--allow-gpu-metrics", "false",
            "--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1", "--metrics-address", "127.0.0.1",
            "--http-port", str(self.http), "--grpc-port", str(self.grpc), "--metrics-port", str(self._metrics),
        ]  # fmt: skip
        with (
            self._log.open("wb") as output,
            subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT) as process,
        ):
            try:
                # It opens its ports when the model is loaded.
                while not self._ready():
                    assert process.poll() is None, self._log.read_text(encoding="utf-8")
                yield
            finally:
                process.terminate()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    @property
    def url(self) -> str:
        """Of HTTP."""
        return f"http://127.0.0.1:{self.http}"

    def metric(self, name: str, **labels: str) -> float:
        """The value of a series on the metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=20) as page:
            for line in page.read().decode().splitlines():
                series, _, value = line.rpartition(" ")
                if series.startswith(f"{name}{{") and all(f'{key}="{text}"' in series for key, text in labels.items()):
                    return float(value)
        raise AssertionError(f"no series {name} {labels}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
