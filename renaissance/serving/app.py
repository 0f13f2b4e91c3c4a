"""The web application: one page, and the JSON endpoint that it asks."""

import base64
import json
from collections.abc import Sequence
from importlib.resources import files

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from renaissance.errors import RenaissanceError
from renaissance.inference.model import Model
from renaissance.serving.answers import Gallery, answer

MAX_TEXT_LENGTH = 10_000


class _RefusedError(Exception):
    """A request that is refused, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def make_app(
    model: Model,
    gallery: Gallery | None = None,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    max_upload: int = 16 * 2**20,
) -> Starlette:
    """Make the application.

    Args:
        model: The model to ask.
        gallery: What to search.
        hosts: Names by which the server may be addressed: a page of another site, whose name
            leads to this machine, gets no answer. "*" allows any.
        max_upload: Size of the largest request, bytes.
    """
    page = files("renaissance.serving").joinpath("page.html").read_text(encoding="utf-8")

    async def show(request: Request) -> Response:
        facts = json.dumps(
            {
                "name": model.spec.folder.name,
                "objectives": model.objectives,
                "mask": model.tokenizer.mask_token,
                "gallery": gallery is not None,
            }
        )
        # "<" would let a name close the script element.
        return HTMLResponse(page.replace("{facts}", facts.replace("<", "\\u003c")))

    async def ask(request: Request) -> Response:
        try:
            picture, text = _parse(await _body(request, max_upload))
            result = await run_in_threadpool(answer, model, picture, text, gallery)
            return JSONResponse(result)
        except _RefusedError as error:
            return JSONResponse({"error": str(error)}, error.status)
        except RenaissanceError as error:
            return JSONResponse({"error": str(error)}, 422)

    return Starlette(
        routes=[Route("/", show), Route("/api/answer", ask, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )


async def _body(request: Request, max_upload: int) -> bytes:
    # Browsers send no JSON to another site without asking it first.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _RefusedError(415, "content-type: expected application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_upload:
            raise _RefusedError(413, f"the request is larger than {max_upload:,} bytes")
    return bytes(body)


def _parse(body: bytes) -> tuple[bytes | None, str | None]:
    """Return the picture and the text of a request.

    Raises:
        _RefusedError: If it is not an object of "image" (base64) and "text", of which one is given.
    """
    form = 'expected {"image": base64 of a picture file, "text": string}, or one of the two'
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, f"not JSON; {form}") from error
    if not isinstance(content, dict) or not content.keys() <= {"image", "text"}:
        raise _RefusedError(400, form)
    image, text = content.get("image"), content.get("text")
    if not isinstance(image, str | None) or not isinstance(text, str | None):
        raise _RefusedError(400, form)
    if text is not None and len(text) > MAX_TEXT_LENGTH:
        raise _RefusedError(400, f"text: expected at most {MAX_TEXT_LENGTH:,} characters")
    if not image and not text:
        raise _RefusedError(400, form)
    try:
        # A data URL, as browsers write it, begins with its type and a comma.
        picture = base64.b64decode(image.rpartition(",")[2], validate=True) if image else None
    except ValueError as error:
        raise _RefusedError(400, f"image: not base64; {form}") from error
    return picture, text or None
