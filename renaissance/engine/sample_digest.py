"""A digest that tells the samples of one dataset from those of another."""

import hashlib

from renaissance.contracts.dataset import Dataset
from renaissance.errors import DataError
from renaissance.randomness import keyed_generator

# Samples that are read, from the first to the last.
NUM_SAMPLES = 5


def digest_of_samples(dataset: Dataset, seed: int) -> str:
    """Return a digest of a few samples: texts and labels, and of images just how many.

    Args:
        dataset: The dataset.
        seed: Seed of the samples that are made at random.
    """
    digest = hashlib.sha256()
    last = len(dataset) - 1
    for index in sorted({last * part // (NUM_SAMPLES - 1) for part in range(NUM_SAMPLES)}):
        try:
            sample = dataset.sample(index, keyed_generator(seed, 0, index, "dataset"))
        except DataError:
            continue  # Left out, or an error, when it is read; on any machine alike.
        content = (sample.text, sample.text_pair, sorted(sample.labels.items()), len(sample.images))
        digest.update(repr(content).encode())
    return digest.hexdigest()[:16]
