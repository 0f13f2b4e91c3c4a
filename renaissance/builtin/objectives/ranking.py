"""Recall over a whole split: scoring all its images with all its texts, on all ranks.

Each text and each image is encoded once; pairs of encoded rows are fused in large batches. The
images are divided among the ranks; every rank has all texts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from renaissance import EncodedRows, Pairs, SpecError, SplitEvaluator, Tokens

RECALL_AT = (1, 5, 10)
CPU = torch.device("cpu")

Score = Callable[[Tensor], Tensor]


@attrs.frozen
class Scores:
    """Scores of this rank's images with all texts.

    Attributes:
        values: (rank's images, texts), CPU.
        own_images: Indices of this rank's images, (rank's images,), int64.
        image_of: Index of each text's image, (texts,), int64.
    """

    values: Tensor
    own_images: Tensor
    image_of: Tensor


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


def score_split(split: SplitEvaluator, score: Score, batch_size: int, shortlist: int) -> Scores:
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
    image_ids = split.image_ids()
    # Images are numbered by first occurrence. Any sample of an image can stand for it.
    index_of = {image_id: index for index, image_id in enumerate(dict.fromkeys(image_ids))}
    sample_of = {image_id: index for index, image_id in enumerate(image_ids)}
    image_of = torch.tensor([index_of[image_id] for image_id in image_ids])
    own_ids = list(index_of)[split.rank :: split.world_size]
    own_images = torch.tensor([index_of[image_id] for image_id in own_ids], dtype=torch.int64)
    images: Iterable[Block] = _blocks(
        split, split.encode_images, [sample_of[image_id] for image_id in own_ids]
    )
    texts = _blocks(split, split.encode_texts, range(len(split)))
    shape = (len(own_images), len(image_of))
    if not shortlist:
        groups = _by_length(texts, batch_size)
        chosen = torch.ones(shape, dtype=torch.bool)
        return Scores(_fuse(split, score, batch_size, images, groups, chosen), own_images, image_of)
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
    return Scores(torch.where(chosen, fused.double(), behind), own_images, image_of)


def recall(scores: Scores, split: SplitEvaluator) -> dict[str, float]:
    """Return recall at 1, 5 and 10 and the median rank in both directions.

    Every rank must call it. Recall at k is the share of images (or texts) with a true text (or
    image) among the first k. A position is 1, plus 1 for each greater score and for each equal
    score of an earlier text or image. An image's position is that of the best of its texts.
    """
    values, image_of = scores.values, scores.image_of
    row_of = torch.full((int(image_of.max()) + 1,), -1)
    row_of[scores.own_images] = torch.arange(len(scores.own_images))
    # Each text's score with its true image, which only one rank has.
    own_texts = (row_of[image_of] >= 0).nonzero()[:, 0]
    true_scores = values.new_empty(len(image_of))
    own_scores = values[row_of[image_of[own_texts]], own_texts]
    true_scores[split.gather(own_texts)] = split.gather(own_scores)
    image_ranks = torch.zeros(len(values), dtype=torch.int64)
    num_ahead = torch.zeros(len(image_of), dtype=torch.int64)
    for row, image in zip(range(len(values)), scores.own_images, strict=True):
        row_values = values[row]
        # Images with an equal score and a lower index are ahead of a text's true image.
        equal_before = (row_values == true_scores) & (image < image_of)
        num_ahead += (row_values > true_scores) | equal_before
        texts = (image_of == image).nonzero()[:, 0]
        best = texts[row_values[texts].argmax()]  # the first if several are equal
        equal_before = row_values[:best] == row_values[best]
        image_ranks[row] = 1 + (row_values > row_values[best]).sum() + equal_before.sum()
    ranks = {
        "image_to_text": split.gather(image_ranks),
        "text_to_image": 1 + split.gather(num_ahead[None]).sum(0),
    }
    results: dict[str, float] = {}
    for direction, positions in ranks.items():
        results |= {f"{direction}_r{k}": float((positions <= k).double().mean()) for k in RECALL_AT}
        results[f"{direction}_median_rank"] = float(positions.double().quantile(0.5))
    return results


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
