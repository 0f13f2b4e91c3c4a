"""Every recipe can be laid over a complete one, says what it promises, and passes `check`."""

import re
import shlex
from pathlib import Path

import pytest
import tomli
from renaissance_cifar.dataset import CLASSES
from safetensors.torch import save_file
from support.answering import png, write_table
from support.command_line import renaissance
from support.installing import install_metadata
from support.running import TINY, write_spec
from transformers import CONFIG_MAPPING, BertTokenizer

from renaissance.engine.checkpoint import TrainState, save_checkpoint
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec import spec_to_toml
from renaissance.spec.read import load_spec
from renaissance.spec.resolve import Facts, resolve
from renaissance.spec.sections import RunSpec

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
README = (RECIPES / "README.md").read_text().replace("\\\n", " ")
PRETRAIN = RECIPES / "pretrain.toml"
# Complete by themselves; two-tower.toml is a model alone.
COMPLETE = sorted({*RECIPES.glob("*.toml"), *RECIPES.glob("tasks/*.toml")})
COMPLETE.remove(RECIPES / "two-tower.toml")
# Of runs, which are no layers of one.
STUDIES = sorted(RECIPES.glob("studies/*.toml"))
FRAGMENTS = sorted(
    path.relative_to(RECIPES)
    for path in RECIPES.glob("*/*.toml")
    if path not in [*COMPLETE, *STUDIES]
)
# Commands in the text, and rows of the tables of names: the arguments of `check`.
COMMANDS = [
    line.split(maxsplit=2 if "check" in line else 4)[-1]
    for line in README.splitlines()
    if line.startswith("    ")
]
ROWS = dict(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `(.*\S)` \|$", README, re.M))
# So that a small machine can check them.
SMALL = ("data.root=data", "train.global_batch_size=2", "train.micro_batch_size=2")
# Of datasets that take turns, each must have a sample in a batch.
SMALL_TURNS = ("data.root=data", "train.global_batch_size=10", "train.micro_batch_size=10")

LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = {"hidden_size": 16, **LAYERS}
PATCHES = {"hidden_size": 16, "image_size": 224, "patch_size": 16, **LAYERS}
STAGES = {"hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 7}
# What the hub has under these names, with other numbers: model_type and config.
HUB: dict[str, tuple[str, dict[str, object]]] = {
    "google/electra-small-discriminator": ("electra", {**TEXT, "embedding_size": 8}),
    "google/electra-base-discriminator": ("electra", {**TEXT, "embedding_size": 16}),
    "claytonfields/electra-tiny": ("electra", {**TEXT, "embedding_size": 8}),
    "google-bert/bert-base-uncased": ("bert", TEXT),
    "huawei-noah/TinyBERT_General_4L_312D": ("bert", TEXT),
    "nreimers/MiniLM-L6-H384-uncased": ("bert", TEXT),
    "sentence-transformers/all-MiniLM-L6-v2": ("bert", TEXT),
    "FacebookAI/roberta-base": ("roberta", {**TEXT, "max_position_embeddings": 514}),
    "distilbert/distilbert-base-uncased": ("distilbert", {"dim": 16, "n_layers": 1, "n_heads": 2}),
    "facebook/deit-tiny-patch16-224": ("vit", PATCHES),
    "facebook/deit-tiny-distilled-patch16-224": ("deit", PATCHES),
    "facebook/deit-small-patch16-224": ("vit", PATCHES),
    "facebook/deit-small-distilled-patch16-224": ("deit", PATCHES),
    "facebook/dino-vits16": ("vit", PATCHES),
    "google/vit-base-patch16-224": ("vit", PATCHES),
    "microsoft/beit-base-patch16-224-pt22k-ft22k": (
        "beit",
        {**PATCHES, "use_relative_position_bias": True},
    ),
    "microsoft/swin-tiny-patch4-window7-224": ("swin", SWIN),
    "microsoft/swin-small-patch4-window7-224": ("swin", SWIN),
    "openai/clip-vit-base-patch32": ("clip", {"vision_config": {**PATCHES, "patch_size": 32}}),
    "microsoft/resnet-50": ("resnet", {**STAGES, "embedding_size": 4, "layer_type": "basic"}),
    "facebook/convnext-tiny-224": ("convnext", STAGES),
}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "it")


def load(*arguments: Path | str) -> RunSpec:
    return load_spec([str(argument) for argument in arguments], load_plugins())


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory where local folders stand in for the hub's models and the data.

    A relative path that is a folder comes before the hub.
    """
    folder = tmp_path_factory.mktemp("recipes")
    for name in ("recipes", "plugins", "renaissance"):
        (folder / name).symlink_to(ROOT / name)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    for name, (model_type, config) in HUB.items():
        CONFIG_MAPPING[model_type](**config).save_pretrained(folder / name)
        # check looks for the file, and reads no weights.
        save_file({}, folder / name / "model.safetensors")
        tokenizer.save_pretrained(folder / name)
    write_data(folder / "data")
    return folder


@pytest.fixture
def there(offline: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the same, as the working directory."""
    monkeypatch.chdir(offline)
    return offline


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages that the README names, as if they were installed."""
    for package in ("renaissance-glue", "renaissance-cifar"):
        install_metadata(ROOT / "plugins" / package, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")


def write_data(root: Path) -> None:
    """Write three rows of each table that a recipe reads."""
    root.mkdir()
    images = [png(level) for level in (10, 20, 30)]
    texts = [["a photo of it"]] * 3
    captions = {"image": images, "caption": texts, "image_id": ["1", "2", "3"]}
    questions = {
        "image": images,
        "questions": texts,
        "answers": [[["yes"]]] * 3,
        "answer_labels": [[[0]]] * 3,
        "answer_scores": [[[1.0]]] * 3,
        "image_id": [1, 2, 3],
        "question_id": [[1], [2], [3]],
    }
    pairs = {
        "image_0": images,
        "image_1": images,
        "questions": texts,
        "answers": [["True"]] * 3,
        "identifier": ["dev-1-0", "dev-2-0", "dev-3-0"],
    }
    entailment = {
        "image": images,
        "sentences": [[["a photo", "a photo of it"]]] * 3,
        "labels": [[2]] * 3,
    }
    boxes = {
        "image": images,
        "sentences": texts,
        "bboxes": [[[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 5.0, 5.0]]] * 3,
        "labels": [1] * 3,
    }
    coco = [f"coco_caption_karpathy_{split}" for split in ("train", "restval", "val")]
    flickr = [
        f"{name}_caption_karpathy_{s}" for name in ("f30k", "flickr8k") for s in ("train", "val")
    ]
    boxed = ("refcoco_unc", "refcoco+_unc", "refcocog_umd")
    tables = {
        **dict.fromkeys([*coco, *flickr, "vg", "sbu_0", "conceptual_caption_train_0"], captions),
        **dict.fromkeys([f"vqav2_{s}" for s in ("train", "trainable_val", "rest_val")], questions),
        **dict.fromkeys(["nlvr2_train", "nlvr2_dev"], pairs),
        **dict.fromkeys(["snli_train", "snli_dev"], entailment),
        **dict.fromkeys([f"{name}_{split}" for name in boxed for split in ("train", "val")], boxes),
    }
    for name, columns in tables.items():
        write_table(root / f"{name}.arrow", columns)
    (root / "vqav2_answers.json").write_text('["yes", "no"]')
    sentences = {
        "RTE": "index\tsentence1\tsentence2\tlabel\n0\ta photo\tof it\tentailment\n",
        "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\ta photo\tof it\n",
    }
    for task, text in sentences.items():
        for split in ("train", "dev"):
            path = root / task / f"{split}.tsv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + text.splitlines()[1] + "\n")
    for split in ("train", "test"):
        for label in CLASSES:
            path = root / "cifar10" / split / label / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(png(10, (32, 32)))


def check(command: str) -> None:
    """Run `check` with the arguments of a command, and small batches."""
    arguments = shlex.split(command)
    small = SMALL_TURNS if "multi-task" in command else SMALL
    # Not the folder of the runs to start from: a run would resume one of the same name.
    finished = renaissance("check", *arguments, *small, "run.output_dir=checked")
    assert (finished.code, finished.err) == (0, ""), finished.err
    assert "ok: this run can start" in finished.out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_readme_pass_check(there: Path, command: str) -> None:
    started_from = re.search(r"model\.init_from=(\S+)", command)
    if started_from:
        write_run(there / started_from[1])
    check(command)


def row(names: str) -> str:
    """Return the arguments of a row; those of a fragment with something to lay it over."""
    arguments = ROWS[names]
    is_complete = re.match(r"recipes/(pretrain|tasks/)|plugins/", arguments)
    return arguments if is_complete else f"recipes/pretrain.toml {arguments}"


def test_the_commands_of_the_tables_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for names in ROWS:
        assert load(*shlex.split(row(names))).objectives


@pytest.mark.slow
@pytest.mark.parametrize("names", ROWS)
def test_the_commands_of_the_tables_pass_check(there: Path, names: str) -> None:
    check(row(names))


def test_no_name_stands_twice_in_the_tables() -> None:
    names = re.findall(r"\w+", " ".join(ROWS))
    assert len(names) > 90
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_the_study_of_the_paper_passes_check(there: Path) -> None:
    checked = renaissance("study", "check", "recipe:studies/paper")
    # Seven variants, each in four stages, with three seeds.
    assert checked.out.startswith("84 runs, which are these with 3 seeds:\n")
    assert checked.err == ""
    assert checked.out.endswith("\nok: these 84 runs can start\n")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_runs"), [("retrieval", 6), ("adaptation", 12)])
def test_the_studies_of_the_page_about_tasks_pass_check(
    there: Path, name: str, num_runs: int
) -> None:
    checked = renaissance("study", "check", f"recipe:studies/{name}")
    assert checked.code == 0, checked.err
    assert checked.out.endswith(f"\nok: these {num_runs} runs can start\n")


@pytest.mark.parametrize("name", ["shapes", "flickr8k"])
def test_a_study_varies_nothing_but_what_it_names(there: Path, name: str) -> None:
    checked = renaissance("study", "check", f"recipe:studies/{name}")
    assert checked.code == 0, checked.err
    differing = checked.out.partition("what differs:\n")[2].splitlines()[1:-1]
    assert {tuple(line.split("\t")) for line in differing} == {
        ("model.text_encoder.frozen", "False", "text = trained"),
        ("model.text_encoder.frozen", "True", "text = frozen"),
        ("model.fusion.type", "co-attention", "fusion = co"),
        ("model.fusion.type", "merged-attention", "fusion = merged"),
    }


def write_run(folder: Path) -> None:
    """Write a run folder, with a checkpoint before the first step, as the README names it."""
    if folder.exists():
        return
    over = {
        "pretrain": [],
        "vit-base": ["recipes/one-tower/vit-base.toml"],
        "itc": ["recipes/objectives/itc.toml"],
    }[folder.name]
    spec = load("recipes/pretrain.toml", *over, *SMALL)
    network = build(spec, 1, load_weights=False).network
    checkpoint = folder / "checkpoints" / "step-00000001"
    checkpoint.parent.mkdir(parents=True)
    save_checkpoint(checkpoint, network, None, TrainState(step=1), spec_to_toml(spec))


@pytest.mark.parametrize("recipe", COMPLETE, ids=lambda path: path.stem)
def test_the_record_of_a_recipe_reads_back_as_an_equal_object(recipe: Path, tmp_path: Path) -> None:
    facts = Facts(num_samples=100_000, world_size=4, normalization=((0.1,) * 3, (0.2,) * 3))
    spec = resolve(load(recipe), facts)
    record = tmp_path / "spec.toml"
    record.write_text(spec_to_toml(spec))
    again = resolve(load(record), facts)
    assert again == spec
    assert spec_to_toml(again) == record.read_text()


@pytest.mark.parametrize("recipe", COMPLETE, ids=lambda path: path.stem)
def test_a_complete_recipe_is_complete(recipe: Path) -> None:
    assert load(recipe).objectives


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=str)
def test_a_fragment_is_of_use_over_a_complete_recipe(fragment: Path) -> None:
    base: list[Path] = [PRETRAIN]
    if fragment.stem.startswith("one-tower"):
        base.append(RECIPES / "one-tower/bert-base.toml")
    changed = load(*base, RECIPES / fragment)
    # The base names some of the fragments itself.
    unchanged = {
        "text/electra-small",
        "image/deit-tiny-distilled",
        "data/coco-vg",
        "objectives/mlm-itm",
    }
    assert (changed == load(*base)) == (str(fragment.with_suffix("")) in unchanged)


@pytest.mark.slow
@pytest.mark.parametrize("fragment", FRAGMENTS, ids=str)
def test_a_fragment_passes_check(there: Path, fragment: Path) -> None:
    base = "recipes/pretrain.toml"
    if fragment.stem.startswith("one-tower"):
        base += " recipes/one-tower/bert-base.toml"
    if fragment.stem.startswith("retrieval"):
        base = "recipes/tasks/retrieval-coco.toml"
    check(f"{base} recipes/{fragment}")


@pytest.mark.parametrize(
    "recipe", [*COMPLETE, *STUDIES, *(RECIPES / path for path in FRAGMENTS)], ids=str
)
def test_a_recipe_begins_with_what_it_is(recipe: Path) -> None:
    text = recipe.read_text()
    assert re.match(r"# [A-Z].*[.?]\n", text)
    # Nothing that another fragment of its group would leave behind.
    groups = {"text": "text_encoder", "image": "image_encoder", "one-tower": "encoder"}
    if recipe.parent.name in groups:
        encoder = tomli.loads(text)["model"][groups[recipe.parent.name]]
        assert set(encoder) <= {"type", "checkpoint", "patch_size"}


def test_a_task_is_as_the_readme_says() -> None:
    lines = re.findall(r"^\| (`[^|]*) \| (.*) \| x (.*) \| (.*) \| (.*) \| (.*) \|$", README, re.M)
    figures = {}
    for names, *numbers in lines:
        for name in re.findall(r"`(\S+)`", names):
            figures[name] = [float(figure) for figure in numbers]
    assert {*figures, "multi-task.toml"} == {path.name for path in RECIPES.glob("tasks/*")}
    for name, (rate, head, epochs, batch, size) in figures.items():
        spec = load(RECIPES / "tasks" / name)
        assert spec.optimizer.learning_rate == rate
        assert spec.optimizer.multipliers.head == head
        assert (spec.train.max_epochs, spec.train.max_steps) == (epochs, None)
        assert spec.train.global_batch_size == batch
        assert spec.data.image_size == size
        assert spec.run.name == Path(name).stem
        assert spec.checkpoint.best_mode == "max"


def test_a_model_laid_over_a_task_leaves_nothing_of_the_old_one() -> None:
    spec = load(RECIPES / "tasks/vqa.toml", RECIPES / "one-tower/vit-base.toml")
    assert (spec.model.text_encoder, spec.model.fusion) == (None, None)
    random = load(
        RECIPES / "flickr8k-two-tower.toml", RECIPES / "image/swin-tiny.toml"
    ).model.image_encoder
    assert random is not None
    assert (random.options.architecture, random.options.config) == (None, {})


def test_several_tasks_each_have_data_of_their_own() -> None:
    spec = load(RECIPES / "tasks/multi-task.toml")
    objectives = [objective.type for objective in spec.objectives]
    for datasets in (spec.data.train, spec.data.validate):
        assert sorted(name for data in datasets for name in data.objectives) == sorted(objectives)


def test_the_main_experiment() -> None:
    spec = load(PRETRAIN)
    assert (spec.train.max_steps, spec.train.global_batch_size) == (50_000, 512)
    assert (spec.optimizer.learning_rate, spec.schedule.warmup_steps) == (1e-4, 0.1)
    assert spec.data.max_text_length == 50
    assert spec.objectives[0].options.whole_word
    assert [objective.type for objective in spec.objectives] == ["mlm", "itm"]
    assert [dataset.type for dataset in spec.data.train] == ["coco", "vg"]
    assert spec.model.fusion is not None
    fusion = spec.model.fusion.options
    assert (fusion.num_layers, fusion.hidden_size) == (6, 256)


def test_freezing_and_random_weights() -> None:
    spec = load(PRETRAIN, RECIPES / "freeze/both.toml", RECIPES / "random/image.toml")
    model = spec.model
    assert model.text_encoder is not None
    assert model.image_encoder is not None
    assert model.text_encoder.frozen
    assert model.image_encoder.frozen
    assert model.image_encoder.options.random_init
    assert not model.text_encoder.options.random_init


def test_images_are_normalized_as_the_encoder_was_trained() -> None:
    for encoder, transform in (
        ("vit-base", "vit"),
        ("clip-vit-b32", "clip"),
        ("swin-tiny", "imagenet"),
    ):
        # Also over one with another transform.
        spec = load(PRETRAIN, RECIPES / "image/beit-base.toml", RECIPES / f"image/{encoder}.toml")
        assert spec.data.transform.type == transform


def test_shapes_is_complete_and_needs_no_files() -> None:
    spec = load(RECIPES / "shapes.toml")
    assert spec.run.name == "shapes"
    assert {dataset.type for dataset in (*spec.data.train, *spec.data.validate)} == {"shapes"}
    frozen = load(RECIPES / "shapes.toml", RECIPES / "freeze/text.toml")
    assert frozen.model.text_encoder is not None
    assert frozen.model.text_encoder.frozen


def test_every_recipe_is_in_the_readme_by_its_group() -> None:
    for group in {fragment.parts[0] for fragment in FRAGMENTS} | {"tasks"}:
        assert f"`{group}/`" in README


def test_the_example_spec_is_whole(tmp_path: Path) -> None:
    text = (ROOT / "run.toml.example").read_text()
    spec = load(write_spec(tmp_path, text))
    assert spec.model.type == "two-tower"
    # Every section that a run may have, the monitors' aside, is shown.
    assert set(tomli.loads(text)) == set(tomli.loads(TINY)) - {"monitors"} | {"checkpoint"}
