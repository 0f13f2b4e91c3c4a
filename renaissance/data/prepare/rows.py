"""Building rows: which texts can be written, and images with captions."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from renaissance.contracts.source import ImageFile, LeftOut, Record
from renaissance.limits import read_limits

# The schema of all tables of images with captions.
CAPTION_SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("caption", pa.list_(pa.string())),
        ("image_id", pa.string()),
        ("split", pa.string()),
    ]
)


def text_fault(text: object) -> str | None:
    """Return what is wrong with a text, or None if it can be written."""
    if not isinstance(text, str):
        return f"is not text but {type(text).__name__}"
    if not text.strip():
        return "is empty"
    if "\0" in text:
        # A text in UTF-16 that was read as UTF-8 has one after each letter.
        return "has a NUL character"
    limits = read_limits()
    # A text this long is no caption, and takes a second to split into tokens.
    if len(text) > limits.text_characters:
        return f"has {len(text):,} characters; expected {limits.at_most('text_characters')}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


def texts_to_keep(
    table: str, record: str, texts: Sequence[object], what: str = "caption"
) -> tuple[list[int], list[LeftOut]]:
    """Sort the texts of a row into those that can be written and the rest.

    Args:
        table: Name of the table.
        record: What the texts belong to, for the report of what is left out.
        texts: The texts.
        what: What they are, for the report.

    Returns:
        The indices of the texts to write, and an entry for each of the others.
    """
    faults = [text_fault(text) for text in texts]
    kept = [index for index, fault in enumerate(faults) if fault is None]
    left_out = [
        LeftOut(table, record, f"{what} {index} {fault}", is_row=False)
        for index, fault in enumerate(faults)
        if fault is not None
    ]
    return kept, left_out


def captioned(
    table: str, image: ImageFile, captions: Sequence[object], values: Mapping[str, object]
) -> Iterator[Record | LeftOut]:
    """Yield the row of an image with its captions, and what is left out of it.

    Args:
        table: Name of the table.
        image: The image.
        captions: Its captions, in the order in which they are written.
        values: The other columns.
    """
    kept, left_out = texts_to_keep(table, str(image), captions)
    yield from left_out
    if kept:
        texts = [captions[index] for index in kept]
        yield Record(table, {"image": image}, {"caption": texts, **values}, len(texts))
    else:
        reason = f"no caption: {left_out[0].reason}" if left_out else "no caption"
        yield LeftOut(table, str(image), reason)
