"""The page at `/` in a real browser: headless Chromium against a server of this machine.

What the page shows is compared with what the server was told to say (`web_host`), and once the real server says it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server extra is not installed")
pytest.importorskip("uvicorn", reason="the server extra is not installed")
pytest.importorskip("multipart", reason="the server extra is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from web_host import HOSTILE, KEY, SHOWCASE, Host, serving

from cactus_py.serving import web

CHROMIUM = next((path for name in ("chromium", "google-chrome", "chromium-browser") if (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
WAIT_S = 30

needs_browser = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed")


class Page:
    """One tab."""

    def __init__(self, driver: Any, host: Any) -> None:
        self.driver = driver
        self.host = host
        driver.get(host.url)
        self.until(lambda: self.one("#model").is_enabled() or self.text("#notice"))

    def one(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements(By.CSS_SELECTOR, css)
        return found

    def text(self, css: str) -> str:
        """What an element says; nothing where there is none. Hidden text counts as none."""
        found = self.all(css)
        return str(found[-1].text) if found else ""

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05).until(lambda _: condition())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def choose(self, model: str) -> None:
        Select(self.one("#model")).select_by_value(model)

    def ask(self, text: str) -> None:
        self.one("#input").send_keys(text + Keys.ENTER)

    def answered(self) -> Any:
        """The last answer, once it is complete."""
        self.until(lambda: self.all(".message.assistant.last") and not self.all("[aria-busy]"))
        return self.one(".message.assistant.last")

    def problems(self) -> list[str]:
        """What the console has to complain about. A refused request is logged there by the browser itself."""
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        return [line for line in lines if "Failed to load resource" not in line]

    def requests(self) -> list[str]:
        """The addresses of all requests since the last call, as the browser's network layer saw them."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """One browser for all tests; every test loads the page anew."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,860"]
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--disable-background-networking"]
    flags += ["--force-prefers-reduced-motion"]  # what fades in counts as hidden at first, however briefly
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def scripted() -> Iterator[Host]:
    with serving(Host()) as host:
        yield host


@pytest.fixture
def page(driver: Any, scripted: Host) -> Iterator[Page]:
    """The page over scripted models. Whatever a test does: no complaint of the browser, no request to anybody else."""
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get_log("performance")
    scripted.chats.clear()
    scripted.sounds.clear()
    page = Page(driver, scripted)
    yield page
    page.run("localStorage.clear(); sessionStorage.clear()")
    assert page.problems() == []
    elsewhere = [url for url in page.requests() if not url.startswith((scripted.url, "data:", "blob:", "about:"))]
    assert elsewhere == []


# ---- what needs no browser -----------------------------------------------------------------------------------------------


def test_the_page_is_what_the_table_says() -> None:
    folder = Path(web.__file__).parent
    assert {path.name for path in folder.iterdir() if path.suffix not in (".py", ".pyc") and path.is_file()} == set(web.FILES)
    for name in web.FILES:
        assert web.read(name) == (folder / name).read_bytes()
    for name in ("../metrics.py", "__init__.py", "", "INDEX.HTML"):
        with pytest.raises(KeyError):
            web.read(name)


def test_nothing_in_the_page_makes_markup_of_text_or_loads_from_elsewhere() -> None:
    for name in web.FILES:
        text = web.read(name).decode()
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            " style=",
            "onclick=",
        ):
            assert word not in text, (name, word)
        for url in ("http:", "https:", "//cdn"):
            for at in (i for i in range(len(text)) if text.startswith(url, i)):
                around = text[at : at + 30]
                assert around.startswith(("http://www.w3.org/2000/svg", 'http:", "https:"', 'https:", "mailto:"')), (
                    name,
                    around,
                )


