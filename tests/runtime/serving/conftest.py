"""Decoders to serve, and a server that most tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.drafting.sorted_draft import SortedDraft
from runtime.targets.target import Target

NEEDED = ("msgspec", "starlette", "uvicorn", "httpx")
TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'developer' %}{{ raise_exception('this model knows no developer') }}{% endif -%}
{{ message.role }}: {{ message.content }}
{% endfor -%}
{%- if add_generation_prompt %}assistant: {% endif -%}
"""


@pytest.fixture(scope="session", autouse=True)
def _packages() -> None:
    for name in NEEDED:
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[serve,dev]'")


@pytest.fixture(scope="module", autouse=True)
def _known_costs(known_costs: None) -> None:
    """How fast texts come does not matter here."""


@pytest.fixture(scope="session")
def chat_bundle(target_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, engines: Path) -> Path:
    """The agreeing target with a chat template."""
    from export import target as export_target

    checkpoint = Path(shutil.copytree(target_checkpoint, tmp_path_factory.mktemp("chat") / "checkpoint"))
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    out = engines / "chat.engine"
    export_target.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity"])
    return out


@pytest.fixture(scope="session")
def served(target: Target, other_target: Target, chat_bundle: Path, draft: SortedDraft) -> dict[str, Decoder]:
    """Three targets over one draft, by name."""
    chat = Target.open(chat_bundle, Placement(threads=1))
    return {each.name: Decoder(each, draft) for each in (target, other_target, chat)}


@pytest.fixture(scope="session")
def server(served: dict[str, Decoder]) -> Iterator[Any]:
    """Serves all targets, without a key. Tests leave it as it was."""
    from tests.runtime.serving.running import RunningServer

    with RunningServer(list(served.values())) as running:
        yield running
