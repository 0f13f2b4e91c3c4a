"""Opening encoded pictures: which formats are read, and how large they may be."""

import functools
import io

import attrs
from PIL import Image, ImageFile, UnidentifiedImageError

from renaissance.data import jpeg, png
from renaissance.errors import DataError
from renaissance.files import LFS_POINTER

# Sizes are checked here, against the run's own limit and with the record's name.
Image.MAX_IMAGE_PIXELS = None

# Pillow reads many more, some with external programs, such as EPS.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 100_000_000
MAX_BYTES = 100_000_000
# What files begin with that Pillow should have read, and what that tells.
STARTS = {
    png.PNG_START: "a PNG with a damaged header",
    jpeg.JPEG_START: "a JPEG with a damaged header",
    b"GIF8": "a GIF with a damaged header",
    b"II*\0": "a TIFF with a damaged header, or of a kind that Pillow does not read",
    b"MM\0*": "a TIFF with a damaged header, or of a kind that Pillow does not read",
    LFS_POINTER: "a pointer of git-lfs to a file that was not fetched; run git lfs pull",
}
# By Pillow's name for the pixels of a PNG.
KEY_SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}


class ImageFaultError(DataError):
    """A picture that cannot be used.

    Args:
        message: Where the picture comes from, what is wrong with it, and what helps.
        fault: Only what is wrong with it.
    """

    # With a default, since a loader process sends an error by its message and its attributes.
    def __init__(self, message: str, fault: str = "") -> None:
        self.fault = fault
        super().__init__(message)


@attrs.frozen
class ImageLimits:
    """The largest pictures that are decoded.

    Attributes:
        max_pixels: Width times height.
        max_bytes: Size of the encoded file.
        option: What sets them, with `{}` for pixels or bytes.
    """

    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES
    option: str = "data.max_image_{}"

    def bytes_fault(self, num_bytes: int) -> str | None:
        """Return what is wrong with the size of a file, or None."""
        if num_bytes <= self.max_bytes:
            return None
        return (
            f"image file of more than {self.max_bytes} bytes, the limit "
            f"({self.option.format('bytes')}). Compress it, or raise the limit"
        )

    def fault(self, image: Image.Image) -> str | None:
        """Return what is wrong with the size of an opened picture, or None."""
        file = encoded_file(image)
        fault = None if file is None else self.bytes_fault(file.num_bytes)
        num_pixels = image.width * image.height
        if fault is not None or num_pixels <= self.max_pixels:
            return fault
        return (
            f"image of {image.width} x {image.height} = {num_pixels} pixels; expected at "
            f"most {self.max_pixels} ({self.option.format('pixels')}). Scale it down, or raise "
            "the limit"
        )


# Of commands that read images without a run spec.
COMMAND_LIMITS = ImageLimits(option="--max-image-{}")


class EncodedFile(io.BytesIO):
    """What Pillow reads.

    Args:
        data: The bytes of a file. Of a JPEG or PNG, only what its pixels and orientation depend on
            is kept.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        # Those of pyarrow's buffers are signed.
        data = memoryview(data).cast("B")
        self.num_bytes = len(data)
        start = bytes(data[: len(png.PNG_START)])
        if start == png.PNG_START:
            data = png.without_metadata(data)
        elif start.startswith(jpeg.JPEG_START):
            data = jpeg.without_metadata(data)
        super().__init__(data)


def open_image(data: bytes | memoryview, source: str) -> Image.Image:
    """Open an encoded picture; only its header is read.

    Args:
        data: The bytes of the file.
        source: Where they come from, for messages.

    Raises:
        DataError: If it is not a picture.
    """
    try:
        image = Image.open(EncodedFile(data), formats=_formats())
        _scale_key(image)
        return image
    except UnidentifiedImageError as error:
        start = bytes(data[: len(LFS_POINTER)])
        found = next((name for begin, name in STARTS.items() if start.startswith(begin)), None)
        if found is not None:
            raise undecodable(source, found) from error
        shown = f"it starts with {start[:8]!r}"
        fault = f"not an image that Pillow can read: {shown}"
        raise undecodable(source, f"no known format; {shown}", fault) from error
    # Decoders raise all kinds of errors on damaged headers.
    except Exception as error:
        raise undecodable(source, f"{type(error).__name__}: {error}") from error


def undecodable(source: str, cause: str, fault: str | None = None) -> ImageFaultError:
    """Return the error for a picture that is damaged or has an unknown format."""
    text = f"image cannot be decoded ({cause})"
    return ImageFaultError(
        f"{source}: {text}; expected a whole file of JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, "
        "JPEG 2000 or AVIF. Replace it and prepare the data again, or let the run skip it with "
        "data.max_bad_samples",
        fault or text,
    )


def encoded_file(image: Image.Image) -> EncodedFile | None:
    """Return the file of a picture, or None if it has none or was decoded already."""
    file = getattr(image, "fp", None)
    return file if isinstance(file, EncodedFile) else None


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    # Some builds of Pillow lack some.
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _scale_key(image: ImageFile.ImageFile) -> None:
    """Scale the transparent level or colour of a PNG as Pillow scales its pixels.

    Pillow compares the 8-bit pixels with a key of the file's depth: 2, 4 or 16 bits.
    """
    key = image.info.get("transparency")
    # Only before the pixels are decoded is it known what they are in the file: "L;4", "RGB;16B".
    layout = str(image.tile[0][3]) if image.tile else ""
    scale = KEY_SCALES.get(layout)
    if image.format == "PNG" and scale is not None and isinstance(key, int | tuple):
        scaled = [int(level * scale) for level in ((key,) if isinstance(key, int) else key)]
        image.info["transparency"] = scaled[0] if isinstance(key, int) else tuple(scaled)
