"""Initializing a new run from a checkpoint: strictly, module by module, with a report."""

from pathlib import Path

import pytest
import torch
from support.command_line import renaissance
from support.running import TINY, one_tower_spec, run_here, torchrun, weights, write_spec
from support.tiny_models import IMAGE_SIZE, TRANSFORMERS, context, images, save_model, texts
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoModel

from renaissance import CheckpointError, Encoder, SpecError
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.engine.checkpoint import TrainState, load_model_tensors, save_checkpoint
from renaissance.engine.init_from import InitReport, initialize
from renaissance.engine.matching import ModuleReport
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import spec_to_toml

PLUGINS = load_plugins()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny spec, and a checkpoint of it with parameters unlike initial ones."""
    folder = tmp_path_factory.mktemp("init_from")
    write_spec(folder, TINY + '\n[model.pooler]\ntype = "double"\n')
    pretrained(folder)
    return folder


def made(folder: Path, *settings: str) -> tuple[RunSpec, MultiObjective]:
    spec = load_spec([str(folder / "run.toml"), f"run.output_dir={folder}", *settings], PLUGINS)
    return spec, build(spec, 1, load_weights=True).network.eval()


def pretrained(folder: Path, *settings: str) -> MultiObjective:
    """Write a checkpoint with random parameters and return the network."""
    spec, network = made(folder, *settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    checkpoint = RunFolder(spec.folder).checkpoint(1)
    save_checkpoint(checkpoint, network, None, TrainState(step=1), spec_to_toml(spec))
    return network


def initialized(folder: Path, *settings: str) -> tuple[InitReport, MultiObjective]:
    """Initialize a new run from the tiny checkpoint."""
    settings = ("run.name=new", f"model.init_from={folder}/tiny", *settings)
    spec, network = made(folder, *settings)
    return initialize(network, folder / "tiny", spec), network


def refusal(folder: Path, *settings: str) -> str:
    with pytest.raises((CheckpointError, SpecError)) as caught:
        initialized(folder, *settings)
    return str(caught.value)


def tensors_of(folder: Path, module: str) -> dict[str, Tensor]:
    tensors = load_model_tensors(folder / "tiny/checkpoints/step-00000001")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(f"{module}.")}


def statuses(report: InitReport) -> dict[str, set[str]]:
    by_module: dict[str, set[str]] = {}
    for row in report.modules:
        by_module.setdefault(row.module, set()).add(row.status)
    return by_module


def same(network: MultiObjective, other: MultiObjective, module: str) -> bool:
    """Whether all tensors of a module are equal in two networks."""
    state, others = network.state_dict(), other.state_dict()
    names = [name for name in state if name.startswith(module)]
    assert names
    return all(torch.equal(state[name], others[name]) for name in names)


# --- all of it fits ---


def test_everything_is_loaded_and_encoders_compute_the_same(folder: Path) -> None:
    _, fresh = made(folder)
    report, network = initialized(folder)
    assert report.source == str(folder / "tiny/checkpoints/step-00000001")
    assert all(row.status == "loaded" for row in report.modules)
    total = sum(parameter.numel() for parameter in network.parameters())
    assert sum(row.num_parameters for row in report.modules) == total
    for name, tensor in tensors_of(folder, "model").items():
        assert torch.equal(network.state_dict()[name], tensor)
    old = pretrained(folder)
    input_ids, attention_mask = torch.tensor([[2, 7, 9, 3]]), torch.ones(1, 4, dtype=torch.bool)
    for model in (old.model, network.model, fresh.model):
        model.eval()
    text = network.model.encode_text(input_ids, attention_mask).hidden_states
    image = network.model.encode_image(images()).hidden_states
    assert torch.equal(text, old.model.encode_text(input_ids, attention_mask).hidden_states)
    assert torch.equal(image, old.model.encode_image(images()).hidden_states)
    assert not torch.allclose(image, fresh.model.encode_image(images()).hidden_states)


def test_tied_tensors_are_loaded_once_and_stay_tied(tmp_path: Path) -> None:
    write_spec(tmp_path)
    spec, old = made(tmp_path)
    _, new = made(tmp_path)
    for network in (old, new):
        layers = network.model.fusion.layers
        layers[1].load_state_dict(layers[0].state_dict())
        for name, parameter in layers[0].named_parameters():
            parent, _, leaf = name.rpartition(".")
            setattr(layers[1].get_submodule(parent), leaf, parameter)
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(1.0)
    checkpoint = RunFolder(spec.folder).checkpoint(1)
    save_checkpoint(checkpoint, old, None, TrainState(), spec_to_toml(spec))
    tied_spec, _ = made(tmp_path, f"model.init_from={checkpoint}", "run.name=new")
    report = initialize(new, checkpoint, tied_spec)
    assert same(old, new, "model.fusion")
    assert new.model.fusion.layers[1].text_stream is not new.model.fusion.layers[0].text_stream
    [fusion] = [row for row in report.modules if row.module == "fusion"]
    num_distinct = sum(p.numel() for p in new.model.fusion.parameters())
    assert fusion.num_parameters == num_distinct < 2 * num_distinct
    # A model that does not tie them has names that the checkpoint lacks.
    _, untied = made(tmp_path)
    with pytest.raises(CheckpointError, match=r"fusion\.layers\.1\..*: not in the checkpoint"):
        initialize(untied, checkpoint, tied_spec)


def test_a_head_tied_to_an_encoder_is_loaded_with_it(tmp_path: Path) -> None:
    write_spec(tmp_path)
    spec, old = made(tmp_path)
    _, new = made(tmp_path)
    for network in (old, new):
        [embeddings] = [
            parameter
            for name, parameter in network.model.text_encoder.named_parameters()
            if name.endswith("word_embeddings.weight")
        ]
        decoder = network.objectives["mlm"].head.decoder
        assert decoder.weight.shape == embeddings.shape
        decoder.weight = embeddings
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(1.0)
    checkpoint = RunFolder(spec.folder).checkpoint(1)
    save_checkpoint(checkpoint, old, None, TrainState(), spec_to_toml(spec))
    report = initialize(new, checkpoint, spec)
    assert set().union(*statuses(report).values()) == {"loaded"}
    assert same(old, new, "objectives.mlm")
    total = sum(parameter.numel() for parameter in new.parameters())
    assert sum(row.num_parameters for row in report.modules) == total


def test_the_report_is_a_table() -> None:
    report = InitReport(
        "runs/a/checkpoints/step-00000001",
        (
            ModuleReport("fusion", "newly initialized", 12, 34_567, ""),
            ModuleReport("objectives.vqa", "loaded", 2, 66, "from objective '[itm]'"),
        ),
    )
    assert report.lines() == [
        "parameters from runs/a/checkpoints/step-00000001",
        " module          status             tensors  parameters  note",
        " fusion          newly initialized       12      34,567",
        " objectives.vqa  loaded                   2          66  from objective '[itm]'",
    ]


# --- other sizes ---


def test_a_larger_image_is_reported_and_computed_as_the_library_does(folder: Path) -> None:
    report, network = initialized(folder, "data.image_size=48")
    [resized] = [row for row in report.modules if row.status == "resized"]
    assert resized.module == "image_encoder"
    assert (resized.num_tensors, resized.num_parameters) == (1, 10 * 16)
    assert resized.note == "model.embeddings.position_embeddings (1, 5, 16) to (1, 10, 16)"
    assert statuses(report)["image_encoder"] == {"loaded", "resized"}
    reference = pretrained(folder).model.image_encoder.model.eval()
    expected = reference(images(48), interpolate_pos_encoding=True).last_hidden_state
    actual = network.model.eval().encode_image(images(48)).hidden_states
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def refit(encoder: Encoder, state: dict[str, Tensor]) -> list[str]:
    """Load another encoder's state as `init_from` does; return what had to be resized."""
    expected = encoder.state_dict()
    assert list(expected) == list(state)
    differing = [name for name in expected if expected[name].shape != state[name].shape]
    for name in differing:
        fitted = encoder.fit_tensor(name, state[name])
        assert fitted is not None
        state[name] = fitted
    encoder.load_state_dict(state)
    return differing


