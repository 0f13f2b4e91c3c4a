"""Scoring the items of a suite with a trained model."""

from collections.abc import Iterator, Sequence

from renaissance.data.open_image import ImageLimits
from renaissance.engine.progress import progress
from renaissance.inference.model import Model
from renaissance.suites.items import ChoiceItem
from renaissance.suites.scores import Scores


def score_items(model: Model, items: Sequence[ChoiceItem]) -> list[Scores]:
    """Return how well each image of each item fits each of its texts, (images, texts) per item.

    Raises:
        SpecError: If no objective of the run scores pairs.
        DataError: If an image cannot be read.
    """
    data = model.spec.data
    limits = ImageLimits(data.max_image_pixels, data.max_image_bytes)
    scores: list[Scores] = []
    with progress("suite", len(items), "items", True, has_terminal=True) as advance:
        for block in _blocks(items, model.spec.evaluate.micro_batch_size):
            scores += _score_block(model, block, limits)
            advance(len(block))
    return scores


def _blocks(items: Sequence[ChoiceItem], num_pairs: int) -> Iterator[list[ChoiceItem]]:
    """Yield the items in blocks of about as many pairs."""
    block: list[ChoiceItem] = []
    pairs = 0
    for item in items:
        block.append(item)
        pairs += len(item.images) * len(item.texts)
        if pairs >= num_pairs:
            yield block
            block, pairs = [], 0
    if block:
        yield block


def _score_block(
    model: Model, block: Sequence[ChoiceItem], limits: ImageLimits
) -> Iterator[Scores]:
    images = [image for item in block for image in item.images]
    # The same photo is encoded once.
    distinct = {image: row for row, image in enumerate(dict.fromkeys(images))}
    texts = [text for item in block for text in item.texts]
    pairs = []
    start = 0
    for item in block:
        columns = range(start, start + len(item.texts))
        pairs += [(distinct[image], column) for image in item.images for column in columns]
        start = columns.stop
    pictures = [image.picture(limits) for image in distinct]
    values = model.score_pairs(pictures, texts, pairs)
    start = 0
    for item in block:
        shape = (len(item.images), len(item.texts))
        size = shape[0] * shape[1]
        yield values[start : start + size].reshape(shape)
        start += size
