"""`renaissance export --to hf`, and what loads it."""

import json
import shutil
import socket
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from support.command_line import renaissance
from support.running import TINY, one_tower_spec, run_here, write_spec
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from renaissance import CheckpointError, PluginError, RunError, SpecError
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.data.collate import RowBuilder
from renaissance.engine.init_from import InitReport, initialize
from renaissance.engine.manifest import model_sha256
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import build
from renaissance.export.card import Exported, card
from renaissance.export.huggingface import requirements, use
from renaissance.export.towers import Tower
from renaissance.inference.loading import load
from renaissance.inference.rows import Rows
from renaissance.plugins.loading import load_plugins
from renaissance.spec.choice import Lora
from renaissance.spec.read import load_spec
from renaissance.spec.write import record_tables

ITC = '[[objectives]]\ntype = "itc"\nprojection_size = 8\n\n[[objectives]]\ntype = "mlm"'
TEXTS = ["a red circle", "a small blue square above a large red circle", "green"]
TOWERS = ("text_encoder", "image_encoder")


def _pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (40, 60, 3), np.uint8)) for _ in TEXTS]


@pytest.fixture(scope="module", params=["two-tower", "one-tower"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and evaluated run of either architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    text = TINY if request.param == "two-tower" else one_tower_spec()
    text = text.replace('[[objectives]]\ntype = "mlm"', ITC)
    run_here(write_spec(folder, text), folder, "train.max_steps=2")
    assert renaissance("evaluate", str(folder / "tiny"), "--controls").code == 0
    return folder / "tiny"


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """The run, exported."""
    folder = run.parent / "exported"
    finished = renaissance("export", str(run), "--output", str(folder))
    assert (finished.code, finished.err) == (0, "")
    assert f"written: {folder}" in finished.out
    return folder


two_towers = pytest.mark.parametrize("run", ["two-tower"], indirect=True)


def test_an_exported_folder_answers_as_its_run_does(
    run: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, elsewhere, and without network."""
    expected = load(run).match(_pictures(), TEXTS)
    moved = tmp_path / "2024"
    shutil.copytree(exported, moved)

    def refuse(*arguments: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    actual = load(moved).match(_pictures(), TEXTS)
    assert np.array_equal(actual.probability, expected.probability)
    assert np.array_equal(actual.similarity, expected.similarity)
    assert model_sha256(moved) == model_sha256(RunFolder(run).find(prefer_best=True))


def _started(spec: Path, folder: Path, source: Path | str) -> tuple[InitReport, MultiObjective]:
    """Return what a new run starts with."""
    settings = [str(spec), f"run.output_dir={folder}", f"model.init_from={source}"]
    read = load_spec(settings, load_plugins())
    network = build(read, 1, load_weights=False).network
    return initialize(network, str(read.model.init_from), read), network


def test_an_exported_folder_can_be_evaluated_and_started_from(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "results.json").unlink()
    assert renaissance("evaluate", str(copy)).code == 0
    actual, expected = (json.loads((f / "results.json").read_text()) for f in (copy, run))
    assert actual["validate"]["metrics"] == expected["validate"]["metrics"]
    spec = run.parent / "run.toml"
    run_here(spec, tmp_path, "train.max_steps=1", f"model.init_from={exported}")
    started = load(tmp_path / "tiny", checkpoint="last")
    assert started.objectives == load(exported).objectives
    # With the same parameters, before any step.
    _, before = _started(spec, tmp_path / "before", exported)
    expected = load(exported).network.state_dict()
    assert before.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[n]) for n, tensor in before.state_dict().items())
    arguments = (f"run.output_dir={exported.parent}", 'run.name="exported"')
    with pytest.raises(SpecError, match=r"exported is an exported model.*model.init_from"):
        run_here(spec, exported.parent, *arguments[1:])


@two_towers
def test_transformers_loads_the_towers(run: Path, exported: Path) -> None:
    for name in TOWERS:
        line = f'("exported", subfolder="{name}", add_pooling_layer=False)'
        assert f"AutoModel.from_pretrained{line}" in (exported / "README.md").read_text()
    model = load(run)
    text_encoder, image_encoder = (
        AutoModel.from_pretrained(exported, subfolder=name, add_pooling_layer=False)
        for name in TOWERS
    )
    tokens = AutoTokenizer.from_pretrained(exported, subfolder="text_encoder")(
        TEXTS, padding=True, truncation=True, return_tensors="pt"
    )
    processor = AutoImageProcessor.from_pretrained(exported, subfolder="image_encoder")
    pixels = processor(_pictures(), return_tensors="pt")
    with torch.no_grad():
        texts = text_encoder(**tokens).last_hidden_state
        images = image_encoder(**pixels).last_hidden_state
        # The model's own, by the path of training.
        rows = [{"text": t, "image": p} for t, p in zip(TEXTS, _pictures(), strict=True)]
        reader = model.reader(Rows(rows))
        builder = RowBuilder(reader)
        samples = [reader.sample(0, index) for index in range(len(rows))]
        for sample in samples:
            builder.text(sample)
            builder.image(sample)
        encoded = model.network.encode(builder.micro_batch(samples, {}, {}))
    mask = tokens["attention_mask"].bool()
    expected = encoded["text"].hidden_states[encoded["text"].attention_mask]
    torch.testing.assert_close(texts[mask], expected, atol=1e-5, rtol=0)
    # The image processor rounds after resizing and before cropping, ours once.
    torch.testing.assert_close(images, encoded["image"].hidden_states, atol=0.05, rtol=0)


@pytest.mark.parametrize("run", ["one-tower"], indirect=True)
def test_one_tower_has_no_folder_for_transformers(exported: Path) -> None:
    assert not (exported / "encoder").exists()
    assert "Only Renaissance loads `encoder`" in (exported / "README.md").read_text()


def test_the_card_has_every_figure_with_its_command_and_checkpoint(
    run: Path, exported: Path
) -> None:
    text = (exported / "README.md").read_text()
    record = json.loads((run / "results.json").read_text())["validate"]
    command = f"renaissance evaluate {run} --split validate --checkpoint best --controls"
    assert f"Printed by `{command}`, of 21 samples:" in text
    assert record["checkpoint_sha256"] == model_sha256(RunFolder(run).find(prefer_best=True))
    assert f"measured with: `{record['checkpoint_sha256']}`" in text
    for metric, value in record["metrics"].items():
        cells = [value, *(control.get(metric) for control in record["controls"].values())]
        figures = " | ".join("-" if c is None else f"{c:.4f}" for c in cells)
        assert f"| {metric} | {figures} |" in text


def test_the_card_is_made_again_from_the_run_folder(run: Path, exported: Path) -> None:
    is_two = (exported / "text_encoder").is_dir()
    loaders = dict(zip(TOWERS, ("bert", "vit"), strict=True)) if is_two else {}
    pooler = {"add_pooling_layer": False}
    towers = [Tower(name, "AutoModel", family, pooler) for name, family in loaders.items()]
    command = ["export", str(run), "--to", "hf", "--output", str(exported), "--checkpoint", "best"]
    model = load(run)
    again = card(
        model,
        RunFolder(run),
        Exported("exported", command, exported, use(model, "exported", towers)),
    )
    assert again == (exported / "README.md").read_text()


@two_towers
def test_figures_of_another_checkpoint_are_left_out(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy, symlinks=True)
    results = json.loads((copy / "results.json").read_text())
    results["validate"]["checkpoint_sha256"] = "0" * 64
    (copy / "results.json").write_text(json.dumps(results))
    assert renaissance("export", str(copy), "--output", str(tmp_path / "out")).code == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Left out, since they were measured with another checkpoint: `validate`." in text
    assert "itm/accuracy" not in text


@two_towers
def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path) -> None:
    finished = renaissance("export", str(run), "--output", str(run))
    assert finished.code == 2
    assert f"--output: {run} is not empty; expected a folder that is new or empty" in finished.err
    finished = renaissance("export", str(run), "--output", str(tmp_path / "no" / "folder"))
    assert "there is no folder" in finished.err
    finished = renaissance("export", str(run), "--output", str(tmp_path / "x"), "--push", "me")
    assert "--push: got 'me', expected ORGANIZATION/NAME" in finished.err
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    weights = next((copy / "checkpoints").glob("step-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    finished = renaissance("export", str(copy), "--output", str(tmp_path / "x"))
    assert finished.code == 2
    assert "model.safetensors: damaged" in finished.err
    shutil.rmtree(copy / "checkpoints")
    finished = renaissance("export", str(copy), "--output", str(tmp_path / "x"))
    assert "no checkpoint there" in finished.err
    assert not (tmp_path / "x").exists()


@two_towers
def test_an_export_whose_outputs_differ_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = HFTextEncoder.transformers_model

    def damaged(encoder: HFTextEncoder) -> torch.nn.Module:
        model = plain(encoder)
        # With other random parameters.
        return type(model)(model.config).eval()

    monkeypatch.setattr(HFTextEncoder, "transformers_model", damaged)
    finished = renaissance("export", str(run), "--output", str(tmp_path / "x"))
    assert finished.code == 1
    assert "text_encoder: its output differs from the model's by up to" in finished.err
    assert list(tmp_path.iterdir()) == []


@two_towers
def test_a_plugin_that_is_not_installed_is_named(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    assert (copy / "requirements.txt").read_text() == "renaissance==0.1.0\n"
    (copy / "requirements.txt").write_text("renaissance==0.1.0\nrenaissance-nowhere==1.2\n")
    remedy = r"install them: pip install renaissance-nowhere==1.2"
    with pytest.raises(PluginError, match=rf"not installed: renaissance-nowhere==1.2; {remedy}"):
        load(copy)


@two_towers
def test_the_distributions_of_components_are_required(run: Path) -> None:
    spec = load(run).spec
    other = attrs.evolve(spec.optimizer.registration, distribution="their-adam", version="2.0")
    changed = attrs.evolve(spec, optimizer=attrs.evolve(spec.optimizer, registration=other))
    assert requirements(changed) == ["renaissance==0.1.0", "their-adam==2.0"]
    encoder = attrs.evolve(spec.model.image_encoder, adapt=Lora(type="lora"))
    adapted = attrs.evolve(spec, model=attrs.evolve(spec.model, image_encoder=encoder))
    assert requirements(adapted) == ["renaissance==0.1.0", f"peft=={version('peft')}"]


def test_plugin_files_are_copied_and_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from renaissance import hookimpl\n"
        "from renaissance.builtin.poolers.double import Double\n\n\n"
        "class Mine(Double):\n    pass\n\n\n"
        '@hookimpl\ndef register_poolers(register):\n    register("mine", Mine)\n'
    )
    text = TINY.replace('name = "tiny"', 'name = "tiny"\nplugins = ["mine.py"]')
    text = text.replace("[model.fusion]", '[model.pooler]\ntype = "mine"\n\n[model.fusion]')
    run_here(write_spec(tmp_path, text), tmp_path / "runs", "train.max_steps=1")
    output = tmp_path / "out"
    arguments = ("export", str(tmp_path / "runs/tiny"), "--output", str(output))
    assert "--trust-plugins" in renaissance(*arguments).err
    assert renaissance(*arguments, "--trust-plugins").code == 0
    (tmp_path / "mine.py").unlink()
    assert (output / "plugins/0-mine.py").is_file()
    with pytest.raises(SpecError, match="trust"):
        load(output)
    assert type(load(output, trust_plugins=True).network.model.pooler).__name__ == "Mine"


@two_towers
def test_a_folder_is_pushed_and_loaded_from_the_hub(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client is imitated by a folder."""
    hub = tmp_path / "hub"

    class Api:
        def create_repo(self, name: str, **options: object) -> None:
            (hub / name).mkdir(parents=True)

        def upload_folder(self, repo_id: str, folder_path: str, repo_type: str) -> None:
            shutil.copytree(folder_path, hub / repo_id, dirs_exist_ok=True)

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        if not (hub / name).is_dir():
            raise OSError("404: no such repository")
        cache = tmp_path / "cache"
        for pattern in allow_patterns:
            for path in (hub / name).glob(pattern):
                if path.is_dir():
                    continue
                target = cache / path.relative_to(hub / name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        # In the library, a pattern with * reaches into folders.
        shutil.copytree(hub / name / "encoders", cache / "encoders", dirs_exist_ok=True)
        return str(cache)

    monkeypatch.setattr("renaissance.hub.HfApi", Api)
    monkeypatch.setattr("renaissance.hub.snapshot_download", snapshot)
    monkeypatch.setattr("renaissance.hub.use_cache_if_unreachable", lambda names: None)
    output = str(tmp_path / "out")
    finished = renaissance("export", str(run), "--output", output, "--push", "me/mine")
    assert "pushed: https://huggingface.co/me/mine" in finished.out
    assert 'renaissance.load("me/mine")' in (hub / "me/mine/README.md").read_text()
    expected = load(run).embed(texts=TEXTS)
    assert (load("me/mine").embed(texts=TEXTS) == expected).all()
    assert not (tmp_path / "cache/text_encoder").exists()
    report, network = _started(run.parent / "run.toml", tmp_path, "me/mine")
    assert report.source == str(tmp_path / "cache")
    assert {row.status for row in report.modules} == {"loaded"}
    kept = load(run).network.state_dict()
    assert all(torch.equal(tensor, kept[n]) for n, tensor in network.state_dict().items())
    read = load_spec([str(run.parent / "run.toml"), "model.init_from=me/mine"], load_plugins())
    assert record_tables(read)["model"]["init_from"] == "me/mine"
    monkeypatch.setattr("renaissance.hub.constants.HF_HUB_OFFLINE", False)
    missing = (
        r"you/none: there is no such folder, .* fetched from the hub: 404: no such repository;"
    )
    with pytest.raises(CheckpointError, match=missing):
        load("you/none")
    with pytest.raises(CheckpointError, match=rf"^model\.init_from: {missing}"):
        _started(run.parent / "run.toml", tmp_path, "you/none")
    monkeypatch.setattr("renaissance.hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"it cannot be reached, and the model is not in the"):
        load("you/none")


def test_a_refused_push_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from renaissance.hub import upload

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("401 Unauthorized")

    monkeypatch.setattr("renaissance.hub.HfApi", lambda: SimpleNamespace(create_repo=refuse))
    with pytest.raises(RunError, match=r"--push me/x: 401 Unauthorized; .* 'hf auth login'"):
        upload(tmp_path, "me/x")
