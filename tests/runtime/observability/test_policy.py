"""An operator changes how targets draft while they serve; texts under way keep their bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runtime.drafting.adaptive import Adaptive
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.observability.monitor import Monitor
from runtime.serving.targets import ServedTarget
from runtime.tree.shape import TreeShape
from tests.runtime.observability.live_server import LiveServer, live_server

KEY = "secret"
POLICIES: list[dict[str, Any]] = [
    {"policy": "adaptive"},
    {"thresholds": [0.9, 0.1, 0]},
    {"enabled": False},
    {"policy": "fixed", "tree": {"depth": 6, "top_k": 1}},
    {},
]


@pytest.fixture
def server(targets: list[ServedTarget]) -> Iterator[LiveServer]:
    """Lets its policy be changed with the key."""
    with live_server(targets, Monitor(admin=True), KEY) as server:
        yield server


def put(server: LiveServer, body: Any) -> tuple[int, dict[str, Any]]:
    status, answer = server.ask("PUT", "/admin/policy", body)
    return status, json.loads(answer)


def test_it_is_off_by_default(targets: list[ServedTarget]) -> None:
    with live_server(targets, Monitor(), KEY) as server:
        assert [server.ask(method, "/admin/policy", {})[0] for method in ("GET", "PUT")] == [404, 404]


def test_it_is_behind_the_key(server: LiveServer) -> None:
    server.key = None
    assert [server.ask(method, "/admin/policy", {})[0] for method in ("GET", "PUT")] == [401, 401]
    assert server.ask("GET", "/admin/policy", key="wrong")[0] == 401


def test_what_is_put_is_what_is_got_and_what_new_texts_draft_by(server: LiveServer) -> None:
    status, answer = put(server, {"model": "target", "thresholds": [0.7, 0.6, 0], "tree": {"depth": 4}})
    assert status == 200
    assert answer["targets"]["target"] == {
        "enabled": True,
        "policy": "fixed",
        "thresholds": [0.7, 0.6, 0.0],
        "tree": {"depth": 4, "top_k": 1, "nodes": 60},
        "exact": True,
    }
    assert json.loads(server.ask("GET", "/admin/policy")[1]) == answer
    policy = server.state.targets["target"].policy
    assert policy == Policy(FixedThresholds((0.7, 0.6, 0.0)), TreeShape(depth=4))
    assert server.state.targets["other"].policy != policy


def test_without_a_model_all_targets_change(server: LiveServer) -> None:
    assert put(server, {"policy": "adaptive"})[0] == 200
    assert [target.policy for target in server.state.targets.values()] == [Policy(Adaptive())] * 2


def test_drafting_can_be_turned_off_and_on(server: LiveServer) -> None:
    put(server, {"enabled": False})
    assert server.complete()["metrics"]["speculative_decoding"] is None
    put(server, {"policy": "fixed"})
    assert server.complete()["metrics"]["speculative_decoding"]["num_draft_tokens"] > 0


def test_a_tree_with_branches_is_said_not_to_be_exact(server: LiveServer) -> None:
    _, answer = put(server, {"tree": {"top_k": 3}, "model": "other"})
    assert [answer["targets"][name]["exact"] for name in ("target", "other")] == [True, False]


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"thresholds": [0.5, 0]}, 400, "2 thresholds for 3 exits"),
        ({"policy": "adaptive", "thresholds": [0.5, 0.5, 0]}, 400, "leave them out"),
        ({"tree": {"depth": 255, "top_k": 8}}, 400, "draft rows"),
        ({"thresholds": "high"}, 400, "thresholds"),
        ({"treshold": [0.5]}, 400, "'treshold' is not supported"),
        ({"model": "none"}, 404, "there is no model 'none'"),
        ([1], 400, "the body"),
    ],
)
def test_what_does_not_fit_changes_nothing(server: LiveServer, body: Any, status: int, part: str) -> None:
    before = {name: target.policy for name, target in server.state.targets.items()}
    found, answer = put(server, body)
    assert found == status
    assert part in answer["error"]["message"]
    assert {name: target.policy for name, target in server.state.targets.items()} == before


def test_texts_keep_their_bits_while_the_policy_changes(server: LiveServer) -> None:
    """Each is what it is alone, whatever policy it began with and whatever came while it ran."""
    asked = [
        {"prompt": f"a tree of tokens {number}", "max_tokens": 60, "seed": number, "temperature": 0.8, "logprobs": 1}
        for number in range(12)
    ]
    alone = [server.complete(**fields, speculative={"enabled": False})["choices"] for fields in asked]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.complete, **fields) for fields in asked]
        number = 0
        while not all(answer.done() for answer in answers):
            assert put(server, POLICIES[number % len(POLICIES)])[0] == 200
            number += 1
    assert number > len(POLICIES)
    assert [answer.result()["choices"] for answer in answers] == alone
