"""Scores of all images of a split with all its texts, over all ranks, and recall by them.

Each text and each image is encoded once; pairs of encoded rows are fused in large batches. Images
are shared out over the ranks, every rank has all texts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from renaissance import Pairs, SpecError, SplitEvaluator, Tokens

RECALL_AT = (1, 5, 10)

Score = Callable[[Tensor], Tensor]


@attrs.frozen
class Scores:
    """Scores of this rank's images with all texts.

    Attributes:
        values: (own images, texts), CPU.
        own_images: Which images these are, (own images,), int64.
        image_of: Each text's image, (texts,), int64.
    """

    values: Tensor
    own_images: Tensor
    image_of: Tensor


@attrs.frozen
class Encoded:
    """Some encoded texts, or some encoded images.

    Attributes:
        places: Which texts, or which of this rank's images, (rows,), int64.
        tokens: (rows, tokens, hidden).
        features: The same encoded alone; None unless a similarity of the run needs them.
    """

    places: Tensor
    tokens: Tokens
    features: Tokens | None

    def to(self, device: torch.device) -> "Encoded":
        """Move to a device, places excepted."""
        features = None if self.features is None else _to(self.features, device)
        return Encoded(self.places, _to(self.tokens, device), features)


def score_split(split: SplitEvaluator, score: Score, batch_size: int, shortlist: int) -> Scores:
    """Score this rank's images with all texts; every rank must call it.

    Args:
        split: The split; texts are its samples, images the distinct ones of them.
        score: Turns pooled pairs, (pairs, pooled_size), into scores, (pairs,).
        batch_size: How many pairs to fuse at once.
        shortlist: 0 to fuse all pairs; else only each text's so many most similar images and each
            image's so many most similar texts. The others' scores are in the order of their
            similarity, below those of all fused pairs.

    Raises:
        SpecError: If there shall be a shortlist and no objective learns a similarity.
    """
    image_ids = split.image_ids()
    # Images are numbered in the order in which they come; any of an image's samples will do.
    numbers = {image_id: number for number, image_id in enumerate(dict.fromkeys(image_ids))}
    sample_of = {image_id: index for index, image_id in enumerate(image_ids)}
    image_of = torch.tensor([numbers[image_id] for image_id in image_ids])
    own_ids = list(numbers)[split.rank :: split.world_size]
    own_images = torch.tensor([numbers[image_id] for image_id in own_ids], dtype=torch.int64)
    images: Iterable[Encoded] = _encode_images(split, [sample_of[i] for i in own_ids])
    texts: Iterable[Encoded] = _encode_texts(split)
    shape = (len(own_images), len(image_of))
    if not shortlist:
        groups = _by_length(texts, batch_size)
        chosen = torch.ones(shape, dtype=torch.bool)
        return Scores(_fuse(split, score, batch_size, images, groups, chosen), own_images, image_of)
    _require_similarity(split, shortlist)
    # Read twice: all images' similarities come before the first pair is fused.
    images = [encoded.to(torch.device("cpu")) for encoded in images]
    similarity = torch.empty(shape)
    groups = _by_length(_compare(split, images, texts, similarity), batch_size)
    chosen = _shortlist(split, similarity, shortlist)
    fused = _fuse(split, score, batch_size, images, groups, chosen)
    # The same shift on all ranks, so that a text's images stay comparable; exact in float64.
    lowest = split.gather(fused.masked_fill(~chosen, torch.inf).amin(1)).min().double()
    highest = split.gather(similarity.amax(1)).max().double()
    behind = similarity.double() - highest + lowest - 1
    return Scores(torch.where(chosen, fused.double(), behind), own_images, image_of)


def recall(scores: Scores, split: SplitEvaluator) -> dict[str, float]:
    """Return recall at 1, 5 and 10 and the median rank, both ways; every rank must call it.

    Recall is the share of the images (or texts) whose own text (or image) is among the first. A
    rank is 1, and 1 more for each greater score, and for each equal score of a text or image that
    comes before. An image's rank is that of the best of its texts.
    """
    values, image_of = scores.values, scores.image_of
    row_of = torch.full((int(image_of.max()) + 1,), -1)
    row_of[scores.own_images] = torch.arange(len(scores.own_images))
    # Of each text with its own image, exchanged: one rank has it.
    own_texts = (row_of[image_of] >= 0).nonzero()[:, 0]
    true_scores = values.new_empty(len(image_of))
    own_scores = values[row_of[image_of[own_texts]], own_texts]
    true_scores[split.gather(own_texts)] = split.gather(own_scores)
    image_ranks = torch.zeros(len(values), dtype=torch.int64)
    num_ahead = torch.zeros(len(image_of), dtype=torch.int64)
    for row, image in zip(range(len(values)), scores.own_images, strict=True):
        row_values = values[row]
        # The images before it, of equal score, are ahead of a text's own.
        equal_before = (row_values == true_scores) & (image < image_of)
        num_ahead += (row_values > true_scores) | equal_before
        texts = (image_of == image).nonzero()[:, 0]
        best = texts[row_values[texts].argmax()]  # the first of equal ones
        equal_before = row_values[:best] == row_values[best]
        image_ranks[row] = 1 + (row_values > row_values[best]).sum() + equal_before.sum()
    ranks = {
        "image_to_text": split.gather(image_ranks),
        "text_to_image": 1 + split.gather(num_ahead[None]).sum(0),
    }
    results: dict[str, float] = {}
    for way, found in ranks.items():
        results |= {f"{way}_r{k}": float((found <= k).double().mean()) for k in RECALL_AT}
        results[f"{way}_median_rank"] = float(found.double().quantile(0.5))
    return results


def _encode_images(split: SplitEvaluator, samples: Sequence[int]) -> Iterator[Encoded]:
    """Encode the images of some samples, one micro-batch after another."""
    for start in range(0, len(samples), split.micro_batch_size):
        block = samples[start : start + split.micro_batch_size]
        encoded = split.encode(block, frozenset({"image"}))
        assert encoded.image is not None
        assert encoded.image_rows is not None
        rows = encoded.image_rows.to(split.device)
        features = encoded.image_features
        yield Encoded(
            start + torch.arange(len(block)),
            _rows(encoded.image, rows),
            None if features is None else _rows(features, rows),
        )


def _encode_texts(split: SplitEvaluator) -> Iterator[Encoded]:
    """Encode all texts, one micro-batch after another."""
    for start in range(0, len(split), split.micro_batch_size):
        places = range(start, min(start + split.micro_batch_size, len(split)))
        encoded = split.encode(places, frozenset({"text"}))
        assert encoded.text is not None
        assert encoded.text_rows is not None
        rows = encoded.text_rows.to(split.device)
        features = encoded.text_features
        yield Encoded(
            torch.tensor(places),
            _rows(encoded.text, rows),
            None if features is None else _rows(features, rows),
        )


def _compare(
    split: SplitEvaluator, images: Sequence[Encoded], texts: Iterable[Encoded], similarity: Tensor
) -> Iterator[Encoded]:
    """Pass texts on, having noted their similarity with all images, (own images, texts)."""
    for text in texts:
        for image in images:
            assert text.features is not None
            assert image.features is not None
            found = split.similarity(text.features, _to(image.features, split.device))
            assert found is not None
            similarity[image.places[:, None], text.places] = found.T.float().cpu()
        yield text


def _by_length(texts: Iterable[Encoded], group_size: int) -> list[Encoded]:
    """Group texts by length on the CPU, so that little is padding. Their features are dropped."""
    single: list[tuple[int, int, Tensor, Tensor]] = []
    for encoded in texts:
        states, mask = _to(encoded.tokens, torch.device("cpu"))
        positions = torch.arange(1, mask.shape[1] + 1)
        lengths = (mask * positions).amax(1).tolist()
        for place, length, row, real in zip(
            encoded.places.tolist(), lengths, states, mask, strict=True
        ):
            single.append((length, place, row[:length], real[:length]))
    single.sort(key=lambda text: text[:2])
    groups = []
    for start in range(0, len(single), group_size):
        group = single[start : start + group_size]
        tokens = Tokens(
            pad_sequence([states for _, _, states, _ in group], batch_first=True),
            pad_sequence([real for _, _, _, real in group], batch_first=True),
        )
        groups.append(Encoded(torch.tensor([place for _, place, _, _ in group]), tokens, None))
    return groups


def _fuse(
    split: SplitEvaluator,
    score: Score,
    batch_size: int,
    images: Iterable[Encoded],
    texts: Sequence[Encoded],
    chosen: Tensor,
) -> Tensor:
    """Return the scores of chosen pairs, (own images, texts), float32; 0 elsewhere."""
    scores = torch.zeros(chosen.shape)

    def batches() -> Iterator[int]:
        for image in images:
            image_tokens = _to(image.tokens, split.device)
            for text in texts:
                text_tokens = _to(text.tokens, split.device)
                # One image after another, each with all of the texts.
                pairs = chosen[image.places][:, text.places].nonzero()
                for start in range(0, len(pairs), batch_size):
                    image_rows, text_rows = pairs[start : start + batch_size].unbind(1)
                    rows = Pairs(text_rows.to(split.device), image_rows.to(split.device))
                    pooled = split.fuse(text_tokens, image_tokens, rows).pooled
                    assert pooled is not None
                    found = score(pooled.float()).cpu()
                    # A score that is no number ranks last, not first.
                    found = found.masked_fill(found.isnan(), -torch.inf)
                    scores[image.places[image_rows], text.places[text_rows]] = found
                    yield len(found)

    for _ in split.progress(batches(), int(chosen.sum()), "pairs"):
        pass
    return scores


def _shortlist(split: SplitEvaluator, similarity: Tensor, size: int) -> Tensor:
    """Return which pairs to fuse, (own images, texts), bool; all of those that tie for the last
    place.
    """
    # Each rank's best images of each text, of which the best overall are.
    own_best = similarity.topk(min(size, similarity.shape[0]), dim=0).values
    best = split.gather(own_best)
    of_text = best.topk(min(size, len(best)), dim=0).values[-1]
    of_image = similarity.topk(min(size, similarity.shape[1]), dim=1).values[:, -1:]
    return (similarity >= of_text) | (similarity >= of_image)


def _require_similarity(split: SplitEvaluator, shortlist: int) -> None:
    """Find out on every rank alike, even on one without images, whether there is a similarity."""
    encoded = split.encode([0], frozenset({"text", "image"}))
    text, image = encoded.text_features, encoded.image_features
    if text is None or image is None or split.similarity(text, image) is None:
        raise SpecError(
            f"objective 'retrieval': shortlist = {shortlist} chooses by similarity, which no "
            "objective of this run learns; train with [[objectives]] of type = 'itc' too, or "
            "set shortlist = 0"
        )


def _rows(tokens: Tokens, rows: Tensor) -> Tokens:
    return Tokens(tokens.hidden_states[rows], tokens.attention_mask[rows])


def _to(tokens: Tokens, device: torch.device) -> Tokens:
    return Tokens(tokens.hidden_states.to(device), tokens.attention_mask.to(device))