@pytest.mark.parametrize("size", [24, 48])
@pytest.mark.parametrize("family", [*TRANSFORMERS, "swin"])
def test_every_family_is_resized_like_the_library_interpolates(family, size, tmp_path):
    absolute = {"use_absolute_embeddings": True} if family == "swin" else {}
    size = 64 if (family, size) == ("swin", 24) else size
    save_model(tmp_path, family, **absolute)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    takes_a_switch = family in ("vit", "deit", "clip", "swin")
    switch = {"interpolate_pos_encoding": True} if takes_a_switch else {}
    expected = reference(images(size), **switch).last_hidden_state
    options = HFImageEncoder.Options(checkpoint=str(tmp_path))
    old = HFImageEncoder(options, context())
    new = HFImageEncoder(options, context(image_size=size, load_weights=False)).eval()
    assert refit(new, old.state_dict())
    actual = new.encode_image(images(size)).hidden_states
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_a_table_of_another_width_or_without_a_grid_is_not_resized(tmp_path):
    save_model(tmp_path, "vit")
    encoder = HFImageEncoder(HFImageEncoder.Options(checkpoint=str(tmp_path)), context())
    [name] = [n for n in encoder.state_dict() if "position" in n]
    assert encoder.fit_tensor(name, torch.zeros(1, 10, 16)).shape == (1, 17, 16)
    # 9 patches are 3 x 3, 10 are not a square; a width of 8 is another model's.
    assert encoder.fit_tensor(name, torch.zeros(1, 11, 16)) is None
    assert encoder.fit_tensor(name, torch.zeros(1, 10, 8)) is None
    weight = "model.layernorm.weight"
    assert weight in encoder.state_dict()
    assert encoder.fit_tensor(weight, torch.zeros(8)) is None


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_both_modalities_of_a_joint_encoder_are_resized(family, tmp_path):
    save_model(tmp_path, family)
    values = {} if family == "vit" else {"patch_size": 8}
    options = HFJointEncoder.Options(checkpoint=str(tmp_path), **values)
    old = HFJointEncoder(options, context()).eval()
    new = HFJointEncoder(options, context(image_size=48, max_text_length=20)).eval()
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    state = old.state_dict()
    resized = refit(new, dict(state))
    ids, mask = texts()
    expected_text, found_text = (e.encode_text(ids, mask).hidden_states for e in (old, new))
    torch.testing.assert_close(found_text, expected_text)
    [table] = [name for name in resized if new.state_dict()[name].dim() == 3]
    positions = state[table][0]
    grid = positions[1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    larger = interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False)
    expected = torch.cat([positions[:1], larger.permute(0, 2, 3, 1).reshape(36, 16)])
    torch.testing.assert_close(new.state_dict()[table][0], expected)
    if family == "vit":
        # Text positions that the old model did not have keep the new model's values.
        [table] = set(resized) - {table}
        actual = new.state_dict()[table]
        assert (len(state[table]), len(actual)) == (12, 20)
        assert torch.equal(actual[:12], state[table])
        assert torch.equal(actual[12:], before[table][12:])


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("num_positions", [16, 40])
def test_common_text_positions_are_taken(family, num_positions, tmp_path):
    save_model(tmp_path, family)
    options = HFTextEncoder.Options(checkpoint=str(tmp_path))
    old = HFTextEncoder(options, context()).eval()
    other = HFTextEncoder.Options(
        checkpoint=str(tmp_path),
        random_init=True,
        config={"max_position_embeddings": num_positions},
    )
    new = HFTextEncoder(other, context()).eval()
    initial = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    [table] = refit(new, dict(old.state_dict()))
    expected, actual = (e.encode_text(*texts()).hidden_states for e in (old, new))
    torch.testing.assert_close(actual, expected)
    assert torch.equal(new.state_dict()[table][24:], initial[table][24:])


