"""Answers on their way to Triton: a thread of their own sends them, so that steps never wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.decoding.request import Request, Step
from runtime.embedding.errors import error_line
from runtime.embedding.triton.metrics import TargetMetrics

LOOK_SECONDS = 0.02
"""Between two looks at whether clients have left."""


class Courier:
    """Sends what texts gain, and looks for clients that have left. ``log`` is told what went wrong."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._parcels: SimpleQueue[tuple[Answer, Step | None] | None] = SimpleQueue()
        self._answers: set[Answer] = set()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._look)]
        for thread in self._threads:
            thread.start()

    def put(self, answer: Answer, step: Step | None) -> None:
        """Send a step, or None: the text has ended."""
        self._parcels.put((answer, step))

    def watch(self, answer: Answer) -> None:
        """Look from time to time whether the client has left."""
        self._answers.add(answer)

    def close(self) -> None:
        """Send what waits, and end."""
        self._closed.set()
        self._parcels.put(None)
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        while (parcel := self._parcels.get()) is not None:
            answer, step = parcel
            try:
                answer.send(step)
            except Exception as error:  # of this answer alone
                self._log(f"an answer could not be sent: {error_line(error)}")
            if step is None:
                self._answers.discard(answer)

    def _look(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            for answer in list(self._answers):
                answer.look()


class Answer:
    """Follows one text. ``stream`` sends every step; otherwise there is one response at the end."""

    def __init__(self, request: Request, sender: Any, stream: bool, courier: Courier, metrics: TargetMetrics) -> None:
        self._request, self._sender, self._stream = request, sender, stream
        self._courier, self._metrics = courier, metrics
        self._kept: list[Step] = []
        courier.watch(self)
        metrics.queued()

    def began(self) -> None:
        """The text has left the queue."""
        self._metrics.began(self._request)

    def put(self, step: Step | None) -> None:
        """The next step, or None after the last one."""
        if step is None:
            self._metrics.ended(self._request)
        else:
            self._metrics.stepped(step)
        self._courier.put(self, step)

    def look(self) -> None:
        """Cancel the text if its client has left."""
        if not self._request.finished and self._sender.is_cancelled():
            self._request.cancel()

    def send(self, step: Step | None) -> None:
        """A response, where there is one to send now."""
        if step is not None:
            self._kept.append(step)
            # The last step waits for the end, which it is sent with.
            if not self._stream or self._request.finished:
                return
        final = step is None
        error = self._request.error if final else None
        if error is not None:
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(error_line(error)))
        else:
            response = self._response(self._request.finish_reason if final else "")
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._sender.send(response, flags=flags)

    def _response(self, finish_reason: str | None) -> Any:
        steps, self._kept = self._kept, []
        drafted = [at < step.drafted for step in steps for at in range(len(step.tokens))]
        values = {
            "text_output": np.array(["".join(step.text for step in steps).encode(errors="replace")], np.object_),
            "token_ids": np.array([token for step in steps for token in step.tokens], np.int32),
            "drafted": np.array(drafted, np.bool_),
            "finish_reason": np.array([(finish_reason or "").encode()], np.object_),
            "seed": np.array([self._request.seed], np.uint64),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in values.items()])
