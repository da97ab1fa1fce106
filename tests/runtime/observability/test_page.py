"""The live page in a real browser, with no network but loopback."""

from __future__ import annotations

import http.client
import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from runtime.observability.monitor import Monitor
from runtime.observability.page import page as page_html
from runtime.serving.targets import ServedTarget
from tests.runtime.observability.live_server import PROMPT, LiveServer, live_server
from tests.runtime.observability.programs import load, needs

SIZE = 80_000
"""Bytes: uPlot has 51,000 of them."""
SECONDS = 30_000
"""Milliseconds that the page may take for anything."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
        browser = playwright.chromium.launch(**options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: LiveServer) -> Iterator[Page]:
    """The page; every request of it must go to its own server, and nothing may fail in it."""
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    # That a request is refused is no fault of the page.
    page.on("console", lambda each: faults.append(each.text) if re.search("policy|blocked", each.text, re.I) else None)
    page.goto(f"http://{server.address}/")
    yield page
    page.close()
    assert all(url.startswith((f"http://{server.address}/", "data:")) for url in asked)
    assert faults == []


def number(page: Page, model: str, name: str) -> str:
    return page.locator(f"article[data-model={model}] [data-name={name}] b").inner_text()


def test_it_is_one_small_file_that_loads_nothing() -> None:
    html = page_html()
    assert len(html.encode()) < SIZE
    assert "{{" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)""", re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL))


def test_a_browser_is_told_to_load_nothing_and_to_ask_nobody_else(server: LiveServer) -> None:
    connection = http.client.HTTPConnection(server.address)
    connection.request("GET", "/")
    policy = connection.getresponse().headers["Content-Security-Policy"]
    connection.close()
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


@needs("chromium")
def test_it_shows_each_target_and_its_numbers_move(page: Page, server: LiveServer) -> None:
    expect(page.locator("#state")).to_have_text("live", timeout=SECONDS)
    expect(page.locator("article")).to_have_count(2)
    assert number(page, "target", "tokens") == "0.0"
    with load(server):
        tokens = page.locator("article[data-model=target] [data-name=tokens] b")
        expect(tokens).not_to_have_text("0.0", timeout=SECONDS)
        expect(page.locator("article[data-model=target] [data-name=acceptance] b")).to_have_text(re.compile(r"\d+ %"))
        expect(page.locator("article[data-model=target] [data-name=speedup] b")).to_have_text(re.compile(r"\d\.\d\dx"))
    bars = page.locator("article[data-model=target] .acceptance-by-position .row")
    assert bars.count() == 3
    exits = page.locator("article[data-model=target] .answers-by-exit .row span:first-child").all_text_contents()
    assert exits == ["layer 2", "layer 4", "layer 6"]
    assert page.locator("#plots canvas").count() == 2
    expect(page.locator("#memory")).to_have_text(re.compile(r"memory [\d.]+ .iB of [\d.]+ .iB"))


@needs("chromium")
def test_a_text_appears_with_drafted_and_own_tokens_in_two_colours(page: Page, server: LiveServer) -> None:
    expected = server.complete(max_tokens=40, ignore_eos=False)["choices"][0]["text"]
    page.fill("#prompt", PROMPT)
    page.fill("#tokens", "40")
    page.select_option("#target", "target")
    page.click("#go")
    expect(page.locator("#summary")).to_contain_text("bit-identical to the target alone", timeout=SECONDS)
    assert page.locator("#text").inner_text() == expected
    accepted, own = page.locator("#text .accepted"), page.locator("#text .own")
    assert accepted.count() > 0
    assert own.count() > 0
    colours = [each.first.evaluate("e => getComputedStyle(e).backgroundColor") for each in (accepted, own)]
    assert len(set(colours)) == 2
    assert "draft tokens accepted" in page.locator("#summary").inner_text()


@needs("chromium")
def test_without_drafting_every_token_is_the_targets_own(page: Page) -> None:
    page.fill("#prompt", PROMPT)
    page.uncheck("#drafting")
    page.click("#go")
    expect(page.locator("#summary")).to_contain_text("tokens in", timeout=SECONDS)
    assert page.locator("#text .accepted").count() == 0


@needs("chromium")
def test_a_text_can_be_stopped_and_its_sequence_is_given_back(page: Page, server: LiveServer) -> None:
    page.fill("#prompt", PROMPT)
    page.fill("#tokens", "200")
    page.click("#go")
    expect(page.locator("#text span").first).to_be_attached(timeout=SECONDS)
    page.click("#go")
    expect(page.locator("#go")).to_have_text("Generate", timeout=SECONDS)
    expect(page.locator("article[data-model=target] [data-name=running] b")).to_have_text("0", timeout=SECONDS)


@needs("chromium")
def test_an_error_is_shown(page: Page) -> None:
    page.fill("#prompt", "")
    page.fill("#temperature", "2")
    page.evaluate("document.getElementById('tokens').value = '-5'")
    page.evaluate("document.getElementById('ask').noValidate = true")
    page.click("#go")
    expect(page.locator("#summary")).to_contain_text("max_tokens", timeout=SECONDS)


@needs("chromium")
def test_where_the_server_asks_for_a_key_the_page_sends_it(browser: Browser, targets: list[ServedTarget]) -> None:
    with live_server(targets, Monitor(), key="secret") as server:
        page = browser.new_page()
        page.goto(f"http://{server.address}/")
        page.fill("#prompt", PROMPT)
        page.click("#go")
        expect(page.locator("#summary")).to_contain_text("the key is missing or wrong", timeout=SECONDS)
        page.fill("#key", "secret")
        page.click("#go")
        expect(page.locator("#summary")).to_contain_text("tokens in", timeout=SECONDS)
        page.close()