def test_the_policy_is_strict() -> None:
    policy = dict(part.split(" ", 1) for part in web.HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in web.HEADERS["Content-Security-Policy"]


# ---- chat ----------------------------------------------------------------------------------------------------------------


@needs_browser
def test_an_answer(page: Page) -> None:
    page.ask("How do cacti store water?")
    answer = page.answered()
    assert page.one(".message.user .text").text == "How do cacti store water?"
    assert answer.find_element(By.CSS_SELECTOR, "strong").text == "thick stems"
    assert [item.text.split("\n")[0] for item in answer.find_elements(By.CSS_SELECTOR, ".answer > ol > li")] == [
        "Ribs fold like an accordion, so that the stem can swell.",
        "Wax on the skin holds vapour back.",
        "Pores open in the dark, see CAM.",
    ]
    assert len(answer.find_elements(By.CSS_SELECTOR, "ol ul > li")) == 2
    assert answer.find_element(By.CSS_SELECTOR, "pre code").text.startswith("def stored_litres(")
    assert len(answer.find_elements(By.CSS_SELECTOR, "tbody td")) == 6
    link = answer.find_element(By.CSS_SELECTOR, "a")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    facts = [fact.text for fact in answer.find_elements(By.CSS_SELECTOR, ".fact")]
    assert facts[:5] == ["script-7b", "local", "87 % sure", "321 tokens", "123.4 tokens/s"]
    assert facts[5].startswith("first token ")
    assert page.host.chats[-1] == {
        "model": "script",
        "messages": [{"role": "user", "content": "How do cacti store water?"}],
        "temperature": 0.7,
        "handoff": "restart",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert page.one("#spoken").get_attribute("textContent").startswith("Answer: Cacti keep water")


@needs_browser
def test_reasoning_is_folded(page: Page) -> None:
    page.ask("Why?")
    answer = page.answered()
    thought = answer.find_element(By.CSS_SELECTOR, ".reasoning .text")
    assert not thought.is_displayed()
    answer.find_element(By.CSS_SELECTOR, "summary").click()
    assert thought.text == "The reader asks about water."


@needs_browser
def test_turns_settings_and_another_answer(page: Page) -> None:
    page.one("#settings-open").click()
    page.one("#system").send_keys("Be brief.")
    page.one("#temperature").clear()
    page.one("#top_p").send_keys("0.7")
    page.one("#max_tokens").send_keys("64")
    page.one("#settings").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.one("#settings").is_displayed())
    page.ask("One")
    page.answered()
    page.ask("Two")
    page.answered()
    sent = page.host.chats[-1]
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert (sent["top_p"], sent["max_tokens"]) == (0.7, 64) and "temperature" not in sent
    page.one(".message.last .again").click()
    page.until(lambda: len(page.host.chats) == 3)
    page.answered()
    assert page.host.chats[2] == sent
    assert len(page.all(".message")) == 4
    page.one(".message.user button").click()  # edit the first question: what followed is gone
    assert page.all(".message") == []
    assert page.one("#input").get_attribute("value") == "One"


@needs_browser
def test_an_answer_that_is_handed_over(page: Page) -> None:
    """What was shown before `replaces` is gone; the facts tell where the answer was made, and why."""
    page.choose("handed")
    page.one("#settings-open").click()
    page.one("#local_only").click()
    Select(page.one("#route")).select_by_value("local")
    page.one("#settings").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.one("#settings").is_displayed())
    page.ask("Which?")
    answer = page.answered()
    assert answer.find_element(By.CSS_SELECTOR, ".answer").text == "The right answer."
    assert not answer.find_element(By.CSS_SELECTOR, ".reasoning").is_displayed()
    facts = answer.find_elements(By.CSS_SELECTOR, ".fact")
    assert [fact.text for fact in facts[:2]] == ["cloud-1", "cloud"]
    assert "low_confidence: 0.21" in facts[1].get_attribute("title")
    answer.find_element(By.CSS_SELECTOR, ".why summary").click()
    reasons = [item.text for item in answer.find_elements(By.CSS_SELECTOR, ".why li")]
    assert reasons == ["low_confidence: 0.21 of what there is, 0.50 wanted", "<b>odd</b>"]
    sent = page.host.chats[-1]
    assert (sent["privacy"], sent["route"], sent["handoff"]) == ("local_only", "local", "restart")


