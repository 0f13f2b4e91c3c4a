"""Scoring all images of a split with all its texts by fusing them, on all ranks.

Each text and each image is encoded once; pairs of encoded rows are fused in large batches. The
images are divided among the ranks; every rank has all texts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from renaissance import EncodedRows, Pairs, SpecError, SplitEvaluator, Tokens
from renaissance.builtin.objectives.recall import FusedScores, Numbering

CPU = torch.device("cpu")

Score = Callable[[Tensor], Tensor]


@attrs.frozen
class Block:
    """Some of the texts, or some of this rank's images, encoded.

    Attributes:
        indices: Indices among the texts, or among this rank's images, (rows,), int64, CPU.
        rows: Their encodings.
    """

    indices: Tensor
    rows: EncodedRows

    def to(self, device: torch.device) -> "Block":
        """Move the encodings to a device."""
        features = self.rows.features
        moved = EncodedRows(
            _to(self.rows.tokens, device), None if features is None else _to(features, device)
        )
        return Block(self.indices, moved)


def score_split(
    split: SplitEvaluator, score: Score, batch_size: int, shortlist: int
) -> FusedScores:
    """Score this rank's images with all texts; every rank must call it.

    Args:
        split: The split; its samples are the texts, their distinct images the images.
        score: Turns pooled pairs, (pairs, pooled_size), into scores, (pairs,).
        batch_size: Number of pairs to fuse at once.
        shortlist: 0 to fuse all pairs; k > 0 to fuse only the k most similar images of each text
            and the k most similar texts of each image. The other pairs rank below all fused pairs,
            in the order of their similarity.

    Raises:
        SpecError: If a shortlist is set and no objective learns a similarity.
    """
    numbering = Numbering.of(split)
    images: Iterable[Block] = _blocks(split, split.encode_images, numbering.samples)
    texts = _blocks(split, split.encode_texts, range(len(split)))
    shape = (len(numbering.own_images), len(numbering.image_of))
    if not shortlist:
        groups = _by_length(texts, batch_size)
        chosen = torch.ones(shape, dtype=torch.bool)
        return FusedScores(numbering, _fuse(split, score, batch_size, images, groups, chosen))
    # Only for its error, which every rank must raise, even one without images.
    _similarity(split, shortlist, split.encode_texts([0]), split.encode_images([0]))
    # Needed twice: once for all similarities, and then for fusing.
    images = [image.to(CPU) for image in images]
    similarity = torch.empty(shape)
    groups = _by_length(_compare(split, shortlist, images, texts, similarity), batch_size)
    chosen = _shortlist(split, similarity, shortlist)
    fused = _fuse(split, score, batch_size, images, groups, chosen)
    # The same shift on all ranks, so that the scores of a text's images stay comparable; in
    # float64, so that it does not round differences away.
    lowest = split.gather(fused.masked_fill(~chosen, torch.inf).amin(1)).min().double()
    highest = split.gather(similarity.amax(1)).max().double()
    behind = similarity.double() - highest + lowest - 1
    return FusedScores(numbering, torch.where(chosen, fused.double(), behind))


def _blocks(
    split: SplitEvaluator,
    encode: Callable[[Sequence[int]], EncodedRows],
    samples: Sequence[int],
) -> Iterator[Block]:
    """Encode the texts or the images of some samples, one micro-batch after another."""
    for start in range(0, len(samples), split.micro_batch_size):
        part = samples[start : start + split.micro_batch_size]
        yield Block(start + torch.arange(len(part)), encode(part))


def _compare(
    split: SplitEvaluator,
    shortlist: int,
    images: Sequence[Block],
    texts: Iterable[Block],
    similarity: Tensor,
) -> Iterator[Block]:
    """Yield the texts, after writing their similarity to this rank's images."""
    for text in texts:
        for image in images:
            values = _similarity(split, shortlist, text.rows, image.rows)
            similarity[image.indices[:, None], text.indices] = values.T.float().cpu()
        yield text


def _by_length(texts: Iterable[Block], group_size: int) -> list[Block]:
    """Group texts of similar length on the CPU, to limit padding; their features are dropped."""
    single: list[tuple[int, int, Tensor, Tensor]] = []
    for text in texts:
        states, mask = _to(text.rows.tokens, CPU)
        positions = torch.arange(1, mask.shape[1] + 1)
        lengths = (mask * positions).amax(1).tolist()
        for index, length, row, real in zip(
            text.indices.tolist(), lengths, states, mask, strict=True
        ):
            single.append((length, index, row[:length], real[:length]))
    single.sort(key=lambda text: text[:2])
    groups = []
    for start in range(0, len(single), group_size):
        group = single[start : start + group_size]
        tokens = Tokens(
            pad_sequence([states for _, _, states, _ in group], batch_first=True),
            pad_sequence([real for _, _, _, real in group], batch_first=True),
        )
        indices = torch.tensor([index for _, index, _, _ in group])
        groups.append(Block(indices, EncodedRows(tokens, None)))
    return groups


def _fuse(
    split: SplitEvaluator,
    score: Score,
    batch_size: int,
    images: Iterable[Block],
    texts: Sequence[Block],
    chosen: Tensor,
) -> Tensor:
    """Return the scores of the chosen pairs, (rank's images, texts), float32; 0 elsewhere."""
    scores = torch.zeros(chosen.shape)

    def batches() -> Iterator[int]:
        for image in images:
            image_tokens = _to(image.rows.tokens, split.device)
            for text in texts:
                text_tokens = _to(text.rows.tokens, split.device)
                # (pairs, 2): image and text, sorted by image.
                pairs = chosen[image.indices][:, text.indices].nonzero()
                for start in range(0, len(pairs), batch_size):
                    image_rows, text_rows = pairs[start : start + batch_size].unbind(1)
                    rows = Pairs(text_rows.to(split.device), image_rows.to(split.device))
                    pooled = split.fuse(text_tokens, image_tokens, rows).pooled
                    values = score(pooled.float()).cpu()
                    # NaN ranks last; comparisons would rank it first.
                    values = values.masked_fill(values.isnan(), -torch.inf)
                    scores[image.indices[image_rows], text.indices[text_rows]] = values
                    yield len(values)

    for _ in split.progress(batches(), int(chosen.sum()), "pairs"):
        pass
    return scores


def _shortlist(split: SplitEvaluator, similarity: Tensor, size: int) -> Tensor:
    """Return the pairs to fuse, (rank's images, texts), bool, including ties for the last."""
    # The best images of each text on this rank; the best of all ranks are among them.
    own_best = similarity.topk(min(size, similarity.shape[0]), dim=0).values
    best = split.gather(own_best)
    of_text = best.topk(min(size, len(best)), dim=0).values[-1]
    of_image = similarity.topk(min(size, similarity.shape[1]), dim=1).values[:, -1:]
    return (similarity >= of_text) | (similarity >= of_image)


def _similarity(
    split: SplitEvaluator, shortlist: int, texts: EncodedRows, images: EncodedRows
) -> Tensor:
    similarity = None
    if texts.features is not None and images.features is not None:
        similarity = split.similarity(texts.features, _to(images.features, split.device))
    if similarity is None:
        raise SpecError(
            f"objective 'retrieval': shortlist = {shortlist} chooses by similarity, which no "
            "objective of this run learns; train with [[objectives]] of type = 'itc' too, or "
            "set shortlist = 0"
        )
    return similarity


def _to(tokens: Tokens, device: torch.device) -> Tokens:
    return tokens.map(lambda part: part.to(device))
