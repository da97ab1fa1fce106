"""Clients that ask, leave and err, and know what the answers must be."""

from __future__ import annotations

import asyncio
import contextlib
import json

from s2d_trt.errors import S2DError
from tests.benchmarks.serving.client import post
from tests.benchmarks.serving.soak import Soak

TEMPLATE = (
    "{% if messages[0].content == 'for ever' %}{% for _ in range(99999) %}{% for _ in range(99999) %}{% endfor %}"
    "{% endfor %}{% elif messages[0].content == 'much' %}{{ 'x' * 10**9 }}{% endif %}{{ messages[0].content }}"
)
"""Of the target whose clients err: two conversations run into its limits."""
KNOWN = 16
"""Texts that are asked for again and again, and must stay as they were before the first fault."""


class MixedLoad(Soak):
    """A soak whose clients also ask for known texts, send what is no HTTP, and render what has no end."""

    known: dict[bytes, str]
    different = 0

    async def know(self) -> None:
        """Ask for the known texts, from the target alone."""
        self.known = {}
        for seed in range(KNOWN):
            fields = {"seed": seed, "max_tokens": self._new, "temperature": seed % 2}
            alone, drafted = (self._body(self.whole, **fields, speculative={"enabled": on}) for on in (False, True))
            body = json.loads(drafted) | {"prompt": json.loads(alone)["prompt"]}
            reply = await self._post(alone)
            if reply.status != 200:
                raise S2DError(f"the server answers {reply.status}: {reply.body[:300]!r}")
            self.sums["texts"] += 1
            self._count(reply.final)
            self.known[json.dumps(body).encode()] = reply.text

    async def _ask(self) -> None:
        if self._rng.random() < 0.7:
            return await super()._ask()
        body = self._rng.choice(list(self.known))
        reply = await self._post(body)
        if reply.status == 200:
            self.sums["texts"] += 1
            self._count(reply.final)
            self.sums["known"] += 1
            self.different += reply.text != self.known[body]
        elif reply.status != 429:
            self.wrong.append(f"status {reply.status}: {reply.body[:200]!r}")
        return None

    async def _err(self) -> None:
        await self._rng.choice((super()._err, super()._err, self._chat, self._no_http, self._slowly))()

    async def _chat(self) -> None:
        content = self._rng.choice(("a", "a", "for ever", "much"))
        body = {"model": self._broken, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
        reply = await post(self._running.host_and_port, "/v1/chat/completions", json.dumps(body).encode())
        self.statuses[reply.status] += 1
        if reply.status not in ((200, 429) if content == "a" else (400, 422, 429)):
            self.wrong.append(f"status {reply.status} for the conversation {content!r}: {reply.body[:200]!r}")

    async def _no_http(self) -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(*self._running.host_and_port)
            writer.write(self._rng.randbytes(200) + b"\r\n\r\n")
            await asyncio.wait_for(reader.read(), 30)
            writer.close()

    async def _slowly(self) -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(*self._running.host_and_port)
            for byte in b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9999\r\n\r\n{":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)
            writer.close()