@needs_browser
def test_a_setting_out_of_range_is_said(page: Page) -> None:
    page.one("#settings-open").click()
    page.one("#temperature").clear()
    page.one("#temperature").send_keys("9")
    page.one("#settings").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.one("#settings").is_displayed())
    page.ask("Hello")
    page.answered()
    assert page.text(".failure").startswith("Temperature: ")
    assert page.host.chats == []


@needs_browser
def test_stop(page: Page) -> None:
    page.host.closed.clear()
    page.choose("endless")
    page.ask("Go on")
    page.until(lambda: "word5" in page.text(".answer"))
    assert page.one("#stop").is_displayed() and not page.one("#send").is_displayed()
    page.until(lambda: any(fact.endswith("tokens/s") for fact in page.text(".about").split("\n")))  # while it runs
    page.one("#stop").click()
    answer = page.answered()
    assert "stopped" in answer.find_element(By.CSS_SELECTOR, ".about").text
    assert page.host.closed.wait(WAIT_S)  # the server saw it
    shown = page.text(".answer")
    time.sleep(0.3)
    assert page.text(".answer") == shown
    assert page.one("#send").is_displayed()


@needs_browser
def test_tool_calls(page: Page) -> None:
    page.one("#settings-open").click()
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    page.one("#tools").send_keys(json.dumps(tools))
    page.one("#settings").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.one("#settings").is_displayed())
    page.ask("Weather?")
    page.answered()
    assert page.text(".call .code-head") == "Tool call: weather"
    assert json.loads(page.text(".call code")) == {"city": "<b>Graz</b>"}
    assert page.host.chats[-1]["tools"] == tools


@needs_browser
@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("failing", "The prompt is longer than the context."),
        ("broken", "The connection ended before the answer did."),
    ],
)
def test_failures_are_one_sentence(page: Page, model: str, sentence: str) -> None:
    page.choose(model)
    page.ask("Hello")
    page.answered()
    assert page.text(".failure") == sentence


@needs_browser
def test_markup_stays_text(page: Page) -> None:
    """In a question, in an answer, in a conversation from a file."""
    page.choose("hostile")
    title = page.driver.title
    page.ask("<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>")
    page.answered()
    assert page.text(".message.user .text").startswith("<img src=x onerror=")
    assert "<img src=x onerror=" in page.text(".answer p")
    assert page.text(".answer pre") == "<script>document.title='owned'</script>"
    hostile = {
        "role": "assistant",
        "text": HOSTILE,
        "reasoning": HOSTILE,
        "failure": HOSTILE,
        "about": {"model": "<img src=x>"},
    }
    attached = [
        {"kind": "image", "name": "x", "url": "https://elsewhere.invalid/x.png"},
        {"kind": "image", "url": "data:image/svg+xml,x"},
    ]
    conversation = {"title": "<img src=x>", "messages": [{"role": "user", "text": "x", "attached": attached}, hostile, None, 7]}
    exported = {"format": "cactus-py conversations", "version": 1, "conversations": [conversation, None]}
    page.run(
        """const files = new DataTransfer();
           files.items.add(new File([arguments[0]], "c.json"));
           const field = document.getElementById("import-file");
           field.files = files.files;
           field.dispatchEvent(new Event("change"));""",
        json.dumps(exported),
    )
    page.until(lambda: page.text("#conversations .current .title") == "<img src=x>")
    assert page.all("#log img") == page.all("#log script") == page.all("#log svg[onload]") == []
    links = [link.get_attribute("href") for link in page.all("#log a")]
    assert set(links) <= {"https://elsewhere.invalid/p.png"}  # a picture is a link, and nothing has loaded it
    assert page.driver.title == title