# --- what does not fit ---


def test_other_shapes_are_named_with_the_remedy(folder: Path) -> None:
    message = refusal(
        folder,
        "model.text_encoder.config.hidden_size=24",
        "model.text_encoder.config.intermediate_size=40",
    )
    assert message.startswith(
        f"model.init_from: {folder}/tiny/checkpoints/step-00000001 does not fit this run: "
    )
    assert "word_embeddings.weight: shape (25, 16) in the checkpoint, (25, 24) in this run" in (
        message
    )
    assert message.endswith(
        "Set [model] and [data] as in the spec.toml in that folder; or, to newly initialize the "
        'modules that do not fit, set model.init_allow = ["text_encoder", "text_projection"]'
    )
    # Five tensors, how many more there are, the remedy, and its alternative.
    assert message.count("; ") == 6


def test_missing_and_additional_tensors_are_named(folder: Path) -> None:
    deeper = refusal(folder, "model.fusion.num_layers=3")
    assert "this run: fusion.layers.2.text_stream." in deeper
    # 36 tensors per layer, of which five are named.
    assert deeper.count(": not in the checkpoint") == 5
    assert "; and 31 more. " in deeper
    shallower = refusal(folder, "model.fusion.num_layers=1")
    assert shallower.count(": not in this run") == 5
    assert 'set model.init_allow = ["fusion"]' in shallower


