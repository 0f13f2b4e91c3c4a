"""What identifies a picture in a cache: its content, so that a changed file is never mistaken."""

import hashlib

from PIL import Image

from renaissance.data.open_image import EncodedFile

KEY_BYTES = 16


def image_key(image: Image.Image) -> bytes:
    """Return a digest of a picture; equal keys mean equal pixels under the same transform.

    Args:
        image: The picture, not decoded yet if it comes from a file.
    """
    digest = hashlib.sha256()
    file = getattr(image, "fp", None)
    if isinstance(file, EncodedFile):
        with file.getbuffer() as content:
            digest.update(content)
    elif file is not None:
        # Decoding it here would take from the transform the choice of a smaller scale.
        position = file.tell()
        file.seek(0)
        digest.update(file.read())
        file.seek(position)
    else:
        about = (image.mode, image.size, image.getpalette(), sorted(map(repr, image.info.items())))
        digest.update(repr(about).encode())
        digest.update(image.tobytes())
    # The frame of an animation.
    digest.update(str(image.tell()).encode())
    return digest.digest()[:KEY_BYTES]