@needs_browser
def test_the_policy_holds(page: Page) -> None:
    """A script that somehow came into the page would not run, nor reach anybody, nor make markup of text."""
    page.run(
        """const script = document.createElement("script");
           try { script.textContent = "document.title = 1" } catch { }
           document.body.append(script)"""
    )
    assert page.driver.title == "cactus"
    assert (
        page.run("try { document.body.innerHTML += '<b>x</b>'; return 'made' } catch (error) { return error.name }")
        == "TypeError"
    )
    asked = "return fetch('https://elsewhere.invalid/').then(() => 'sent', (error) => error.name)"
    assert page.run(asked) == "TypeError"
    problems = page.problems()
    assert problems and [line for line in problems if "Content Security Policy" not in line and "Trusted" not in line] == []
    page.requests()


@needs_browser
def test_events_cut_anywhere(page: Page) -> None:
    """Server-sent events as the standard has them, in two pieces cut at every byte, and byte by byte."""
    text = 'data: {"a": "ä🌵"}\n\n: a comment\r\n\r\ndata:x\ndata: y\r\rid: 7\nevent: z\n\ndata: [DONE]\n\n'
    differing = page.driver.execute_async_script(
        """const [text, expected, done] = arguments;
        import("/web/api.js").then(async ({ events }) => {
          const stream = (pieces) => new ReadableStream({
            start(controller) {
              pieces.forEach((piece) => controller.enqueue(piece));
              controller.close();
            },
          });
          const bytes = new TextEncoder().encode(text);
          const cuts = [...bytes.keys()].map((cut) => [bytes.slice(0, cut), bytes.slice(cut)]);
          cuts.push([...bytes].map((byte) => Uint8Array.of(byte)));
          const found = [];
          for (const pieces of cuts) {
            const got = [];
            for await (const data of events(stream(pieces))) got.push(data);
            if (JSON.stringify(got) !== JSON.stringify(expected)) found.push(got);
          }
          done(found);
        }).catch((error) => done(String(error)));""",
        text,
        ['{"a": "ä🌵"}', "x\ny", "[DONE]"],
    )
    assert differing == []


# ---- markdown ------------------------------------------------------------------------------------------------------------

RENDER = """const [text, done] = arguments;
import("/web/markdown.js").then(({ show }) => {
  const place = document.createElement("div");
  show(place, text);
  done(place.innerHTML);
}, (error) => done(String(error)));"""

# Markdown -> HTML, as the CommonMark specification and GitHub's tables have it; headings are two levels lower on this page, and
# a list is tight. Attributes that only style are left out of the comparison.
MARKDOWN = [
    ("# One #\n## Two", "<h3>One</h3><h4>Two</h4>"),
    ("#no heading", "<p>#no heading</p>"),
    ("a\nb\n\nc", "<p>a\nb</p><p>c</p>"),
    ("a  \nb", "<p>a<br>b</p>"),
    (
        "**a** *b* __c__ _d_ ~~e~~ `f *g*`",
        "<p><strong>a</strong> <em>b</em> <strong>c</strong> <em>d</em> <s>e</s> <code>f *g*</code></p>",
    ),
    ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
    ("snake_case_name 2 * 3 * 4", "<p>snake_case_name 2 * 3 * 4</p>"),
    (r"\*not\*", "<p>*not*</p>"),
    ("`` a`b ``", "<p><code>a`b</code></p>"),
    ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("1. a\n\n   b\n2. c", "<ol><li>a<p>b</p></li><li>c</li></ol>"),
    ("- a\n\n\n\n- b\n\nc", "<ul><li>a</li><li>b</li></ul><p>c</p>"),
    ("* a\n1. b", "<ul><li>a</li></ul><ol><li>b</li></ol>"),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("a\n\n---\n\n***", "<p>a</p><hr><hr>"),
    ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
    ("[a](data:text/html,x) <script>", "<p>[a](data:text/html,x) &lt;script&gt;</p>"),
    ("[a](https://b.c/d_(e))", '<p><a href="https://b.c/d_(e)">a</a></p>'),
    ("see https://b.c/d.", '<p>see <a href="https://b.c/d">https://b.c/d</a>.</p>'),
    ("![a](https://b.c/d.png)", '<p><a href="https://b.c/d.png">a</a></p>'),
    (
        "| a | b |\n|---|--:|\n| 1 | `x\\|y` |\n\nc",
        "<div><table><thead><tr><th>a</th><th>b</th></tr></thead>"
        "<tbody><tr><td>1</td><td><code>x|y</code></td></tr></tbody></table></div><p>c</p>",
    ),
    ("&amp; <b>x</b>", "<p>&amp;amp; &lt;b&gt;x&lt;/b&gt;</p>"),
]
STYLING = re.compile(r' (?:class|tabindex|role|aria-label|rel|target)="[^"]*"')


