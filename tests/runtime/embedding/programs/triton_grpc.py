"""triton_grpc ADDRESS: streams over gRPC; prints the text of one request, and leaves another one in its middle."""

from __future__ import annotations

import sys
from queue import SimpleQueue
from typing import Any

import numpy as np
import tritonclient.grpc as triton

KINDS = {"BYTES": np.object_, "INT32": np.int32, "BOOL": np.bool_, "UINT64": np.uint64, "FP64": np.float64}


def tensor(name: str, kind: str, value: Any) -> triton.InferInput:
    """An input of one value."""
    made = triton.InferInput(name, [1], kind)
    made.set_data_from_numpy(np.array([value], KINDS[kind]))
    return made


def inputs(new_tokens: int) -> list[triton.InferInput]:
    """Of a request that streams."""
    return [
        tensor("text_input", "BYTES", b"the draft proposes"),
        tensor("target", "BYTES", b"other"),
        tensor("max_tokens", "INT32", new_tokens),
        tensor("temperature", "FP64", 0.9),
        tensor("seed", "UINT64", 7),
        tensor("stream", "BOOL", True),
    ]


answers: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
client = triton.InferenceServerClient(sys.argv[1])
client.start_stream(lambda result, error: answers.put((result, error)))
client.async_stream_infer("s2d", inputs(12))
finish, text = b"", b""
while not finish:
    result, error = answers.get()
    assert error is None, error
    text += result.as_numpy("text_output")[0]
    finish = result.as_numpy("finish_reason")[0]
sys.stdout.buffer.write(text)
client.async_stream_infer("s2d", inputs(200))
answers.get()
client.stop_stream(cancel_requests=True)
