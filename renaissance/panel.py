"""The picture panel as one image: a grid of pictures with text below each."""

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont

from renaissance.contracts.monitor import PanelImage

COLUMNS = 4
CELL_WIDTH = 280
IMAGE_HEIGHT = 224
GAP = 4
LINE_HEIGHT = 16
MAX_LINES = 9
MARGIN = 8

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_panel(panel: Sequence[PanelImage]) -> Image.Image:
    """Draw the pictures of a panel in a grid, with the text of each below it.

    Args:
        panel: At least one picture, each at most 224 pixels wide and high.
    """
    font = ImageFont.load_default(12)
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
        for line in _wrapped(entry.lines, font):
            draw.text((x, y), line, fill="black", font=font)
            y += LINE_HEIGHT
    return sheet


def _wrapped(lines: Iterable[str], font: Font) -> list[str]:
    wrapped: list[str] = []
    for line in lines:
        current = ""
        for word in line.split():
            longer = f"{current} {word}".strip()
            if current and font.getlength(longer) > CELL_WIDTH - 2 * MARGIN:
                wrapped.append(current)
                longer = word
            current = longer
        wrapped.append(current)
    if len(wrapped) > MAX_LINES:
        wrapped = [*wrapped[: MAX_LINES - 1], "..."]
    return wrapped
