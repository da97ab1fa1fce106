"""A TensorRT-LLM engine as a target: drafts are verified by its executor, as chains, greedily.

Each step is a request of its own, with the text so far as its prompt and the draft beside it. The executor reuses the
cache blocks of the prompt, so it computes only new rows. It returns tokens, not logits: the target's own choice at each
node that it accepts, and one more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from runtime.backends import Clock
from runtime.backends.tensorrt_llm.directory import EngineDirectory
from runtime.backends.tensorrt_llm.version import check_engine_version, import_library
from runtime.targets.interface import Chunk, Part
from runtime.tree.shape import TreeShape
from runtime.tree.tree import Tree
from s2d_trt.errors import CapacityError, OptionError, S2DError


class TensorRTLLMTarget:
    """A target of chains, decoded greedily by the library's executor."""

    drafts: Literal["tree", "chain"] = "chain"
    lanes: tuple[int, ...] = (1,)
    token_bytes = 0
    keeps_prefixes = False

    def __init__(self, engine: EngineDirectory, executor: Any, trtllm: Any) -> None:
        self.clock, self.turn = Clock(), Lock()
        self._executor, self._trtllm = executor, trtllm
        self.name, self.identity = engine.name, engine.config_text
        self.max_length, self.vocab_size = engine.max_length, engine.vocab_size
        self.max_rows, self.prompt_rows = engine.max_draft_len + 1, engine.max_length
        self.tokenizer, self.tokenizer_path = engine.tokenizer, engine.path / engine.tokenizer.file

    @classmethod
    def open(cls, directory: Path) -> TensorRTLLMTarget:
        """Check the directory, then load the engine on as many GPUs as it was built for.

        Under mpirun the processes that do not lead serve the leader inside this call, and exit with it.

        Raises:
            BundleError, OptionError: the engine, or the installed TensorRT-LLM, cannot be used.
        """
        engine = EngineDirectory.open(directory)
        library, _ = import_library()
        check_engine_version(engine.version, str(library.__version__))
        trtllm = library.bindings.executor
        config = trtllm.ExecutorConfig(
            max_beam_width=1,
            enable_chunked_context=True,
            kv_cache_config=trtllm.KvCacheConfig(enable_block_reuse=True),
            parallel_config=_parallel_config(library, trtllm, engine.ranks),
        )
        try:
            executor = trtllm.Executor(engine.path, trtllm.ModelType.DECODER_ONLY, config)
        except RuntimeError as cause:
            raise OptionError(
                f"TensorRT-LLM cannot load {engine.path} ({' '.join(str(cause).split())[:300]}); check that its"
                f" {engine.ranks} GPUs are here, free and of the kind that it was built for"
            ) from cause
        if not executor.can_enqueue_requests():
            executor.shutdown()  # returns when the leader shuts down
            raise SystemExit(0)
        return cls(engine, executor, trtllm)

    def companion(self, name: str) -> Path | None:
        """A file that the user copied into the engine's directory, or None."""
        path = self.tokenizer_path.parent / name
        return path if path.is_file() else None

    def check_shape(self, shape: TreeShape) -> None:
        """Accept every shape: of a tree only the best path is verified, cut to the engine's draft length."""

    def check_scores(self, needing: Sequence[str]) -> None:
        """Raise OptionError for all but greedy decoding: the engine returns no logits."""
        if needing:
            raise OptionError(
                f"engine {self.name} of TensorRT-LLM decodes only greedily and gives no scores; leave"
                f" {', '.join(needing)} out, or build the target with python -m export.target"
            )

    exact_by_default = False

    def check_exact(self, progress: Callable[[str], None] = lambda _: None, texts: int = 1) -> None:
        """Always raise S2DError: the library promises nothing about the bits of its calls."""
        raise S2DError(f"engine {self.name} of TensorRT-LLM cannot promise --exact; leave it out")

    def open_lanes(self, texts: int) -> None:
        """Do nothing: texts run one after another."""

    def lease(self, exact_rows: int = 0) -> EngineSequence:
        """A sequence without tokens; the executor keeps the caches."""
        return EngineSequence(self)

    def run(self, parts: Sequence[Part]) -> Sequence[Choices]:
        """Run the texts one after another: the library has a batching of its own, which takes no drafts of ours."""
        return [sequence.run(part) for sequence, part in parts]

    def release(self, sequence: object) -> None:
        """Do nothing: the executor reuses or drops the sequence's cache blocks."""

    def choices(self, text: Sequence[int], draft: Sequence[int]) -> list[int]:
        """The target's greedy tokens after ``text``: those of ``draft`` that it accepts, and one more.

        Raises:
            S2DError: the executor reports an error.
        """
        trtllm = self._trtllm
        # The library asserts that a draft is not empty.
        config = trtllm.ExternalDraftTokensConfig(tokens=list(draft)) if draft else None
        request = trtllm.Request(
            input_token_ids=list(text),
            max_tokens=len(draft) + 1,
            sampling_config=trtllm.SamplingConfig(beam_width=1, top_k=1),
            output_config=trtllm.OutputConfig(exclude_input_from_output=True),
            external_draft_tokens_config=config,
        )
        number = self._executor.enqueue_request(request)
        tokens: list[int] = []
        while True:
            for response in self._executor.await_responses(id=number):
                if response.has_error():
                    raise S2DError(
                        f"TensorRT-LLM failed on a request of {len(text)} tokens ({response.error_msg}); see its log"
                    )
                tokens += response.result.output_token_ids[0]
                if response.result.is_final:
                    return tokens


