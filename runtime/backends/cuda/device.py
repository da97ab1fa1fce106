"""A GPU, through cuda.core: memory, one stream, kernels compiled at first use, and recorded CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from typing import Any

from runtime.backends.cuda.memory import Memory
from s2d_trt.errors import OptionError, S2DError

INSTALL = "pip install -e '.[gpu]' in the checkout"
SOURCES = {"kernels.cu": ("expand_mask", "fetch_rows", "store_rows", "move_rows"), "cascade.cu": ("decide",)}
"""The package's sources and the kernels in each; the first launch of a kernel compiles its source."""
_BLOCK = 256


def kernel_source(name: str) -> str:
    """One of this package's CUDA sources."""
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def compile_kernels(architecture: str, source: str) -> Any:
    """Compile kernels with NVRTC for an architecture like ``sm_89``; needs no GPU. Returns a cuda.core ObjectCode."""
    from cuda.core import Program, ProgramOptions

    return Program(source, "c++", ProgramOptions(std="c++17", arch=architecture)).compile("cubin")


@lru_cache
def open_gpu(index: int) -> CudaGpu:
    """GPU number ``index``; draft and target share it and its stream.

    Raises:
        OptionError: cuda.core is not installed, or there is no driver or no such GPU.
    """
    return CudaGpu(index)


class CudaGpu:
    """A GPU with one stream, which takes all work in order, from one thread."""

    def __init__(self, index: int) -> None:
        try:
            import cuda.core
            from cuda.bindings import driver
        except ImportError as cause:
            raise OptionError(f"running on a GPU needs cuda-core ({cause}); {INSTALL}") from cause
        self._core: Any = cuda.core
        self._driver: Any = driver
        try:
            self._device = cuda.core.Device(index)
            self._device.set_current()
        except Exception as cause:  # no driver, no device, or a device that cannot be used: the library's own classes
            raise OptionError(
                f"no GPU number {index} can be used here ({_first_line(cause)}); check nvidia-smi, choose another with"
                " --device cuda:N, or run bundles built for ONNX Runtime on the CPU"
            ) from cause
        self.index, self.name = index, str(self._device.name)
        self.capability = ".".join(map(str, self._device.compute_capability))
        self._stream = self._device.create_stream()
        self._queue: Any = self._stream
        self._pinned = cuda.core.LegacyPinnedMemoryResource()
        self._kernels: dict[str, Any] = {}
        self._conditions: dict[int, Any] = {}
        self.sent = self.done = 0

    @property
    def stream(self) -> int:
        """Handle of the stream, or of the one that is being recorded."""
        return int(self._queue.stream.handle if self._queue is not self._stream else self._stream.handle)

    def allocate(self, size: int) -> Memory:
        """Allocate and zero memory in stream order. Raises S2DError."""
        try:
            buffer = self._device.allocate(max(size, 1), stream=self._stream)
        except Exception as cause:  # cuda.core raises a class of its own
            raise S2DError(
                f"{size / 2**20:.0f} MiB cannot be allocated on {self.name} ({_first_line(cause)}); free its memory,"
                " build with a smaller --max-length, or take --device cuda:N"
            ) from cause
        buffer.fill(0, stream=self._stream)
        return Memory(int(buffer.handle), size, buffer)

    def pinned(self, size: int) -> Memory:
        """Allocate and zero page-locked memory."""
        buffer = self._pinned.allocate(max(size, 1))
        memory = Memory(int(buffer.handle), size, buffer)
        memory.array()[:] = 0
        return memory

    def copy(self, destination: Memory, source: Memory) -> None:
        """Queue a copy. Raises S2DError."""
        assert destination.size == source.size
        self._check(self._driver.cuMemcpyAsync(destination.address, source.address, source.size, self.stream))
        self.sent += 1

    def clear(self, memory: Memory) -> None:
        """Queue a fill with zeros. Raises S2DError."""
        self._check(self._driver.cuMemsetD8Async(memory.address, 0, memory.size, self.stream))
        self.sent += 1

    def _check(self, result: tuple[Any]) -> None:
        if result[0] != self._driver.CUresult.CUDA_SUCCESS:
            raise S2DError(f"a copy or fill on {self.name} failed ({result[0].name}); check the GPU with nvidia-smi")

    def launch(self, kernel: str, threads: int, *arguments: int) -> None:
        """Queue a kernel, compiled at first use."""
        grid = self._core.LaunchConfig(grid=-(-threads // _BLOCK), block=_BLOCK)
        self._core.launch(self._queue, grid, self._kernel(kernel), *arguments, threads)
        self.sent += 1

    def _kernel(self, name: str) -> Any:
        if name not in self._kernels:
            source = next(source for source, kernels in SOURCES.items() if name in kernels)
            code = compile_kernels(f"sm_{self._device.arch}", kernel_source(source))
            self._kernels |= {kernel: code.get_kernel(kernel) for kernel in SOURCES[source]}
        return self._kernels[name]

    def condition(self) -> int:
        """A condition of the graph that is being recorded; 0 where none is."""
        if self._queue is self._stream:
            return 0
        condition = self._queue.create_condition(default_value=0)
        self._conditions[int(condition.handle)] = condition
        return int(condition.handle)

    def when(self, condition: int, steps: Callable[[], None]) -> None:
        """Record the steps in a conditional node, or queue them where there is no condition."""
        if not condition:
            steps()
            return
        outer = self._queue
        body = outer.if_then(self._conditions[condition])
        body.begin_building()
        self._queue = body
        try:
            steps()
        finally:
            self._queue = outer
            body.end_building()

    def record(self, steps: Callable[[], None]) -> Callable[[], None]:
        """Run the steps, then record them: a first run loads kernels, which is forbidden during a recording."""
        steps()
        self.wait()
        builder = self._stream.create_graph_builder()
        builder.begin_building()
        self._queue = builder
        try:
            steps()
        finally:
            self._queue = self._stream
            builder.end_building()
            self._conditions.clear()
        graph = builder.complete()
        builder.close()  # its finalizer would end whatever recording is under way at that time
        graph.upload(self._stream)

        def replay() -> None:
            graph.launch(self._stream)
            self.sent += 1

        return replay

    def wait(self) -> None:
        """Wait for the stream."""
        self._stream.sync()
        self.done = self.sent


def _first_line(cause: Exception) -> str:
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