def rendered(page: Page, text: str) -> str:
    return STYLING.sub("", str(page.driver.execute_async_script(RENDER, text)))


@needs_browser
def test_markdown(page: Page) -> None:
    assert [(text, rendered(page, text)) for text, _ in MARKDOWN] == MARKDOWN


@needs_browser
def test_markdown_in_pieces_is_the_same_as_whole(page: Page) -> None:
    """An answer grows; only the blocks that differ are drawn again, and the end result is that of drawing it once."""
    differing = page.driver.execute_async_script(
        """const [texts, done] = arguments;
        import("/web/markdown.js").then(({ show }) => done(texts.filter((text) => {
          const [grown, whole] = [document.createElement("div"), document.createElement("div")];
          for (let i = 0; i <= text.length; i += 3) show(grown, text.slice(0, i));
          show(grown, text);
          show(whole, text);
          return grown.innerHTML !== whole.innerHTML;
        })), (error) => done([String(error)]));""",
        [SHOWCASE, HOSTILE, *(text for text, _ in MARKDOWN)],
    )
    assert differing == []


@needs_browser
@pytest.mark.parametrize(
    "text",
    [
        *("# " + " " * 50_000 + "x", "```" + " " * 50_000 + "`", " " * 50_000 + "-x|\n" + " " * 50_000 + "-x|"),
        *("- a\n" + "\n" * 50_000 + "b", "a|b\n" + "-|" * 20_000, "x" + " " * 50_000 + "y", ">" * 20_000 + " a"),
        *("[" * 50_000, "](" * 30_000, "*a " * 10_000, "`" * 30_000, "https://" * 5_000, "- " * 10_000),
    ],
    ids=lambda text: repr(text[:8]),
)
def test_markdown_that_is_hard_to_match(page: Page, text: str) -> None:
    """Ends at all, and loses no letter: a browser stops a script that runs for too long."""
    page.driver.set_script_timeout(WAIT_S)
    html = rendered(page, text)
    assert html.startswith("<") and html.count("a") >= text.count("a") // 2


# ---- conversations, theme, keys ------------------------------------------------------------------------------------------


@needs_browser
def test_conversations(page: Page) -> None:
    page.ask("First question")
    page.answered()
    page.one("#new").click()
    assert page.all(".message") == []
    page.ask("Second question")
    page.answered()
    titles = [button.text for button in page.all("#conversations .title")]
    assert titles == ["Second question", "First question"]
    page.all("#conversations .title")[1].click()
    assert page.text(".message.user .text") == "First question"
    exported = page.run(
        """const make = URL.createObjectURL;
           const made = new Promise((resolve) => {
             URL.createObjectURL = (blob) => { resolve(blob.text()); return make(blob); };
           });
           document.getElementById("export").click();
           URL.createObjectURL = make;
           return made;"""
    )
    read = json.loads(exported)
    assert [one["title"] for one in read["conversations"]] == titles
    assert read["conversations"][0]["messages"][1]["about"]["confidence"] == 0.87
    page.one("#conversations .current .icon-button").click()
    assert [button.text for button in page.all("#conversations .title")] == ["Second question"]


@needs_browser
def test_colours(page: Page) -> None:
    def ground() -> str:
        return str(page.run("return getComputedStyle(document.body).backgroundColor"))

    seen = {}
    for theme in ("light", "dark", "as the system"):
        page.one("#theme").click()
        assert page.one("#theme").get_attribute("aria-label") == f"Colours: {theme}"
        seen[theme] = ground()
    assert seen["light"] != seen["dark"]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    assert ground() == seen["dark"]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@needs_browser