class EngineSequence:
    """The text itself: each request sends all of it."""

    def __init__(self, target: TensorRTLLMTarget) -> None:
        self._target, self.clock = target, target.clock
        self._text: list[int] = []
        self._tree = np.zeros(0, np.int64)
        self._choices = Choices(target.vocab_size)

    @property
    def length(self) -> int:
        """Committed tokens."""
        return len(self._text)

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Add a prompt and ask for the token after it. Raises CapacityError where the text outgrows the engine."""
        if self.length + len(tokens) > self._target.max_length:
            raise CapacityError(
                f"the prompt needs {self.length + len(tokens)} positions and engine {self._target.name} has"
                f" {self._target.max_length}; shorten it, or run trtllm-build with a larger --max_input_len and"
                " --max_seq_len"
            )
        return self.run(Chunk(tokens))[0]

    def run(self, part: Tree | Chunk) -> Choices:
        """Verify a tree, or add a part of a prompt and ask for the token after it."""
        if isinstance(part, Tree):
            return self.verify(part)
        self._text += part.tokens
        return self._ask(self._text, ())

    def verify(self, tree: Tree) -> Choices:
        """Ask for the target's choices along ``tree``, which is a chain."""
        assert tree.is_chain
        self._tree = tree.tokens
        root, *draft = tree.tokens.tolist()
        return self._ask([*self._text, root], draft)

    def commit(self, path: Sequence[int]) -> None:
        """Add the tokens of the accepted nodes to the text."""
        self._text += self._tree[list(path)].tolist()

    def _ask(self, text: Sequence[int], draft: Sequence[int]) -> Choices:
        started = time.perf_counter()
        self._choices.tokens = self._target.choices(text, draft)
        self.clock.seconds += time.perf_counter() - started
        return self._choices


class Choices:
    """Greedy choices as logits: 0 at the chosen token and -inf at every other."""

    def __init__(self, vocab_size: int) -> None:
        self.tokens: list[int] = []
        self._row = np.full(vocab_size, -np.inf, np.float32)
        self._shown = 0

    def __getitem__(self, row: int, /) -> np.ndarray:
        """The row of a node, float32 ``[V]``, overwritten by the next."""
        self._row[self._shown] = -np.inf
        self._shown = self.tokens[row]
        self._row[self._shown] = 0.0
        return self._row


def _parallel_config(library: Any, trtllm: Any, ranks: int) -> Any:
    """How the processes of an engine start, one for each GPU: by mpirun, or else by the library."""
    if ranks == 1:
        return None
    started = int(library.mpi_world_size())
    if started == ranks:
        return trtllm.ParallelConfig(
            communication_type=trtllm.CommunicationType.MPI, communication_mode=trtllm.CommunicationMode.LEADER
        )
    if started > 1:
        raise OptionError(
            f"the engine takes {ranks} processes and mpirun started {started}; run it as mpirun -n {ranks}, or without"
            " mpirun"
        )
    worker = Path(library.__file__).parent / "bin" / "executorWorker"
    return trtllm.ParallelConfig(
        communication_type=trtllm.CommunicationType.MPI,
        communication_mode=trtllm.CommunicationMode.ORCHESTRATOR,
        orchestrator_config=trtllm.OrchestratorConfig(is_orchestrator=True, worker_executable_path=str(worker)),
    )
