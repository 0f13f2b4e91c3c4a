"""Contrastive learning and hard negatives, against independent calculations.

Run under torchrun, this file is one rank of the exchange of features.
"""

import math
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.collating import Given, collator, epoch_of, make, texts, word_pieces
from support.running import (
    TINY,
    environment,
    metrics,
    one_tower_spec,
    run_here,
    torchrun,
    weights,
    write_spec,
)
from support.tiny_models import IMAGE_SIZE, context, images, save, save_model
from support.whole_models import make_whole
from transformers import SiglipConfig, SiglipModel

from renaissance import (
    Features,
    ModelSizes,
    ObjectiveBatch,
    ObjectiveContext,
    Pairs,
    PretrainedContrast,
    SpecError,
    Tokens,
)
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.encoders.huggingface.contrast import PROJECTIONS
from renaissance.builtin.objectives.contrastive_loss import LOSSES, losses_and_accuracies
from renaissance.builtin.objectives.itc import ACCURACIES, ITC
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.poolers.double import Double
from renaissance.commands.check import check_run
from renaissance.engine.metrics import MetricBook
from renaissance.model.two_tower import TwoTower
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.testing.tiny_model import TinyFusion, TinyText

HIDDEN = 6
# Images of eight samples: some have several texts, and the two parts share some.
IMAGE_IDS = ["a", "b", "a", "c", "d", "b", "e", "a"]
FIRST_PART = 5
SIGMAS = 5


