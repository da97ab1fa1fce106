"""What the server answers. The schema is made from these types, so it is true to what is sent."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

FinishReason = Literal["stop", "length"]
TurnReason = Literal["stop", "length", "tool_calls"]


class ErrorDetail(Struct):
    """What went wrong: ``param`` names the field, ``code`` the cause for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """OpenAI's form of an error."""

    error: ErrorDetail


class PromptTokens(Struct):
    """``cached_tokens`` of the prompts were taken over from earlier texts."""

    cached_tokens: int


class Usage(Struct):
    """Tokens of all prompts and choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class SpeculativeMetrics(Struct):
    """How well drafts were accepted, over all choices, in vLLM's form.

    A step counts where it verified at least one draft token; a draft token is a node that was verified.
    ``acceptance_histogram[j]`` is the number of steps that accepted j of them, ``accepted_per_position[i]`` of those
    that accepted more than i.
    """

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    accepted_per_position: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int


class Metrics(Struct):
    """Times of a request with one choice, in milliseconds; null where it has several. ``time_to_first_token_ms`` is
    from the start of the text on, behind ``queue_time_ms``. ``speculative_decoding`` is null where drafting was off."""

    time_to_first_token_ms: float | None
    generation_time_ms: float | None
    queue_time_ms: float | None
    mean_itl_ms: float | None
    tokens_per_second: float | None
    speculative_decoding: SpeculativeMetrics | None


class TextLogprobs(Struct):
    """Natural log-probabilities, an entry for each token. The first token of an echoed prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct):
    """A continuation. ``seed`` repeats it; ``exact`` says whether it is bit-identical to the target's own. Both come
    with the finish reason."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    seed: int | UnsetType = UNSET
    exact: bool | UnsetType = UNSET


class Completion(Struct):
    """The answer to a completion, or a part of it in a stream. A stream's last part has the usage, if asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    metrics: Metrics | UnsetType = UNSET


class TopLogprob(Struct):
    """One of the best tokens at a place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    """A token of the answer, and the best ones at its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """An entry for each token."""

    content: list[TokenLogprob]
    refusal: None = None


class CalledFunction(Struct):
    """``arguments`` is JSON as text; it is cut off where the finish reason is ``length``."""

    name: str
    arguments: str


class ToolCall(Struct):
    """A tool that the client is to run."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Struct):
    """The model's turn; ``content`` is null where it only calls tools."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    """One next turn, as ``CompletionChoice``."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: TurnReason | None
    seed: int
    exact: bool


class ChatCompletion(Struct):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    metrics: Metrics


class FunctionPart(Struct):
    """More of the arguments; the first part has the name."""

    arguments: str
    name: str | UnsetType = UNSET


class CallPart(Struct):
    """What a part adds to call ``index``; the first one has the id."""

    index: int
    function: FunctionPart
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(Struct):
    """What a part adds to the model's turn."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[CallPart] | UnsetType = UNSET


class ChunkChoice(Struct):
    """What a part adds to one choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: TurnReason | None
    seed: int | UnsetType = UNSET
    exact: bool | UnsetType = UNSET


class ChatChunk(Struct):
    """A part of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    metrics: Metrics | UnsetType = UNSET


class Model(Struct):
    """A target. ``draft`` names the sorted draft that helps it, ``exits`` its exits in layers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    draft: str | None
    exits: list[int]


class ModelList(Struct):
    """All targets."""

    object: Literal["list"]
    data: list[Model]


class Tokens(Struct):
    """Token ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]


class Text(Struct):
    """The text of token ids."""

    prompt: str


class Health(Struct):
    """Whether the server takes requests."""

    status: Literal["loading", "ready", "draining"]
