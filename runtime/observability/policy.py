"""GET and PUT /admin/policy: how each target drafts, changed while it serves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from runtime.decoding.options import Options
from runtime.drafting.fixed import FixedThresholds
from runtime.drafting.options import Policy
from runtime.serving.exchange import body_of, exchange_of, json_response
from runtime.serving.fields import Speculative, Tree
from runtime.serving.requests import drafting
from runtime.serving.state import ServerState
from runtime.serving.targets import ServedTarget


class PolicyBody(Speculative, forbid_unknown_fields=True):
    """The new policy, in the form of a request's ``speculative``, of one target or of all. It takes the place of the
    old one whole: a field that is left out has its default.
    """

    model: str | None = None


class TargetPolicy(Struct):
    """How a target's texts are drafted unless a request says otherwise. ``exact`` says whether they can be
    bit-identical to the target's own: not where a tree with branches is asked for.
    """

    enabled: bool
    policy: Literal["adaptive", "fixed"]
    thresholds: list[float] | None
    tree: Tree | None
    exact: bool


class Policies(Struct):
    """By target."""

    targets: dict[str, TargetPolicy]


async def get_policy(http: Request, state: ServerState) -> Response:
    """The policies of all targets."""
    state.texts  # noqa: B018  raises while loading
    return json_response(_policies(state))


async def put_policy(http: Request, state: ServerState) -> Response:
    """Replace the policy of one target or of all; of all or none, where it does not fit every one of them.

    Texts that are under way keep the policy that they began with.

    Raises:
        ApiError, S2DError: the body is wrong, or the policy does not fit a target's draft.
    """
    body = await body_of(http, PolicyBody, state.limits.max_body, state.limits.body_seconds)
    state.texts  # noqa: B018  raises while loading
    changed = list(state.targets.values()) if body.model is None else [state.target(body.model)]
    exchange_of(http).model = body.model
    policy, draft = drafting(body, Policy(), draft=True)
    for served in changed:
        served.decoder.check(Options(policy=policy, draft=draft, exact=served.exact))
    for served in changed:
        served.policy, served.draft = policy, draft
    return json_response(_policies(state))


def _policies(state: ServerState) -> Policies:
    return Policies({name: _described(served) for name, served in state.targets.items()})


def _described(served: ServedTarget) -> TargetPolicy:
    policy, options = served.policy, Options(policy=served.policy, draft=served.draft)
    fixed = policy.exit if isinstance(policy.exit, FixedThresholds) else None
    wanted = served.decoder.target.exact_by_default if served.exact is None else served.exact
    return TargetPolicy(
        served.draft,
        "fixed" if fixed else "adaptive",
        list(fixed.thresholds) if fixed and fixed.thresholds else None,
        Tree(**asdict(policy.tree)) if policy.tree else None,
        wanted and options.allows_exact,
    )