def test_an_allowed_module_is_loaded_whole_or_not_at_all(folder: Path) -> None:
    _, fresh = made(folder, "model.fusion.num_layers=3")
    report, network = initialized(
        folder, "model.fusion.num_layers=3", 'model.init_allow=["fusion"]'
    )
    assert statuses(report)["fusion"] == {"newly initialized", "left behind"}
    assert same(network, fresh, "model.fusion")
    assert statuses(report)["pooler"] == {"loaded"}
    allow = 'model.init_allow=["fusion.layers.2"]'
    report, network = initialized(folder, "model.fusion.num_layers=3", allow)
    assert statuses(report)["fusion"] == {"loaded", "newly initialized"}
    assert same(network, fresh, "model.fusion.layers.2.")
    for name, tensor in tensors_of(folder, "model.fusion").items():
        assert torch.equal(network.state_dict()[name], tensor)
    # A module that matches is loaded, allowed or not.
    report, _ = initialized(folder, 'model.init_allow=["fusion"]')
    assert statuses(report)["fusion"] == {"loaded"}


def test_components_of_two_types_do_not_match_even_if_their_tensors_do(folder: Path) -> None:
    message = refusal(folder, "model.pooler.type=mean")
    assert "this run: pooler: 'double' in the checkpoint, 'mean' in this run. Set" in message
    _, fresh = made(folder, "model.pooler.type=mean")
    report, network = initialized(folder, "model.pooler.type=mean", 'model.init_allow=["pooler"]')
    assert statuses(report)["pooler"] == {"newly initialized", "left behind"}
    assert same(network, fresh, "model.pooler")
    assert [row.note for row in report.modules if row.module == "pooler"] == [
        "'double' in the checkpoint, 'mean' in this run",
        "",
    ]


def test_entries_that_are_not_modules_are_refused(folder: Path) -> None:
    message = refusal(folder, 'model.init_allow=["poler", "fusion.layer"]')
    lines = message.splitlines()
    assert lines[0].startswith("model.init_allow: 'poler' is not a module of this run or of ")
    assert lines[0].endswith(
        "expected one of text_encoder, image_encoder, text_projection, image_projection, "
        "token_type_embeddings, fusion, pooler, objectives.mlm, objectives.itm, or a module inside "
        "one of them; did you mean 'pooler'?"
    )
    # Names are compared as a whole: 'fusion.layer' does not mean 'fusion.layers'.
    assert lines[1].startswith("model.init_allow: 'fusion.layer' is not a module")
    with pytest.raises(SpecError, match=r"model\.init_allow: allows what model\.init_from would"):
        made(folder, 'model.init_allow=["pooler"]')


def test_one_tower_is_not_initialized_from_two(folder: Path, tmp_path: Path) -> None:
    write_spec(tmp_path, one_tower_spec())
    spec, network = made(tmp_path, f"model.init_from={folder}/tiny", "run.name=new")
    with pytest.raises(CheckpointError) as caught:
        initialize(network, folder / "tiny", spec)
    assert str(caught.value) == (
        f"model.init_from: {folder}/tiny/checkpoints/step-00000001 is a checkpoint of a two-tower "
        "model, but model.type is 'one-tower'; take [model] from the spec.toml in that folder, or "
        "choose another checkpoint"
    )


def test_one_tower_is_initialized_from_one(tmp_path: Path) -> None:
    write_spec(tmp_path, one_tower_spec())
    old = pretrained(tmp_path)
    report, network = initialized(tmp_path, "data.image_size=48", "data.max_text_length=30")
    assert statuses(report)["encoder"] == {"loaded", "resized"}
    assert same(network, old, "model.encoder.stack")
    [note] = [row.note for row in report.modules if row.status == "resized"]
    assert note.endswith(" and 1 more")


# --- objectives ---


def test_an_objective_of_another_name_takes_the_head_of_its_type(folder: Path) -> None:
    report, network = initialized(folder, "objectives=[{type='itm', name='match'}]")
    assert statuses(report)["objectives.match"] == {"loaded"}
    assert statuses(report)["objectives.mlm"] == {"left behind"}
    assert "objectives.itm" not in statuses(report)
    [note] = [row.note for row in report.modules if row.module == "objectives.match"]
    assert note == "from objective 'itm'"
    old = tensors_of(folder, "objectives.itm")
    assert old
    for name, tensor in old.items():
        assert torch.equal(network.state_dict()[name.replace(".itm.", ".match.")], tensor)


