"""CIFAR-10: pictures of 32 x 32 pixels in ten classes."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from renaissance import DataError, Dataset, DatasetContext, Sample, option
from renaissance.arrow import open_image
from renaissance_cifar.pickled import Batch, read_pickled_batch

Split = Literal["train", "test"]
# In the order of their indices in the official files.
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE = 32
PIXELS = 3 * SIDE * SIDE
BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{index}" for index in range(1, 6)),
    "test": ("test_batch",),
}
BINARY_SUFFIX = ".bin"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class CIFAR10(Dataset):
    """Pictures with their class (Krizhevsky, 2009).

    Reads the official files, either the Python or the binary version, or a folder of pictures
    `{train,test}/<class>/*.jpg`, whichever is in `folder`. Provides `label`, the class's index.

    Args:
        options: The dataset's options.
        context: What the dataset may need to know about the run.

    Raises:
        DataError: If there are no such files, or they have another form.
    """

    provides = frozenset({"image", "label"})
    # For `data.tokenizer = "dataset"`: the model has a text encoder, though no objective reads it.
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of `cifar10`."""

        split: Split | None = option(
            None, help="Split; by default train for training and test for validation."
        )
        folder: str = option(
            "cifar10",
            help="Folder under data.root, such as cifar-10-batches-py or cifar-10-batches-bin.",
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        self._arguments = (options, context)
        split: Split = options.split or ("train" if context.training else "test")
        self._pictures = _open(context.root / options.folder, split)

    def __len__(self) -> int:
        return len(self._pictures)

    def __reduce__(self) -> tuple[type["CIFAR10"], tuple[object, ...]]:
        # A loader process that does not inherit memory opens the files again.
        return type(self), self._arguments

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one picture.

        Raises:
            DataError: If it cannot be read, or its class is not one of the ten.
        """
        source = self._pictures.source(index)
        label = self._pictures.label(index)
        if not 0 <= label < len(CLASSES):
            raise DataError(
                f"{source}: label is {label}, expected 0 to {len(CLASSES) - 1}; the file is "
                "damaged or of another dataset. Download it again"
            )
        return Sample(
            images=(self._pictures.image(index),),
            image_ids=(source,),
            labels={"label": label},
            source=source,
        )


class _Pictures(ABC):
    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image: ...

    @abstractmethod
    def label(self, index: int) -> int: ...

    @abstractmethod
    def source(self, index: int) -> str: ...


class _Batches(_Pictures):
    """Pictures in the official files."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._batches = [_read_batch(path) for path in paths]
        self._ends = np.cumsum([len(batch.labels) for batch in self._batches])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def image(self, index: int) -> Image.Image:
        batch, row = self._locate(index)
        pixels: NDArray[np.uint8] = self._batches[batch].pixels[row]
        return Image.fromarray(
            np.ascontiguousarray(pixels.reshape(3, SIDE, SIDE).transpose(1, 2, 0))
        )

    def label(self, index: int) -> int:
        batch, row = self._locate(index)
        return int(self._batches[batch].labels[row])

    def source(self, index: int) -> str:
        batch, row = self._locate(index)
        return f"{self._paths[batch]}: row {row}"

    def _locate(self, index: int) -> tuple[int, int]:
        batch = int(np.searchsorted(self._ends, index, side="right"))
        return batch, index - (int(self._ends[batch - 1]) if batch else 0)


class _Files(_Pictures):
    """Pictures in one folder per class."""

    def __init__(self, folder: Path) -> None:
        actual = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if actual != sorted(CLASSES):
            raise DataError(
                f"{folder}: folders {', '.join(actual) or 'none'}; expected one per class: "
                f"{', '.join(CLASSES)}"
            )
        self._paths = [
            (path, label)
            for label, name in enumerate(CLASSES)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not self._paths:
            raise DataError(f"{folder}: no pictures ({', '.join(IMAGE_SUFFIXES)}) in its folders")

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> Image.Image:
        path, _ = self._paths[index]
        return open_image(path.read_bytes(), str(path))

    def label(self, index: int) -> int:
        return self._paths[index][1]

    def source(self, index: int) -> str:
        return str(self._paths[index][0])


def _open(folder: Path, split: Split) -> _Pictures:
    names = BATCHES[split]
    for suffix in ("", BINARY_SUFFIX):
        paths = [folder / f"{name}{suffix}" for name in names]
        missing = [path for path in paths if not path.is_file()]
        if not missing:
            return _Batches(paths)
        if len(missing) < len(paths):
            raise DataError(
                f"{missing[0]}: no such file, though {paths[0].parent} has others of its series. "
                "Unpack the archive again"
            )
    if (folder / split).is_dir():
        return _Files(folder / split)
    raise DataError(
        f"{folder}: no {names[0]}, {names[0]}{BINARY_SUFFIX} or {split}/; expected the official "
        "files (cifar-10-batches-py or -bin) or a folder of pictures per class. Set data.root, and "
        "the dataset's folder, to where they are"
    )


def _read_batch(path: Path) -> Batch:
    if path.suffix == BINARY_SUFFIX:
        size = path.stat().st_size
        if size == 0 or size % (PIXELS + 1) != 0:
            raise DataError(
                f"{path}: {size} bytes, expected a multiple of {PIXELS + 1}: a class and {PIXELS} "
                "pixels per picture. Download it again"
            )
        rows = np.memmap(path, np.uint8, "r").reshape(-1, PIXELS + 1)
        return Batch(rows[:, 1:], rows[:, 0])
    batch = read_pickled_batch(path)
    if batch.pixels.shape != (len(batch.labels), PIXELS) or len(batch.labels) == 0:
        raise DataError(
            f"{path}: {len(batch.labels)} labels and an array of {batch.pixels.shape}; expected "
            f"one row of {PIXELS} pixels per label. Download it again"
        )
    return batch
