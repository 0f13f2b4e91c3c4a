"""The picture panel as one image: a grid of pictures with text below each."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from renaissance.contracts.monitor import Guess, PanelImage

COLUMNS = 4
CELL_WIDTH = 280
IMAGE_HEIGHT = 224
GAP = 4
FONTS = ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")
FONT_SIZE = 12
LINE_HEIGHT = 16
MAX_LINES = 9
MARGIN = 8

BLACK = (0, 0, 0)
COLOURS = {True: (0, 110, 40), False: (180, 0, 20), None: (70, 70, 70)}
# No font has it.
NO_CHARACTER = "\uffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]


def draw_panel(panel: Sequence[PanelImage]) -> Image.Image:
    """Draw the pictures of a panel in a grid, with the lines of each below it.

    Guesses are green if they are right and red if they are wrong. A character that the font lacks
    is written as its number, as in Python.

    Args:
        panel: At least one picture, each at most 224 pixels wide and high.
    """
    font = _font()
    cell_height = IMAGE_HEIGHT + MAX_LINES * LINE_HEIGHT + 2 * MARGIN
    num_rows = -(-len(panel) // COLUMNS)
    size = (min(len(panel), COLUMNS) * CELL_WIDTH, num_rows * cell_height)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for index, entry in enumerate(panel):
        row, column = divmod(index, COLUMNS)
        x, y = column * CELL_WIDTH + MARGIN, row * cell_height + MARGIN
        sheet.paste(entry.image, (x, y))
        y += IMAGE_HEIGHT + GAP
        for line, colour in _wrapped(entry.lines):
            draw.text((x, y), line, fill=colour, font=font)
            y += LINE_HEIGHT
    return sheet


def _wrapped(lines: Iterable[str | Guess]) -> list[tuple[str, Colour]]:
    wrapped = [
        (part, COLOURS[line.is_right] if isinstance(line, Guess) else BLACK)
        for line in lines
        for part in _parts(str(line))
    ]
    if len(wrapped) > MAX_LINES:
        wrapped = [*wrapped[: MAX_LINES - 1], ("...", BLACK)]
    return wrapped


def _parts(line: str) -> Iterator[str]:
    """Yield the parts of a line, broken at words, and within words that are too wide."""
    current = ""
    for word in line.split():
        pieces = [_printable(character) for character in word]
        if current and not _fits(f"{current} {''.join(pieces)}"):
            yield current
            current = ""
        current = f"{current} " if current else ""
        for piece in pieces:
            if not _fits(current + piece):
                yield current
                current = ""
            current += piece
    yield current


def _fits(text: str) -> bool:
    return _font().getlength(text) <= CELL_WIDTH - 2 * MARGIN


@cache
def _printable(character: str) -> str:
    """Return a character, or its number if the font lacks it."""
    if bytes(_font().getmask(character)) != bytes(_font().getmask(NO_CHARACTER)):
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@cache
def _font() -> Font:
    """Return the first of the fonts that this machine has; Pillow's own knows ASCII alone."""
    for name in FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, FONT_SIZE)
    return ImageFont.load_default(FONT_SIZE)