def test_an_objective_takes_the_head_of_a_compatible_type(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieval = "objectives=[{type='retrieval'}]"
    report, network = initialized(folder, retrieval)
    assert statuses(report)["objectives.retrieval"] == {"loaded"}
    for name, tensor in tensors_of(folder, "objectives.itm").items():
        assert torch.equal(network.state_dict()[name.replace(".itm.", ".retrieval.")], tensor)
    component = PLUGINS.require("objective", "retrieval").component
    monkeypatch.setattr(component, "compatible_heads", ())
    report, _ = initialized(folder, retrieval)
    assert statuses(report)["objectives.retrieval"] == {"newly initialized"}
    assert statuses(report)["objectives.itm"] == {"left behind"}


def test_a_head_of_another_size_is_refused_only_under_the_same_name(folder: Path) -> None:
    mlp = "head={type='mlp'}"
    message = refusal(folder, f"objectives=[{{type='itm', {mlp}}}]")
    assert "objectives.itm.head.dense.weight: not in the checkpoint" in message
    assert (
        "objectives.itm.head.decoder.weight: shape (2, 32) in the checkpoint, (2, 64) in this run"
    ) in message
    assert message.endswith('set model.init_allow = ["objectives.itm"]')
    allow = 'model.init_allow=["objectives.itm"]'
    report, _ = initialized(folder, f"objectives=[{{type='itm', {mlp}}}]", allow)
    assert statuses(report)["objectives.itm"] == {"newly initialized", "left behind"}
    # Under another name it is simply a new head.
    report, _ = initialized(folder, f"objectives=[{{type='itm', name='match', {mlp}}}]")
    assert statuses(report)["objectives.match"] == {"newly initialized"}


# --- runs ---


def test_encoders_that_may_differ_are_pretrained(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "vit", "vit", patch_size=16)
    settings = [
        "run.name=other",
        f"model.init_from={folder}/tiny",
        'model.init_allow=["image_encoder"]',
        f"model.image_encoder={{type='hf-image', checkpoint='{tmp_path}/vit'}}",
        "train.max_steps=1",
        "data.validate=[]",
        "optimizer.learning_rate=1e-30",
    ]
    spec = (folder / "run.toml").read_text()
    start, end = spec.index("[model.image_encoder]"), spec.index("[model.fusion]")
    run_here(write_spec(tmp_path, spec[:start] + spec[end:]), tmp_path, *settings)
    actual = weights(tmp_path / "other", 1)
    expected = HFImageEncoder(
        HFImageEncoder.Options(checkpoint=str(tmp_path / "vit")), context(image_size=IMAGE_SIZE)
    ).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(actual[f"model.image_encoder.{name}"], tensor)


@pytest.mark.parametrize("num_ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_is_initialized_once_and_resumes_without_its_source(
    folder: Path, tmp_path: Path, num_ranks: int
) -> None:
    pretrained(folder, f"run.output_dir={tmp_path}")
    arguments = [
        str(folder / "run.toml"),
        f"run.output_dir={tmp_path}",
        "run.name=new",
        f"model.init_from={tmp_path}/tiny",
        "objectives=[{type='retrieval'}]",
        "data.validate=[]",
        "train.log_every=1",
        "optimizer.learning_rate=1e-30",
    ]
    finished = torchrun(num_ranks, *arguments, "train.max_steps=1")
    assert finished.returncode == 0, finished.stderr
    # Only rank 0 prints.
    assert finished.stdout.count("from objective 'itm'") == 1
    assert finished.stdout.count("left behind") == 1
    old, new = weights(tmp_path / "tiny", 1), weights(tmp_path / "new", 1)
    renamed = {name.replace(".itm.", ".retrieval."): tensor for name, tensor in old.items()}
    assert set(new) == {name for name in renamed if ".mlm." not in name}
    # One step at such a rate changes only what is exactly 0.
    assert all(torch.allclose(new[name], renamed[name], rtol=0, atol=1e-28) for name in new)
    (tmp_path / "tiny").rename(tmp_path / "gone")
    resumed = torchrun(num_ranks, *arguments, "train.max_steps=2")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming {tmp_path}/new: step 1 of 2" in resumed.stdout
    assert "from objective" not in resumed.stdout


def test_check_prints_the_report(folder: Path) -> None:
    finished = renaissance(
        "check",
        str(folder / "run.toml"),
        f"run.output_dir={folder}",
        "run.name=new",
        f"model.init_from={folder}/tiny",
        "data.image_size=48",
        "model.text_encoder.config.max_position_embeddings=600",
        "model.pooler.type=mean",
        'model.init_allow=["pooler"]',
    )
    assert finished.code == 0, finished.err
    lines = [line.split() for line in finished.out.splitlines()]
    rows = {(line[0], *line[1:3]): line for line in lines if len(line) > 4}
    assert f"parameters from {folder}/tiny/checkpoints/step-00000001" in finished.out
    assert ("image_encoder", "resized", "1") in rows
    assert ("text_encoder", "resized", "1") in rows
    assert ("pooler", "newly", "initialized") in rows
    assert ("pooler", "left", "behind") in {tuple(line[:3]) for line in lines}
    assert ["objectives.itm", "loaded", "2", "66"] in lines
