"""A stand-in for the GPU: its memory is the host's, its kernels are the real sources, compiled for the CPU.

ONNX Runtime's CPU provider runs the graphs, bound to addresses as on a GPU. These tests cover all that the contexts do
except for the calls into CUDA itself, which the tests marked ``gpu`` make.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.backends.cuda.backend import GpuBackend
from runtime.backends.cuda.device import SOURCES, CudaGpu, kernel_source, open_gpu
from runtime.backends.cuda.memory import ALIGNMENT, Memory
from runtime.backends.cuda.onnxruntime import OnnxDeviceGraph
from s2d_trt.bundle import Bundle
from s2d_trt.errors import OptionError

# Arguments are 64-bit integers and pointers, which the calling convention passes alike.
SHIM = """
#include <math.h>
#define __global__
#define __device__
#define __cudart_builtin__
#define CUDARTAPI
typedef unsigned long long cudaGraphConditionalHandle;
struct Index { long long x; };
static thread_local Index blockIdx, threadIdx, blockDim = {256};
"""
RUNNER = """
extern "C" void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value) {
    *(unsigned *)handle = value;
}
extern "C" void run(void (*kernel)(long long, ...), long long threads, const long long *a) {
    typedef void (*Kernel)(long long, long long, long long, long long, long long, long long, long long, long long);
    for (long long i = 0; i < (threads + 255) / 256 * 256; i++) {
        blockIdx.x = i / 256, threadIdx.x = i % 256;
        ((Kernel)kernel)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    }
}
"""
CPU = [("CPUExecutionProvider", {})]


class HostGpu:
    """The host as a ``Gpu``. Counts its allocations, recordings and replays."""

    name, index, capability, stream = "the host", 0, "0.0", 0

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.sent = self.done = self.recorded = self.replayed = 0
        self.allocated = 0
        self._replaying = False
        self._conditions: list[np.ndarray] = []

    def allocate(self, size: int) -> Memory:
        self.allocated += 1
        block = np.zeros(size + ALIGNMENT, np.uint8)
        start = -block.ctypes.data % ALIGNMENT
        return Memory(block.ctypes.data + start, size, block)

    pinned = allocate

    def copy(self, destination: Memory, source: Memory) -> None:
        assert destination.size == source.size
        ctypes.memmove(destination.address, source.address, source.size)
        self.sent += 1

    def clear(self, memory: Memory) -> None:
        ctypes.memset(memory.address, 0, memory.size)
        self.sent += 1

    def launch(self, kernel: str, threads: int, *arguments: int) -> None:
        values = (ctypes.c_longlong * 8)(*arguments, threads)
        self._library.run(getattr(self._library, kernel), ctypes.c_longlong(threads), values)
        self.sent += 1

    def record(self, steps: Callable[[], None]) -> Callable[[], None]:
        steps()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            self._replaying = True
            steps()
            self._replaying = False
            self._conditions.clear()

        return replay

    def condition(self) -> int:
        if not self._replaying:
            return 0
        self._conditions.append(np.zeros(1, np.uint32))
        return int(self._conditions[-1].ctypes.data)

    def when(self, condition: int, steps: Callable[[], None]) -> None:
        if not condition or ctypes.c_uint32.from_address(condition).value:
            steps()

    def wait(self) -> None:
        self.done = self.sent


class RecordableGraph(OnnxDeviceGraph):
    """ONNX Runtime's CPU provider, as a graph that may be recorded."""

    recordable = True


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The GPU's kernels, compiled for the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels for the CPU")
    folder = tmp_path_factory.mktemp("kernels")
    sources = "".join(map(kernel_source, SOURCES))
    (folder / "kernels.cpp").write_text(SHIM + sources + RUNNER, encoding="utf-8")
    command = ["g++", "-O1", "-shared", "-fPIC", "-o", "kernels.so", "kernels.cpp"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "kernels.so"))
    assert all(hasattr(library, kernel) for kernels in SOURCES.values() for kernel in kernels)
    return library


@pytest.fixture(scope="session")
def cuda() -> CudaGpu:
    """The first GPU; where there is none, tests that ask for it are skipped with the reason."""
    try:
        return open_gpu(0)
    except OptionError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def gpu(kernels: ctypes.CDLL) -> HostGpu:
    return HostGpu(kernels)


class HostBackend(GpuBackend):
    """ONNX Runtime's CPU provider behind the contexts of the GPU backends."""

    name = "stand-in"

    def load(self, bundle: Bundle, graph: str) -> RecordableGraph:
        return RecordableGraph(bundle, graph, CPU, "cpu", 0)


@pytest.fixture
def backend(gpu: HostGpu) -> HostBackend:
    return HostBackend(gpu)


@pytest.fixture
def deciding_backend(gpu: HostGpu) -> HostBackend:
    """The device decides which exit answers."""
    return HostBackend(gpu, device_cascade=True)


def built(module: str, checkpoint: Path, out: Path, *options: str) -> Path:
    import importlib

    arguments = ["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity", *options]
    importlib.import_module(f"export.{module}").main(arguments)
    return out


FORMS = ("fp32", "fp16")


@pytest.fixture(scope="session", params=FORMS)
def static_bundles(
    request: pytest.FixtureRequest, draft_checkpoint: Path, target_checkpoint: Path, engines: Path
) -> tuple[Path, Path]:
    """Draft and target in layout BHSD."""
    options = ("--backend", "tensorrt", "--no-compile", "--precision", request.param)
    return (
        built("build", draft_checkpoint, engines / f"draft-{request.param}.engine", *options),
        built("target", target_checkpoint, engines / f"target-{request.param}.engine", *options),
    )