def test_a_narrow_screen(page: Page) -> None:
    size = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.ask("How?")
        page.answered()
        assert page.run("return document.documentElement.scrollWidth") <= 360
        page.until(lambda: not page.one("#side").is_displayed())  # it slides out as the screen becomes narrow
        page.one("#side-open").click()
        page.until(lambda: page.one("#new").is_displayed())
        page.one("body").send_keys(Keys.ESCAPE)
        page.until(lambda: not page.one("#side").is_displayed())
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_browser
def test_everything_has_a_name_and_can_be_reached_by_keyboard(page: Page) -> None:
    page.ask("How?")
    page.answered()
    nameless = page.run(
        """return [...document.querySelectorAll("button, input, select, textarea")].filter((node) =>
             !node.closest("[aria-hidden=true]") && node.type !== "file" && !node.textContent.trim() &&
             !node.getAttribute("aria-label") && !node.labels?.length).map((node) => node.outerHTML)"""
    )
    assert nameless == []
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = set()
    for _ in range(40):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(page.run("return document.activeElement.id"))
    assert {"new", "export", "theme", "model", "settings-open", "input", "send"} <= reached


@needs_browser
def test_live_view(page: Page) -> None:
    page.until(lambda: float(page.text("#live-rate") or 0) > 20)  # 40 or 55 tokens per second
    assert page.text("#live-kv-text") == "42 %"  # 84 of 200 pages
    assert page.text("#live-queue") == "2 running"
    assert len(page.one("#live-line").get_attribute("points").split()) >= 1


@needs_browser
def test_a_server_that_wants_a_key(driver: Any) -> None:
    with serving(Host(key=KEY)) as host:
        page = Page(driver, host)
        page.until(lambda: page.one("#settings").is_displayed())
        assert page.text("#notice").startswith("This server wants an API key")
        page.one("#key").send_keys(KEY)
        page.one("#settings").send_keys(Keys.ESCAPE)
        page.until(lambda: page.one("#model").is_enabled())
        assert page.text("#notice") == ""
        page.ask("Hello")
        assert "thick stems" in page.answered().text
        assert page.run("return JSON.stringify({...localStorage})").find(KEY) < 0
        assert KEY in page.run("return JSON.stringify({...sessionStorage})")
        driver.get_log("browser")


# ---- attachments ---------------------------------------------------------------------------------------------------------


