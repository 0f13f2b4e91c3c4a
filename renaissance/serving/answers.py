"""What a model says of a picture, a text, or both, as values that JSON can hold."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from renaissance.data.images import to_rgb, upright
from renaissance.data.tables.rows import TableRows
from renaissance.inference.model import Model
from renaissance.inference.rows import Picture, open_picture

NUM_NEAREST = 5
ROWS_AT_ONCE = 256
NUM_WORDS = 5
THUMBNAIL = (160, 160)


@attrs.frozen
class Gallery:
    """Pictures and texts to search, with their embeddings.

    Attributes:
        pictures: Thumbnails, as data URLs.
        picture_vectors: (pictures, size).
        texts: Texts.
        text_vectors: (texts, size).
    """

    pictures: tuple[str, ...]
    picture_vectors: NDArray[np.float32]
    texts: tuple[str, ...]
    text_vectors: NDArray[np.float32]

    @classmethod
    def of(cls, model: Model, pictures: Sequence[Picture], texts: Sequence[str]) -> "Gallery":
        """Embed a gallery.

        Raises:
            SpecError: If no objective of the run learns embeddings.
            DataError: If a picture cannot be read.
        """
        return cls(
            pictures=tuple(_thumbnail(picture) for picture in pictures),
            picture_vectors=model.embed(images=pictures),
            texts=tuple(texts),
            text_vectors=model.embed(texts=texts),
        )

    @classmethod
    def of_rows(cls, model: Model, rows: TableRows) -> "Gallery":
        """Embed the images and texts of a table, some rows at a time.

        Raises:
            SpecError: If no objective of the run learns embeddings.
            DataError: If a row cannot be read.
        """
        parts = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            indices = range(start, min(start + ROWS_AT_ONCE, len(rows)))
            # Nothing about a row is random.
            samples = [rows.sample(index, np.random.default_rng()) for index in indices]
            pictures = [image for sample in samples for image in sample.images[:1]]
            texts = [sample.text for sample in samples if sample.text is not None]
            parts.append(cls.of(model, pictures, texts))
        return cls(
            pictures=tuple(picture for part in parts for picture in part.pictures),
            picture_vectors=np.concatenate([part.picture_vectors for part in parts]),
            texts=tuple(text for part in parts for text in part.texts),
            text_vectors=np.concatenate([part.text_vectors for part in parts]),
        )


def answer(
    model: Model, picture: bytes | None, text: str | None, gallery: Gallery | None = None
) -> dict[str, Any]:
    """Return all that the model's objectives say.

    Args:
        model: The model.
        picture: An encoded picture.
        text: A text; the tokenizer's mask token stands for words to fill in.
        gallery: What to search for the nearest texts of a picture and pictures of a text.

    Raises:
        DataError: If the picture or the text cannot be read.
    """
    row: dict[str, object] = {}
    if picture is not None:
        row["image"] = picture
    if text is not None:
        row["text"] = text
    result: dict[str, Any] = {"predictions": _predictions(model, row)}
    if picture is not None and text is not None:
        result |= _of_pair(model, picture, text)
    if gallery is not None and picture is not None and gallery.texts:
        scores = gallery.text_vectors @ model.embed(images=[picture])[0]
        result["nearest_texts"] = _nearest(gallery.texts, scores)
    if gallery is not None and text is not None and gallery.pictures:
        scores = gallery.picture_vectors @ model.embed(texts=[text])[0]
        result["nearest_images"] = _nearest(gallery.pictures, scores)
    return result


def _of_pair(model: Model, picture: bytes, text: str) -> dict[str, Any]:
    """Fill the masks, and compare the picture with the text that results."""
    result: dict[str, Any] = {}
    mask = model.tokenizer.mask_token
    if mask and mask in text and model.can("token_logits"):
        result["masks"] = model.fill_mask(picture, text, top=NUM_WORDS)
        for words in result["masks"]:
            text = text.replace(mask, words[0][0], 1)
    if model.can("match_score") or model.can("embed"):
        match = model.match([picture], [text])
        for name, values in (("probability", match.probability), ("similarity", match.similarity)):
            if values is not None:
                result[name] = float(values[0, 0])
    attention = model.attention(picture, text)
    if attention is not None:
        result["attention"] = {
            "words": attention.words,
            "weights": attention.weights.round(4).tolist(),
            "image": _data_url(attention.image),
        }
    return result


def _predictions(model: Model, row: dict[str, object]) -> dict[str, dict[str, Any]]:
    """Return the predictions of the objectives that need no more than the row has."""
    return {
        name: model.predict([row], name)[0]
        for name, objective in model.network.overriding("predictions").items()
        if objective.requires <= row.keys()
    }


def _nearest(items: Sequence[str], scores: NDArray[np.float32]) -> list[tuple[str, float]]:
    best = np.argsort(-scores, kind="stable")[:NUM_NEAREST]
    return [(items[index], float(scores[index])) for index in best]


def _thumbnail(picture: Picture) -> str:
    image, _ = open_picture(picture, "gallery")
    image.draft("RGB", THUMBNAIL)
    small = upright(image, to_rgb(image))
    small.thumbnail(THUMBNAIL, Image.Resampling.BILINEAR)
    return _data_url(small)


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
