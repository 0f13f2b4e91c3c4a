"""A confusion matrix as a picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN = 12
# Names are cut to this length, in characters.
MAX_NAME_LENGTH = 24
# Beyond, a cell is too small for its count.
MAX_COUNTED_CLASSES = 20
DARKEST = (8, 48, 107)
GRID = (205, 205, 205)


def draw_confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Image.Image:
    """Draw a confusion matrix: true classes in rows, predicted classes in columns.

    The darkness of a cell is its share of its row, the samples of one true class. Up to 20 classes,
    each cell also shows its count.

    Args:
        counts: Number of samples by true class, then by predicted class.
        classes: Names of the classes, 2 to 50.
    """
    cell = max(20, min(64, 640 // len(classes)))
    font_size = max(11, min(14, cell // 3))
    names = [_label(_cut(name), font_size) for name in classes]
    # The names, and the words "true" and "predicted" beside them.
    edge = max(name.width for name in names) + font_size + 3 * MARGIN
    size = len(classes) * cell
    picture = Image.new("RGB", (edge + size + MARGIN, edge + size + MARGIN), "white")
    for index, name in enumerate(names):
        middle = edge + index * cell + cell // 2
        end = edge - MARGIN // 2
        picture.paste(name, (end - name.width, middle - name.height // 2))
        upwards = name.transpose(Image.Transpose.ROTATE_90)
        picture.paste(upwards, (middle - upwards.width // 2, end - upwards.height))
    _paste_axes(picture, edge + size // 2, font_size)
    draw = ImageDraw.Draw(picture)
    for row, row_counts in enumerate(counts):
        total = sum(row_counts)
        for column, count in enumerate(row_counts):
            corner = (edge + column * cell, edge + row * cell)
            _draw_cell(draw, corner, cell, count / total if total else 0.0)
            if len(classes) <= MAX_COUNTED_CLASSES and count:
                color = "white" if 2 * count > total else "black"
                middle_of_cell = (corner[0] + cell / 2, corner[1] + cell / 2)
                font = _font(_fitting(str(count), cell, font_size))
                draw.text(middle_of_cell, str(count), color, font, anchor="mm")
    return picture


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting(text: str, width: int, size: int) -> int:
    """Return the largest font size, up to `size`, in which a text is not wider than a cell."""
    while size > 6 and _font(size).getlength(text) > width - 2:
        size -= 1
    return size


def _label(text: str, font_size: int, color: str = "black") -> Image.Image:
    """Return a text as a picture, which can be turned."""
    font = _font(font_size)
    width = max(1, round(font.getlength(text)))
    label = Image.new("RGB", (width, font_size + 4), "white")
    ImageDraw.Draw(label).text((0, label.height / 2), text, color, font, anchor="lm")
    return label


def _cut(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= MAX_NAME_LENGTH else line[: MAX_NAME_LENGTH - 3] + "..."


def _paste_axes(picture: Image.Image, middle: int, font_size: int) -> None:
    predicted = _label("predicted", font_size, "gray")
    picture.paste(predicted, (middle - predicted.width // 2, MARGIN))
    true = _label("true", font_size, "gray").transpose(Image.Transpose.ROTATE_90)
    picture.paste(true, (MARGIN, middle - true.height // 2))


def _draw_cell(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: int, share: float) -> None:
    color = tuple(round(255 - share * (255 - darkest)) for darkest in DARKEST)
    x, y = corner
    draw.rectangle((x, y, x + size, y + size), color, GRID)