def wav_file(seconds: float) -> bytes:
    """A tone in stereo at 44.1 kHz, which the page has to mix and resample."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        n = int(44100 * seconds)
        file.writeframes(b"".join(struct.pack("<hh", *((int(9000 * ((i // 50) % 2 * 2 - 1)),) * 2)) for i in range(n)))
    return out.getvalue()


@needs_browser
def test_attachments_are_offered_where_the_model_can(page: Page) -> None:
    offered = {}
    for model in ("hostile", "senses", "scribe"):
        page.choose(model)
        offered[model] = [name for name in ("image", "audio", "mic") if page.one(f"#attach-{name}").is_displayed()]
    # The microphone is there for every model, because another one of this server can write down what is said.
    assert offered == {"hostile": ["mic"], "senses": ["image", "audio", "mic"], "scribe": ["audio", "mic"]}


@needs_browser
def test_image_and_sound(page: Page, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(PNG)
    (tmp_path / "tone.wav").write_bytes(wav_file(0.5))
    page.choose("senses")
    page.one("#image-file").send_keys(str(tmp_path / "dot.png"))
    page.until(lambda: len(page.all("#attached li")) == 1)
    page.one("#audio-file").send_keys(str(tmp_path / "tone.wav"))
    page.until(lambda: len(page.all("#attached li")) == 2)
    assert "tone.wav · 0.5 s" in page.text("#attached")
    page.ask("What is it?")
    assert page.answered().find_element(By.CSS_SELECTOR, ".answer").text == "I see and hear it."
    picture, sound, text = page.host.chats[-1]["messages"][0]["content"]
    assert picture == {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()}}
    assert text == {"type": "text", "text": "What is it?"}
    assert sound["input_audio"]["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(sound["input_audio"]["data"]))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        assert file.getnframes() == pytest.approx(8000, abs=2)
        frames = file.readframes(4000)
    assert max(struct.unpack(f"<{len(frames) // 2}h", frames)) == pytest.approx(9000, rel=0.35)  # a square wave overshoots


@needs_browser
def test_a_file_that_is_no_sound(page: Page, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"RIFF" + bytes(100))
    page.choose("senses")
    page.one("#audio-file").send_keys(str(tmp_path / "noise.wav"))
    page.until(lambda: page.text("#notice") == "This file holds no sound that the browser can read.")


@needs_browser
def test_microphone(page: Page) -> None:
    """With a chat model the sound becomes the text of the message; with a transcription model, the question itself."""
    page.one("#attach-mic").click()
    page.until(lambda: page.text("#recording") == "Recording…")
    time.sleep(0.6)
    page.one("#attach-mic").click()
    page.until(lambda: page.one("#input").get_attribute("value") == "what was said")
    with wave.open(io.BytesIO(page.host.sounds[0])) as file:
        assert file.getframerate() == 16000 and file.getnframes() > 1600

    page.choose("scribe")
    assert not page.one("#input").is_enabled()
    page.one("#attach-mic").click()
    page.until(lambda: page.text("#recording") == "Recording…")
    time.sleep(0.6)
    page.one("#attach-mic").click()
    page.until(lambda: page.all("#attached li"))
    page.one("#send").click()
    assert page.answered().find_element(By.CSS_SELECTOR, ".answer").text == "what was said"
    assert len(page.host.sounds) == 2


# ---- the real server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def real_url(smollm2_path: Path, weights_home: Path) -> Iterator[str]:
    """`cactus-py serve` in a process of its own, with the models of the store."""
    command = [sys.executable, "-c", "from cactus_py.cli import main; main()", "serve", "--port", "0", "--json", "--quiet"]
    environment = {**os.environ, "CACTUS_PY_HOME": str(weights_home), "CACTUS_PY_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline())["url"]
        finally:
            server.terminate()
            server.wait(WAIT_S)


@needs_browser
def test_the_real_server(driver: Any, real_url: str) -> None:
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get_log("performance")
    page = Page(driver, SimpleNamespace(url=real_url))
    page.choose("smollm2-135m-instruct")
    page.one("#settings-open").click()
    page.one("#system").send_keys("You are a helpful assistant.")
    page.one("#temperature").clear()
    page.one("#temperature").send_keys("0")
    page.one("#settings").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.one("#settings").is_displayed())
    assert not page.one("#attach-audio").is_displayed() and not page.one("#attach-image").is_displayed()
    page.ask("What is the capital of France?")
    answer = page.answered()
    assert "Paris" in answer.find_element(By.CSS_SELECTOR, ".answer").text
    facts = answer.find_element(By.CSS_SELECTOR, ".about").text
    assert "smollm2-135m-instruct" in facts and "local" in facts and "tokens/s" in facts and "first token" in facts

    page.ask("Write a very long story about the sea.")
    page.until(lambda: len(page.text(".message.last .answer")) > 40)
    page.until(lambda: page.text("#live-queue") == "1 running" and float(page.text("#live-rate")) > 0)
    assert page.text("#live-kv-text") != "0 %"
    page.one("#stop").click()
    assert "stopped" in page.answered().text
    page.until(lambda: page.text("#live-queue") == "0 running" and page.text("#live-kv-text") == "0 %")  # its pages are free

    assert page.run("const made = document.createElement('p'); try { made.innerHTML = 'x'; return 1 } catch { return 0 }") == 0
    assert [line for line in page.problems() if "Trusted" not in line] == []
    assert {"/".join(url.split("/")[:3]) for url in page.requests() if url.startswith("http")} == {real_url}