def objective_of(projection_size: int = 4, **options: Any) -> ITC:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = ModelSizes(text=HIDDEN, image=HIDDEN, fused=HIDDEN, pooled=HIDDEN)
        context: Any = ObjectiveContext(sizes, None, None)  # type: ignore[arg-type]
        return ITC(ITC.Options(projection_size=projection_size, **options), context)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Token states of eight texts and of their images, (8, 3, HIDDEN)."""
    generator = torch.Generator().manual_seed(1)
    text, image = torch.randn(2, len(IMAGE_IDS), 3, HIDDEN, generator=generator)
    return text.requires_grad_(), image.requires_grad_()


def tokens(states: torch.Tensor) -> Tokens:
    return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool))


def run(objective: ITC, text: torch.Tensor, image: torch.Tensor, part: slice) -> Any:
    """Give the objective some of the samples, each with a row of its own."""
    rows = torch.arange(len(text[part]))
    keys = torch.tensor([ord(image_id) for image_id in IMAGE_IDS[part]])
    indices = torch.arange(len(IMAGE_IDS))[part]
    rows_of = {"text_rows": rows, "image_rows": rows, "image_keys": keys, "indices": indices}
    batch = ObjectiveBatch(len(rows), None, rows_of)
    return batch, objective(batch, Features(text=tokens(text[part]), image=tokens(image[part])))


def by_hand(
    objective: ITC, text: torch.Tensor, image: torch.Tensor, image_ids: list[str] = IMAGE_IDS
) -> tuple[float, list[float]]:
    """Loss summed over the samples, and the share of right ones, each way."""
    vectors = []
    for states, projection in (
        (text, objective.text_projection),
        (image, objective.image_projection),
    ):
        projected = states[:, 0].detach().numpy() @ projection.weight.detach().numpy().T
        vectors.append(projected / np.linalg.norm(projected, axis=1, keepdims=True))
    cosines = vectors[0] @ vectors[1].T
    total, shares = 0.0, []
    for logits in (cosines / 0.07, cosines.T / 0.07):
        right = 0
        for row, own in zip(logits, image_ids, strict=True):
            same = [number for number, other in enumerate(image_ids) if other == own]
            log_sum = math.log(sum(math.exp(value) for value in row))
            total += sum(log_sum - row[number] for number in same) / len(same) / 2
            right += int(row.argmax()) in same
        shares.append(right / len(image_ids))
    return total, shares


def test_loss_and_accuracy_with_several_texts_an_image() -> None:
    objective, (text, image) = objective_of(), inputs()
    batch, output = run(objective, text, image, slice(None))
    loss, shares = by_hand(objective, text, image)
    assert float(output.loss_sum.detach()) == pytest.approx(loss, rel=1e-5)
    found = objective.metrics()
    objective.update_metrics(found, batch, output)
    # The shares differ, and from 0 and 1, so that mixing them up would show.
    assert len({0.0, *shares, 1.0}) == 4
    assert float(found["text_to_image_accuracy"].compute()) == pytest.approx(shares[0])
    assert float(found["image_to_text_accuracy"].compute()) == pytest.approx(shares[1])


def test_the_sigmoid_loss_is_that_of_siglip() -> None:
    part = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = SiglipConfig(
        text_config={**part, "vocab_size": 20, "max_position_embeddings": 4, "projection_size": 8},
        vision_config={**part, "image_size": 32, "patch_size": 16},
    )
    torch.manual_seed(0)
    siglip = SiglipModel(config).eval()
    with torch.no_grad():
        siglip.logit_scale.fill_(math.log(10.0))
        siglip.logit_bias.fill_(-3.0)
        output = siglip(
            input_ids=torch.arange(12).view(3, 4),
            pixel_values=torch.randn(3, 3, 32, 32),
            return_loss=True,
        )
    to_image, to_text = output.logits_per_text, output.logits_per_image
    found = losses_and_accuracies(to_image, to_text, torch.eye(3).bool(), "sigmoid")["loss"]
    torch.testing.assert_close(found.mean(), output.loss)


def test_the_sigmoid_loss_with_several_texts_an_image_in_training_and_in_evaluation() -> None:
    objective, (text, image) = objective_of(loss="sigmoid"), inputs()
    batch, output = run(objective, text, image, slice(None))
    cosines = objective.similarity(tokens(text), tokens(image))
    expected = 0.0
    for row, own in zip(cosines.tolist(), IMAGE_IDS, strict=True):
        for cosine, other in zip(row, IMAGE_IDS, strict=True):
            sign = 1 if own == other else -1
            # SigLIP starts from a scale of 10 and a bias of -10.
            expected += math.log1p(math.exp(-sign * (10 * cosine - 10)))
    assert float(output.loss_sum.detach()) == pytest.approx(expected, rel=1e-5)
    output.loss_sum.backward()
    assert objective.bias is not None
    assert float(objective.bias.grad) != 0
    book = MetricBook({"itc": objective.eval()}, {"itc": 1.0}, torch.device("cpu"))
    for part in (slice(3), slice(3, None)):
        batch, output = run(objective, text, image, part)
        micro_batch: Any = SimpleNamespace(objectives={"itc": batch})
        book.update(micro_batch, {"itc": output})
    assert book.compute()["itc/loss"] == pytest.approx(expected / len(IMAGE_IDS), rel=1e-5)


@pytest.mark.parametrize("cuts", [[8], [3, 8], [1, 2, 4, 8]])
@pytest.mark.parametrize("num_candidates", [8, 4])
def test_validation_figures_do_not_depend_on_micro_batches(
    cuts: list[int], num_candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renaissance.builtin.objectives.contrast.NUM_CANDIDATES", num_candidates)
    objective, (text, image) = objective_of().eval(), inputs()
    book = MetricBook({"itc": objective}, {"itc": 2.0}, torch.device("cpu"))
    # The micro-batches in another order than that of the split, as of other ranks.
    parts = [slice(start, end) for start, end in zip([0, *cuts], cuts, strict=False)]
    for part in reversed(parts):
        batch, output = run(objective, text, image, part)
        micro_batch: Any = SimpleNamespace(objectives={"itc": batch})
        book.update(micro_batch, {"itc": output})
    total, shares = 0.0, np.zeros(2)
    for start in range(0, len(IMAGE_IDS), num_candidates):
        block = slice(start, start + num_candidates)
        loss, right = by_hand(objective, text[block], image[block], IMAGE_IDS[block])
        total += loss
        shares += np.array(right) * num_candidates / len(IMAGE_IDS)
    found = book.compute()
    assert found["itc/loss"] == pytest.approx(total / len(IMAGE_IDS), rel=1e-5)
    assert found["loss"] == pytest.approx(2 * found["itc/loss"])
    assert found["itc/text_to_image_accuracy"] == pytest.approx(shares[0])
    assert found["itc/image_to_text_accuracy"] == pytest.approx(shares[1])


@pytest.mark.slow
def test_a_run_is_validated_alike_with_any_micro_batch(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, CONTRASTIVE)
    found = []
    for size in (4, 16):
        settings = ["train.max_steps=2", f"evaluate.micro_batch_size={size}"]
        run_here(spec, tmp_path / str(size), *settings)
        last = metrics(tmp_path / str(size) / "tiny")[-1]
        assert last["split"] == "validate"
        found.append([last[f"itc/{name}"] for name in ("loss", *ACCURACIES)] + [last["loss"]])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_similarity_is_the_cosine_in_full_precision() -> None:
    objective, (text, image) = objective_of(), inputs()
    plain = torch.cosine_similarity(
        objective.text_projection(text[:, 0])[:, None],
        objective.image_projection(image[:5, 0])[None],
        dim=-1,
    )
    with torch.autocast("cpu", torch.bfloat16):
        similarity = objective.similarity(tokens(text), tokens(image[:5]))
    torch.testing.assert_close(similarity, plain)


@pytest.mark.parametrize("family", ["convnext", "swin", "resnet", "siglip", "vit"])
@pytest.mark.parametrize("reader", ["itc", "double"])
def test_the_whole_image_counts_whichever_tower_encodes_it(
    family: str, reader: str, tmp_path: Path
) -> None:
    if family == "siglip":
        save(tmp_path, make_whole(family))
    else:
        save_model(tmp_path, family)
    encoder = HFImageEncoder(HFImageEncoder.Options(checkpoint=str(tmp_path)), context()).eval()
    num_images = 16
    pixels = images(number=num_images).requires_grad_()
    image = encoder.encode_image(pixels)
    rows = torch.arange(num_images)
    if reader == "itc":
        sizes = ModelSizes(HIDDEN, encoder.hidden_size, HIDDEN, HIDDEN)
        given: Any = ObjectiveContext(
            sizes,
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            image_summary=encoder.image_summary,
        )
        batch = {"text_rows": rows, "image_rows": rows, "image_keys": rows}
        text = tokens(torch.randn(num_images, 2, HIDDEN))
        objective = ITC(ITC.Options(), given)
        output = objective(
            ObjectiveBatch(num_images, None, batch), Features(text=text, image=image)
        )
        output.loss_sum.backward()
    else:
        fusion = TinyFusion()
        size = fusion.hidden_size
        model = TwoTower(TinyText(20), encoder, fusion, Double(Double.Options(), size))
        text = model.encode_text(
            torch.ones(num_images, 2, dtype=torch.int64), torch.ones(num_images, 2).bool()
        )
        # The tiny fusion adds text to image tokens; the second half is of the image alone.
        pooled = model.fuse(text, image, [Pairs(rows, rows)])[0].pooled[:, size:]
        pooled.square().sum().backward()
    half = IMAGE_SIZE // 2
    quarters = pixels.grad.abs().sum((0, 1)).unfold(0, half, half).unfold(1, half, half)
    shares = quarters.sum((2, 3)) / quarters.sum()
    print(f"{reader} on {family}:", *(f"{share:.2f}" for share in shares.flatten()))
    # About a quarter each, not 97% to the top left one.
    assert float(shares.min()) > 0.15
    assert float(shares.max()) < 0.35


def pretrained(text: Any, image: Any, **options: Any) -> ITC:
    sizes = ModelSizes(text=HIDDEN, image=HIDDEN, fused=HIDDEN, pooled=HIDDEN)
    given: Any = ObjectiveContext(
        sizes,
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        text_contrast=text,
        image_contrast=image,
    )
    return ITC(ITC.Options(**options), given)


@pytest.mark.parametrize("family", ["clip", "siglip", "align"])
def test_it_starts_from_the_size_and_scale_of_the_pretrained_model(
    family: str, tmp_path: Path
) -> None:
    model = make_whole(family)
    with torch.no_grad():
        for name, number in {"logit_scale": 3.0, "temperature": 0.25, "logit_bias": -7.0}.items():
            if hasattr(model, name):
                getattr(model, name).fill_(number)
    model.save_pretrained(tmp_path)
    text, image = (
        component(component.Options(checkpoint=str(tmp_path)), context()).contrast
        for component in (HFTextEncoder, HFImageEncoder)
    )
    objective = pretrained(text, image, loss="sigmoid" if family == "siglip" else "softmax")
    expected = {"clip": (512, math.exp(3)), "siglip": (16, math.exp(3)), "align": (8, 4.0)}
    size, scale = expected[family]
    assert objective.text_projection.out_features == size
    assert objective.image_projection.out_features == size
    assert objective.log_scale.exp().item() == pytest.approx(scale)
    assert (objective.bias is not None and float(objective.bias)) == (family == "siglip" and -7.0)
    # A loss of the other kind starts as usual.
    other = pretrained(text, image, loss="softmax" if family == "siglip" else "sigmoid")
    assert float(other.log_scale.exp()) == pytest.approx(LOSSES[other.loss].scale)


def towers_and_objective(folder: Path, **values: Any) -> tuple[Any, Any, ITC]:
    """Return the towers of a checkpoint, and an objective of them."""
    options = {"checkpoint": str(folder)}
    text = HFTextEncoder(HFTextEncoder.Options(**options), context(**values)).eval()
    image = HFImageEncoder(HFImageEncoder.Options(**options), context(**values)).eval()
    sizes = ModelSizes(text.hidden_size, image.hidden_size, HIDDEN, HIDDEN)
    given = ObjectiveContext(
        sizes,
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        text_summary=text.text_summary,
        image_summary=image.image_summary,
        text_contrast=text.contrast,
        image_contrast=image.contrast,
    )
    return text, image, ITC(ITC.Options(), given).eval()


def whole_texts(family: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return texts that end as the text part of a tiny model wants them to."""
    end = 2 if family == "metaclip_2" else 59
    input_ids = torch.tensor([[9, 7, 8, 5, end], [6, 9, end, 1, 1], [7, 5, 8, end, 1]])
    return input_ids, input_ids != 1


