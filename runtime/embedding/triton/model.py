"""The model of Triton's Python backend. It runs in the process that Triton starts for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.backends.placement import Device, Placement
from runtime.decoding.scheduler import Scheduler
from runtime.embedding.errors import error_line
from runtime.embedding.library import Library, OpenTarget
from runtime.embedding.triton.answers import Answer, Courier
from runtime.embedding.triton.fields import OPTIONAL, PROMPT, Field, options_of
from runtime.embedding.triton.metrics import Metrics
from s2d_trt.errors import OptionError


class TritonPythonModel:
    """Triton calls its three methods; the work is done in the scheduler's thread and in the courier's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundles that config.pbtxt names."""
        given = json.loads(args["model_config"])["parameters"]
        settings = {name: value["string_value"] for name, value in given.items()}
        log = pb_utils.Logger
        placement = Placement(
            device=Device.parse(settings["device"]) if settings["device"] else None,
            threads=int(settings["threads"]) or None,
        )
        self._library = Library(Scheduler(int(settings["sequences"])), placement, False, log.log_info)
        draft = self._library.open_draft(settings["draft"]) if settings["draft"] else 0
        opened = [
            self._library.target(self._library.open_target(path, draft)) for path in json.loads(settings["targets"])
        ]
        self._targets: dict[str, OpenTarget] = {each.decoder.target.name: each for each in opened}
        self._metrics = Metrics(self._targets)
        self._courier = Courier(log.log_error)

    def execute(self, requests: Sequence[Any]) -> None:
        """Submit texts; their steps are sent later."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._submit(request, sender)
            except Exception as error:
                message = pb_utils.TritonError(error_line(error))
                sender.send(
                    pb_utils.InferenceResponse(error=message), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                )

    def finalize(self) -> None:
        """End all texts and close the engines."""
        self._library.close()
        self._courier.close()

    def _submit(self, given: Any, sender: Any) -> None:
        inputs = {field.name: value for field in (PROMPT, *OPTIONAL) if (value := _value(given, field)) is not None}
        name = inputs.get("target", next(iter(self._targets)))
        if name not in self._targets:
            raise OptionError(f"there is no target {name!r}; take one of {', '.join(self._targets)}")
        request = self._targets[name].decoder.request(inputs[PROMPT.name], options_of(inputs))
        answer = Answer(request, sender, bool(inputs.get("stream")), self._courier, self._metrics.of(name))
        self._library.service.follow(request, answer)


def _value(given: Any, field: Field) -> Any:
    """An input's value, a tuple where its size is not 1; None where it was not given. Raises OptionError."""
    tensor = pb_utils.get_input_tensor_by_name(given, field.name)
    if tensor is None:
        return None
    values = np.asarray(tensor.as_numpy()).reshape(-1).tolist()
    try:
        values = [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError as cause:
        raise OptionError(f"{field.name} is not UTF-8 (byte {cause.start}); convert it") from cause
    return tuple(values) if field.size != 1 else values[0]
