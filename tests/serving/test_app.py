"""The page of `renaissance serve`: what it answers, and what it refuses."""

import base64
import contextlib
import io
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright
from support.running import TINY, run_here, write_spec

from renaissance import Model
from renaissance.inference.loading import load
from renaissance.serving.answers import Gallery
from renaissance.serving.app import make_app

MAX_UPLOAD = 200_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of all kinds of objectives."""
    folder = tmp_path_factory.mktemp("serve")
    itc = '[[objectives]]\ntype = "itc"\n\n[[objectives]]\ntype = "mlm"'
    text = TINY.replace('[[objectives]]\ntype = "mlm"', itc)
    run_here(write_spec(folder, text), folder, "train.max_steps=2")
    return load(folder / "tiny")


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Encoded pictures."""
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(3):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (40, 60, 3), np.uint8)).save(file, "PNG")
        encoded.append(file.getvalue())
    return encoded


@pytest.fixture(scope="module")
def address(model: Model, pictures: list[bytes]) -> Iterator[str]:
    """A server with a gallery."""
    gallery = Gallery.of(model, pictures, ["a red circle", "a blue square"])
    app = make_app(model, gallery, max_upload=MAX_UPLOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def _ask(
    address: str, body: bytes, content_type: str = "application/json", host: str | None = None
) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{address}/api/answer", body)
    request.add_header("content-type", content_type)
    if host is not None:
        request.add_header("host", host)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        content = error.read()
        with contextlib.suppress(ValueError):
            return error.code, json.loads(content)
        return error.code, {"error": content.decode()}


def _question(picture: bytes | None = None, text: str | None = None) -> bytes:
    content: dict[str, str] = {}
    if picture is not None:
        content["image"] = "data:image/png;base64," + base64.b64encode(picture).decode()
    if text is not None:
        content["text"] = text
    return json.dumps(content).encode()


def test_answers_are_those_of_the_model(address: str, model: Model, pictures: list[bytes]) -> None:
    text = "a [MASK] circle"
    status, result = _ask(address, _question(pictures[0], text))
    assert status == 200
    ((word, _), *_) = model.fill_mask(pictures[0], text)[0]
    filled = text.replace("[MASK]", word)
    match = model.match([pictures[0]], [filled])
    assert match.probability is not None
    assert match.similarity is not None
    assert result["probability"] == match.probability[0, 0]
    assert result["similarity"] == match.similarity[0, 0]
    assert result["masks"] == [
        [list(word) for word in words] for words in model.fill_mask(pictures[0], text)
    ]
    attention = model.attention(pictures[0], filled)
    assert attention is not None
    assert result["attention"]["words"] == list(attention.words)
    np.testing.assert_allclose(result["attention"]["weights"], attention.weights, atol=1e-4)


def test_the_gallery_is_searched(address: str, model: Model, pictures: list[bytes]) -> None:
    _, result = _ask(address, _question(pictures[1]))
    similarity = model.match([pictures[1]], ["a red circle", "a blue square"]).similarity
    assert similarity is not None
    expected = max(similarity[0])
    assert result["nearest_texts"][0][1] == pytest.approx(expected, abs=1e-6)
    _, result = _ask(address, _question(text="a red circle"))
    assert [url.partition(",")[0] for url, _ in result["nearest_images"]] == [
        "data:image/jpeg;base64"
    ] * 3


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON; expected"),
        (b"[]", 400, 'expected {"image"'),
        (b"{}", 400, 'expected {"image"'),
        (b'{"path": "/etc/passwd"}', 400, 'expected {"image"'),
        (b'{"image": 3}', 400, 'expected {"image"'),
        (b'{"image": "\xc3\xa9"}', 400, "image: not base64"),
        (json.dumps({"text": "a" * 10_001}).encode(), 400, "at most 10,000 characters"),
        (b"x" * (MAX_UPLOAD + 1), 413, "larger than 200,000 bytes"),
        (b"[" * 100_000, 400, "not JSON"),
    ],
)
def test_malformed_requests_are_refused(
    address: str, body: bytes, status: int, message: str
) -> None:
    actual, result = _ask(address, body)
    assert (actual, message in result["error"]) == (status, True), result


def test_a_path_is_not_read(address: str) -> None:
    """An "image" is bytes of a picture, never the name of a file."""
    body = json.dumps({"image": "/etc/passwd", "text": "a"}).encode()
    status, result = _ask(address, body)
    assert status in (400, 422)
    assert "root:" not in json.dumps(result)


def test_what_is_not_a_picture_is_said(address: str) -> None:
    status, result = _ask(address, _question(b"not a picture", "a"))
    assert status == 422
    assert "image cannot be decoded" in result["error"]


def test_other_sites_get_no_answer(address: str, pictures: list[bytes]) -> None:
    """A form or script of another site, or a name of another site that leads here."""
    assert _ask(address, _question(pictures[0]), content_type="text/plain")[0] == 415
    assert _ask(address, _question(pictures[0]), host="evil.example")[0] == 400


def test_other_paths_lead_nowhere(address: str) -> None:
    for path in ("/page.html", "/../pyproject.toml", "/file=/etc/passwd", "/static/x"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + path)


@pytest.mark.slow
def test_the_page_in_a_browser(address: str, model: Model, pictures: list[bytes]) -> None:
    """Upload, type, ask, read the answer, look where a word looks."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.set_input_files(
            "#file", {"name": "a.png", "mimeType": "image/png", "buffer": pictures[0]}
        )
        page.wait_for_selector("#drop img")
        page.fill("#text", "a [MASK] circle")
        page.click("button:has-text('Ask')")
        page.wait_for_selector("#answer h2")
        headings = page.locator("#answer h2").all_inner_texts()
        expected = ["Do they belong together?", "[MASK] 1", "Nearest texts", "Nearest images"]
        assert headings == [*expected, "Attention"]
        ((word, _), *_) = model.fill_mask(pictures[0], "a [MASK] circle")[0]
        match = model.match([pictures[0]], [f"a {word} circle"])
        assert match.probability is not None
        shown = page.locator("#answer table").first.inner_text()
        assert f"{match.probability[0, 0]:.3f}" in shown
        page.click(".words span:has-text('circle')")
        painted = page.evaluate(
            "document.querySelector('.seen canvas').getContext('2d')"
            ".getImageData(0, 0, 2, 2).data.some(value => value > 0)"
        )
        assert painted
        assert faults == []
        browser.close()