def flava_logits(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what FLAVA's contrastive loss compares; only its model for pretraining does."""
    states = model(**given, skip_multimodal_encoder=True)
    text = model.text_projection(states.text_embeddings[:, 0])
    image = model.image_projection(states.image_embeddings[:, 0])
    vectors = (torch.nn.functional.normalize(part, dim=-1) for part in (text, image))
    texts, pictures = vectors
    logits: torch.Tensor = texts @ pictures.T * model.logit_scale.exp()
    return logits


@pytest.mark.parametrize("family", sorted(PROJECTIONS))
@torch.no_grad()
def test_towers_of_one_model_compare_as_it_does(family: str, tmp_path: Path) -> None:
    model = save(tmp_path, make_whole(family))
    text, image, objective = towers_and_objective(tmp_path)
    input_ids, mask = whole_texts(family)
    found = objective.similarity(text.encode_text(input_ids, mask), image.encode_image(images()))
    given = {"input_ids": input_ids, "attention_mask": mask.long(), "pixel_values": images()}
    expected = flava_logits(model, given) if family == "flava" else model(**given).logits_per_text
    scale = objective.log_scale.exp()
    torch.testing.assert_close(found * scale, expected, atol=1e-5, rtol=1e-5)
    assert objective.embedding_norm("text") is None
    norm = objective.embedding_norm("image")
    assert (norm is None) == (family in ("align", "flava"))
    assert all(parameter.requires_grad for parameter in objective.parameters())
    # Where no weights are read, there are the same parameters.
    _, _, empty = towers_and_objective(tmp_path, load_weights=False)
    shapes = {name: tensor.shape for name, tensor in objective.state_dict().items()}
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == shapes


@torch.no_grad()
def test_projections_of_other_models_are_new(tmp_path: Path) -> None:
    for name in ("one", "other"):
        save(tmp_path / name, make_whole("clip"))
    text, image, _ = towers_and_objective(tmp_path / "one")
    objective = pretrained(text.contrast, towers_and_objective(tmp_path / "other")[1].contrast)
    assert objective.embedding_norm("image") is None
    other = pretrained(text.contrast, image.contrast, projection_size=8)
    assert other.embedding_norm("image") is None
    assert other.image_projection.out_features == 8
    # SigLIP pools its states in a way of its own before it projects them.
    save(tmp_path / "siglip", make_whole("siglip"))
    _, _, objective = towers_and_objective(tmp_path / "siglip")
    assert objective.embedding_norm("image") is None


def test_one_tower_of_a_pretrained_model_gives_its_size_alone() -> None:
    objective = pretrained(PretrainedContrast(8, 50.0), None)
    assert objective.text_projection.out_features == 8
    assert float(objective.log_scale.exp()) == pytest.approx(1 / 0.07)
    assert pretrained(None, None).text_projection.out_features == 256


def test_towers_whose_projections_differ_in_size_are_refused() -> None:
    towers = PretrainedContrast(512, 100.0), PretrainedContrast(768, 100.0)
    with pytest.raises(SpecError) as caught:
        pretrained(*towers)
    assert str(caught.value) == (
        "objective 'itc': the text encoder comes from a model that compares vectors of size 512, "
        "the image encoder from one of size 768; set projection_size to one of them, or take both "
        "encoders from one model"
    )
    objective = pretrained(*towers, projection_size=64)
    assert objective.image_projection.out_features == 64
    assert float(objective.log_scale.exp()) == pytest.approx(1 / 0.07)


def test_the_scale_stops_at_100_and_can_come_back() -> None:
    objective, (text, image) = objective_of(), inputs()
    with torch.no_grad():
        objective.log_scale.fill_(9.0)
    _, output = run(objective, text, image, slice(None))
    output.loss_sum.backward()
    assert float(objective.log_scale.detach().exp()) == pytest.approx(100.0, rel=1e-5)
    assert float(objective.log_scale.grad) != 0.0


def test_collation_shares_rows_and_keys_of_equal_images() -> None:
    tokenizer = word_pieces()
    dataset = Given([(text, image) for text, image in zip(texts(4), (3, 7, 3, 9), strict=True)])
    objective = objective_of()
    batch = collator(dataset, {"itc": objective}, tokenizer, training=False)[epoch_of(4)]
    itc = batch.objectives["itc"]
    assert itc.num_targets == 4
    assert itc.pairs is None
    assert itc.tensors["text_rows"].tolist() == [0, 1, 2, 3]
    assert itc.tensors["image_rows"].tolist() == [0, 1, 0, 2]
    keys = itc.tensors["image_keys"].tolist()
    assert [keys.index(key) for key in keys] == [0, 1, 0, 3]


# --- on two ranks ---


@pytest.mark.slow
def test_two_ranks_give_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = run_python("-m", *command, __file__, str(tmp_path))
    assert result.returncode == 0, result.stderr[-2000:]
    # Each rank's gradients of everything; what they add up to is the whole's.
    whole = torch.cat([gradients_of(loss, slice(None)) for loss in LOSSES])
    ranks = [torch.from_numpy(np.load(tmp_path / f"{rank}.npy")) for rank in range(2)]
    assert whole.abs().max() > 0.1
    torch.testing.assert_close(ranks[0] + ranks[1], whole, atol=1e-5, rtol=1e-5)


def run_python(*arguments: str) -> Any:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def gradients_of(loss: str, part: slice) -> torch.Tensor:
    """The loss, and the gradients of inputs and parameters, for some of the samples."""
    objective, (text, image) = objective_of(loss=loss).train(), inputs()
    _, output = run(objective, text, image, part)
    output.loss_sum.backward()
    gradients = [text.grad, image.grad, *(p.grad for p in objective.parameters())]
    return torch.cat([output.loss_sum.detach().view(1), *(g.flatten() for g in gradients)])


def one_rank(folder: Path) -> None:
    """Five samples on rank 0, three on rank 1."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    rank = dist.get_rank()
    part = slice(0, FIRST_PART) if rank == 0 else slice(FIRST_PART, None)
    np.save(folder / f"{rank}.npy", torch.cat([gradients_of(loss, part) for loss in LOSSES]))
    # In evaluation a rank is alone: this would wait for the other for ever.
    if rank == 0:
        run(objective_of().eval(), *inputs(), part)
    dist.destroy_process_group()


CONTRASTIVE = TINY[: TINY.index("[[objectives]]")] + (
    '[[objectives]]\ntype = "itc"\nprojection_size = 8\n\n' + TINY[TINY.index("[optimizer]") :]
)


@pytest.mark.slow
def test_a_run_on_two_ranks_learns_what_one_learns(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, CONTRASTIVE)
    # Plain gradient descent: the weights show the gradients as they are.
    settings = [
        "train.max_steps=3",
        "optimizer.type=sgd",
        "optimizer.learning_rate=0.1",
        "schedule.warmup_steps=0",
        "train.log_every=1",
    ]
    run_here(spec, tmp_path / "one", *settings)
    result = torchrun(2, str(spec), f"run.output_dir={tmp_path / 'two'}", *settings)
    assert result.returncode == 0, result.stderr[-2000:]
    one, two = (weights(tmp_path / name / "tiny", 3) for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-4, msg=name)
    losses = [
        [line["itc/loss"] for line in metrics(tmp_path / name / "tiny") if line["split"] == "train"]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != pytest.approx(losses[0][-1], rel=1e-3)


# --- hard negatives ---

NUM_SAMPLES = 6
NUM_TEXTS = 2


def hard_batches(num_epochs: int, **options: Any) -> Any:
    """Objective and collated micro-batches of six samples, two an image, one an epoch."""
    tokenizer = word_pieces()
    dataset = Given([(text, n // NUM_TEXTS) for n, text in enumerate(texts(NUM_SAMPLES))])
    objective = make(ITM, tokenizer, **options)
    collate = collator(dataset, {"itm": objective}, tokenizer)
    return objective, [collate[epoch_of(NUM_SAMPLES, epoch)] for epoch in range(num_epochs)]


@pytest.mark.parametrize("replace", ["image", "text"])
def test_hard_negatives_follow_the_softmax_of_similarity(replace: str) -> None:
    temperature = 0.5
    objective, batches = hard_batches(
        1000, negatives="hard", replace=replace, temperature=temperature
    )
    cosine = torch.rand(NUM_SAMPLES, NUM_SAMPLES, generator=torch.Generator().manual_seed(0))
    drawn: dict[int, Counter[int]] = {number: Counter() for number in range(NUM_SAMPLES)}
    for batch in batches:
        itm = batch.objectives["itm"]
        text_rows, image_rows = (itm.tensors[name] for name in ("text_rows", "image_rows"))
        # Of the micro-batch's rows, in whichever order they are.
        similarity = torch.full((len(batch.input_ids), len(batch.pixel_values)), torch.nan)
        for text in range(NUM_SAMPLES):
            for image in range(NUM_SAMPLES):
                similarity[text_rows[text], image_rows[image]] = cosine[text, image // NUM_TEXTS]
        pairs = objective.pairs(itm, similarity)
        for number, label in enumerate(itm.tensors["labels"].tolist()):
            text = text_rows.tolist().index(int(pairs.text_rows[number]))
            image = image_rows.tolist().index(int(pairs.image_rows[number])) // NUM_TEXTS
            if label:
                assert (text, image) == (number, number // NUM_TEXTS)
            elif replace == "text":
                assert image == number // NUM_TEXTS
                drawn[number][text] += 1
            else:
                assert text == number
                drawn[number][image] += 1
    for number, counts in drawn.items():
        own, total = number // NUM_TEXTS, sum(counts.values())
        if replace == "text":
            others = [text for text in range(NUM_SAMPLES) if text // NUM_TEXTS != own]
            scores = {text: math.exp(cosine[text, own] / temperature) for text in others}
        else:
            others = [image for image in range(NUM_SAMPLES // NUM_TEXTS) if image != own]
            scores = {image: math.exp(cosine[number, image] / temperature) for image in others}
        assert set(counts) <= set(scores)
        for other, score in scores.items():
            share = score / sum(scores.values())
            error = SIGMAS * math.sqrt(total * share * (1 - share))
            assert abs(counts[other] - total * share) < error


def test_hard_negatives_change_rows_and_nothing_else() -> None:
    _, plain = hard_batches(50, negatives="batch", replace="either")
    _, hard = hard_batches(50, negatives="hard", replace="either")
    for one, other in zip(plain, hard, strict=True):
        labels = [batch.objectives["itm"].tensors["labels"] for batch in (one, other)]
        assert torch.equal(*labels)
        itm = other.objectives["itm"]
        assert itm.tensors["broken"].tolist() == torch.nonzero(labels[0] == 0)[:, 0].tolist()
        # Both samples of the own image are forbidden, and no others.
        noise = itm.tensors["noise"].view(-1, NUM_SAMPLES // NUM_TEXTS, NUM_TEXTS)
        own = itm.tensors["broken"] // NUM_TEXTS
        assert noise[torch.arange(len(own)), own].isneginf().all()
        assert int(noise.isneginf().sum()) == NUM_TEXTS * len(own)


def test_evaluation_takes_negatives_of_the_dataset() -> None:
    tokenizer = word_pieces()
    dataset = Given([(text, number) for number, text in enumerate(texts(20))])
    batches = []
    for negatives in ("dataset", "hard"):
        objective = make(ITM, tokenizer, negatives=negatives)
        batch = collator(dataset, {"itm": objective}, tokenizer, training=False)[epoch_of(4)]
        itm = batch.objectives["itm"]
        assert objective.pairs(itm, None) is itm.pairs
        batches.append((batch.pixel_values, itm.pairs.image_rows))
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


HARD_ALONE = TINY.replace('negatives = "dataset"', 'negatives = "hard"')


def test_without_a_similarity_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"objective 'itm': negatives = 'hard' .* type = 'itc', or"):
        run_here(write_spec(tmp_path, HARD_ALONE), tmp_path)


@pytest.mark.parametrize("tower", ["two", "one"])
def test_a_run_with_hard_negatives(tmp_path: Path, tower: str) -> None:
    text = HARD_ALONE if tower == "two" else one_tower_spec().replace('"dataset"\n\n', '"hard"\n\n')
    assert 'negatives = "hard"' in text
    text = text.replace("[optimizer]", '[[objectives]]\ntype = "itc"\n\n[optimizer]')
    assert run_here(write_spec(tmp_path, text), tmp_path, "train.max_steps=4") == 0
    last = metrics(tmp_path / "tiny")[-1]
    assert 0.0 <= last["itc/text_to_image_accuracy"] <= 1.0
    assert last["itm/loss"] > 0


def test_check_estimates_a_run_with_hard_negatives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HARD_ALONE.replace("[optimizer]", '[[objectives]]\ntype = "itc"\n\n[optimizer]')
    plugins = load_plugins()
    check_run(load_spec([str(write_spec(tmp_path, text))], plugins), 1)
    said = capsys.readouterr().out
    assert "no estimate" not in said
    assert "ok: this run can start" in said


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]))
