"""Starting a new run from a checkpoint: strict module by module, and told in a table."""

from pathlib import Path

import pytest
import torch
from support.command_line import renaissance
from support.running import one_tower_spec, run_here, torchrun, weights, write_spec
from support.tiny_models import IMAGE_SIZE, TRANSFORMERS, context, images, save_model, texts
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoModel

from renaissance import CheckpointError, Encoder, SpecError
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.engine.checkpoint import TrainState, load_model_tensors, save_checkpoint
from renaissance.engine.init_from import Start, start_from
from renaissance.engine.multi_objective import MultiObjective
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
    """A folder with the tiny spec, and a checkpoint of it with weights like no initial ones."""
    folder = tmp_path_factory.mktemp("init_from")
    write_spec(folder)
    pretrained(folder)
    return folder


def made(folder: Path, *settings: str) -> tuple[RunSpec, MultiObjective]:
    spec = load_spec([str(folder / "run.toml"), f"run.output_dir={folder}", *settings], PLUGINS)
    return spec, build(spec, PLUGINS, 1, load_weights=True).network.eval()


def pretrained(folder: Path, *settings: str) -> MultiObjective:
    """Write a checkpoint of random weights and return the task."""
    spec, task = made(folder, *settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    place = spec.folder / "checkpoints/step-00000001"
    save_checkpoint(place, task, None, TrainState(step=1), spec_to_toml(spec))
    return task


def started(folder: Path, *settings: str) -> tuple[Start, MultiObjective]:
    """Start a new run from the tiny checkpoint."""
    settings = ("run.name=new", f"model.init_from={folder}/tiny", *settings)
    spec, task = made(folder, *settings)
    return start_from(spec, task), task


def refusal(folder: Path, *settings: str) -> str:
    with pytest.raises((CheckpointError, SpecError)) as caught:
        started(folder, *settings)
    return str(caught.value)


def tensors_of(folder: Path, module: str) -> dict[str, Tensor]:
    found = load_model_tensors(folder / "tiny/checkpoints/step-00000001")
    return {name: tensor for name, tensor in found.items() if name.startswith(f"{module}.")}


def fates(start: Start) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for outcome in start.outcomes:
        found.setdefault(outcome.module, set()).add(outcome.fate)
    return found


def same(task: MultiObjective, other: MultiObjective, module: str) -> bool:
    """Whether all tensors of a module are equal in two tasks."""
    own, others = task.state_dict(), other.state_dict()
    names = [name for name in own if name.startswith(module)]
    assert names
    return all(torch.equal(own[name], others[name]) for name in names)


# --- all of it fits ---


def test_everything_is_taken_and_encoders_give_what_they_gave(folder: Path) -> None:
    _, fresh = made(folder)
    start, task = started(folder)
    assert start.source == str(folder / "tiny/checkpoints/step-00000001")
    assert all(outcome.fate == "loaded" for outcome in start.outcomes)
    total = sum(parameter.numel() for parameter in task.parameters())
    assert sum(outcome.num_parameters for outcome in start.outcomes) == total
    for name, tensor in tensors_of(folder, "model").items():
        assert torch.equal(task.state_dict()[name], tensor)
    old = pretrained(folder)
    input_ids, attention_mask = torch.tensor([[2, 7, 9, 3]]), torch.ones(1, 4, dtype=torch.bool)
    for model in (old.model, task.model, fresh.model):
        model.eval()
    text = task.model.encode_text(input_ids, attention_mask).hidden_states
    image = task.model.encode_image(images()).hidden_states
    assert torch.equal(text, old.model.encode_text(input_ids, attention_mask).hidden_states)
    assert torch.equal(image, old.model.encode_image(images()).hidden_states)
    assert not torch.allclose(image, fresh.model.encode_image(images()).hidden_states)


def test_tied_weights_are_taken_once_and_stay_tied(tmp_path: Path) -> None:
    write_spec(tmp_path)
    spec, old = made(tmp_path)
    _, new = made(tmp_path)
    for task in (old, new):
        layers = task.model.fusion.layers
        layers[1].load_state_dict(layers[0].state_dict())
        for name, parameter in layers[0].named_parameters():
            parent, _, leaf = name.rpartition(".")
            setattr(layers[1].get_submodule(parent), leaf, parameter)
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(1.0)
    place = spec.folder / "checkpoints/step-00000001"
    save_checkpoint(place, old, None, TrainState(), spec_to_toml(spec))
    tied_spec, _ = made(tmp_path, f"model.init_from={place}", "run.name=new")
    start = start_from(tied_spec, new)
    assert same(old, new, "model.fusion")
    assert new.model.fusion.layers[1].text_stream is not new.model.fusion.layers[0].text_stream
    [fusion] = [outcome for outcome in start.outcomes if outcome.module == "fusion"]
    num_distinct = sum(p.numel() for p in new.model.fusion.parameters())
    assert fusion.num_parameters == num_distinct < 2 * num_distinct
    # A model that does not tie them lacks the second ones.
    _, untied = made(tmp_path)
    with pytest.raises(CheckpointError, match=r"fusion\.layers\.1\..*: not in the checkpoint"):
        start_from(tied_spec, untied)


# --- other sizes ---


def test_a_larger_image_is_told_and_computed_like_the_library_does(folder: Path) -> None:
    start, task = started(folder, "data.image_size=48")
    [resized] = [outcome for outcome in start.outcomes if outcome.fate == "resized"]
    assert resized.module == "image_encoder"
    assert (resized.num_tensors, resized.num_parameters) == (1, 10 * 16)
    assert resized.note == "model.embeddings.position_embeddings (1, 5, 16) to (1, 10, 16)"
    assert fates(start)["image_encoder"] == {"loaded", "resized"}
    reference = pretrained(folder).model.image_encoder.model.eval()
    expected = reference(images(48), interpolate_pos_encoding=True).last_hidden_state
    found = task.model.eval().encode_image(images(48)).hidden_states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def refit(encoder: Encoder, state: dict[str, Tensor]) -> list[str]:
    """Load another encoder's weights as `init_from` does; return what had to be resized."""
    own = encoder.state_dict()
    assert list(own) == list(state)
    differing = [name for name in own if own[name].shape != state[name].shape]
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
    found = new.encode_image(images(size)).hidden_states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_table_of_other_width_or_of_no_grid_is_not_resized(tmp_path):
    save_model(tmp_path, "vit")
    encoder = HFImageEncoder(HFImageEncoder.Options(checkpoint=str(tmp_path)), context())
    [name] = [n for n in encoder.state_dict() if "position" in n]
    assert encoder.fit_tensor(name, torch.zeros(1, 10, 16)).shape == (1, 17, 16)
    # 9 patches are 3 x 3, 10 are no square; 8 numbers a position are another model's.
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
        # Positions of the text that the old model did not have are still the new model's.
        [table] = set(resized) - {table}
        found = new.state_dict()[table]
        assert (len(state[table]), len(found)) == (12, 20)
        assert torch.equal(found[:12], state[table])
        assert torch.equal(found[12:], before[table][12:])


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("num_positions", [16, 40])
def test_text_positions_in_common_are_taken(family, num_positions, tmp_path):
    save_model(tmp_path, family)
    options = HFTextEncoder.Options(checkpoint=str(tmp_path))
    old = HFTextEncoder(options, context()).eval()
    other = HFTextEncoder.Options(
        checkpoint=str(tmp_path),
        random_init=True,
        config={"max_position_embeddings": num_positions},
    )
    new = HFTextEncoder(other, context()).eval()
    own = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    [table] = refit(new, dict(old.state_dict()))
    expected, found = (e.encode_text(*texts()).hidden_states for e in (old, new))
    torch.testing.assert_close(found, expected)
    assert torch.equal(new.state_dict()[table][24:], own[table][24:])


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
        "Set [model] and [data] as in the spec.toml in that folder; or, to initialize newly what "
        "does not fit and leave its weights behind, set model.init_allow = "
        '["text_encoder", "text_projection"]'
    )
    assert message.count("; ") == 6


def test_missing_and_additional_tensors_are_named(folder: Path) -> None:
    deeper = refusal(folder, "model.fusion.num_layers=3")
    assert "this run: fusion.layers.2.text_stream." in deeper
    # 36 tensors a layer, of which five are named.
    assert deeper.count(": not in the checkpoint") == 5
    assert "; and 31 more. " in deeper
    shallower = refusal(folder, "model.fusion.num_layers=1")
    assert shallower.count(": not in this run") == 5
    assert 'set model.init_allow = ["fusion"]' in shallower


def test_an_allowed_module_is_taken_whole_or_not_at_all(folder: Path) -> None:
    _, fresh = made(folder, "model.fusion.num_layers=3")
    start, task = started(folder, "model.fusion.num_layers=3", 'model.init_allow=["fusion"]')
    assert fates(start)["fusion"] == {"newly initialized", "left behind"}
    assert same(task, fresh, "model.fusion")
    assert fates(start)["pooler"] == {"loaded"}
    allow = 'model.init_allow=["fusion.layers.2"]'
    start, task = started(folder, "model.fusion.num_layers=3", allow)
    assert fates(start)["fusion"] == {"loaded", "newly initialized"}
    assert same(task, fresh, "model.fusion.layers.2.")
    for name, tensor in tensors_of(folder, "model.fusion").items():
        assert torch.equal(task.state_dict()[name], tensor)
    # Where it fits, nothing has to be allowed.
    start, _ = started(folder, 'model.init_allow=["fusion"]')
    assert fates(start)["fusion"] == {"loaded"}


def test_components_of_other_types_do_not_fit_though_their_tensors_do(folder: Path) -> None:
    message = refusal(folder, "model.pooler.type=mean")
    assert "this run: pooler: 'double' in the checkpoint, 'mean' in this run. Set" in message
    _, fresh = made(folder, "model.pooler.type=mean")
    start, task = started(folder, "model.pooler.type=mean", 'model.init_allow=["pooler"]')
    assert fates(start)["pooler"] == {"newly initialized", "left behind"}
    assert same(task, fresh, "model.pooler")
    assert [o.note for o in start.outcomes if o.module == "pooler"] == [
        "'double' in the checkpoint, 'mean' in this run",
        "",
    ]


def test_entries_that_are_no_modules_are_refused(folder: Path) -> None:
    message = refusal(folder, 'model.init_allow=["poler", "fusion.layer"]')
    lines = message.splitlines()
    assert lines[0].startswith("model.init_allow: 'poler' is no module of this run, nor of ")
    assert lines[0].endswith(
        "expected one of text_encoder, image_encoder, text_projection, image_projection, "
        "token_type_embeddings, fusion, pooler, objectives.mlm, objectives.itm, or a module inside "
        "of one; did you mean 'pooler'?"
    )
    # Modules are named whole: 'fusion.layer' is not the beginning of 'fusion.layers'.
    assert lines[1].startswith("model.init_allow: 'fusion.layer' is no module")
    with pytest.raises(SpecError, match=r"model\.init_allow: allows what model\.init_from would"):
        made(folder, 'model.init_allow=["pooler"]')


def test_one_tower_does_not_start_from_two(folder: Path, tmp_path: Path) -> None:
    write_spec(tmp_path, one_tower_spec())
    spec, task = made(tmp_path, f"model.init_from={folder}/tiny", "run.name=new")
    with pytest.raises(CheckpointError) as caught:
        start_from(spec, task)
    assert str(caught.value) == (
        f"model.init_from: the architectures differ: {folder}/tiny/checkpoints/step-00000001 is a "
        "checkpoint of a two-tower model, but model.type is 'one-tower'; take [model] from the "
        "spec.toml in that folder, or another checkpoint"
    )


def test_one_tower_starts_from_one(tmp_path: Path) -> None:
    write_spec(tmp_path, one_tower_spec())
    old = pretrained(tmp_path)
    start, task = started(tmp_path, "data.image_size=48", "data.max_text_length=30")
    assert fates(start)["encoder"] == {"loaded", "resized"}
    assert same(task, old, "model.encoder.stack")
    [note] = [outcome.note for outcome in start.outcomes if outcome.fate == "resized"]
    assert note.endswith(" and 1 more")


# --- objectives ---


def test_an_objective_of_another_name_takes_the_head_of_its_type(folder: Path) -> None:
    start, task = started(folder, "objectives=[{type='itm', name='match'}]")
    assert fates(start)["objectives.match"] == {"loaded"}
    assert fates(start)["objectives.mlm"] == {"left behind"}
    assert "objectives.itm" not in fates(start)
    [note] = [outcome.note for outcome in start.outcomes if outcome.module == "objectives.match"]
    assert note == "from objective 'itm'"
    old = tensors_of(folder, "objectives.itm")
    assert old
    for name, tensor in old.items():
        assert torch.equal(task.state_dict()[name.replace(".itm.", ".match.")], tensor)


def test_an_objective_takes_the_head_of_a_type_it_starts_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieval = "objectives=[{type='retrieval'}]"
    start, task = started(folder, retrieval)
    assert fates(start)["objectives.retrieval"] == {"loaded"}
    for name, tensor in tensors_of(folder, "objectives.itm").items():
        assert torch.equal(task.state_dict()[name.replace(".itm.", ".retrieval.")], tensor)
    component = PLUGINS.require("objective", "retrieval").component
    monkeypatch.setattr(component, "compatible_heads", ())
    start, _ = started(folder, retrieval)
    assert fates(start)["objectives.retrieval"] == {"newly initialized"}
    assert fates(start)["objectives.itm"] == {"left behind"}


def test_a_head_of_another_size_is_refused_only_under_its_own_name(folder: Path) -> None:
    mlp = "head={type='mlp'}"
    message = refusal(folder, f"objectives=[{{type='itm', {mlp}}}]")
    assert "objectives.itm.head.dense.weight: not in the checkpoint" in message
    assert (
        "objectives.itm.head.decoder.weight: shape (2, 32) in the checkpoint, (2, 64) in this run"
    ) in message
    assert message.endswith('set model.init_allow = ["objectives.itm"]')
    allow = 'model.init_allow=["objectives.itm"]'
    start, _ = started(folder, f"objectives=[{{type='itm', {mlp}}}]", allow)
    assert fates(start)["objectives.itm"] == {"newly initialized", "left behind"}
    # Under another name it is simply another head.
    start, _ = started(folder, f"objectives=[{{type='itm', name='match', {mlp}}}]")
    assert fates(start)["objectives.match"] == {"newly initialized"}


# --- runs ---


def test_encoders_that_may_differ_bring_their_own_weights(folder: Path, tmp_path: Path) -> None:
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
    found = weights(tmp_path / "other", 1)
    expected = HFImageEncoder(
        HFImageEncoder.Options(checkpoint=str(tmp_path / "vit")), context(image_size=IMAGE_SIZE)
    ).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(found[f"model.image_encoder.{name}"], tensor)


@pytest.mark.parametrize("num_ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_starts_with_the_weights_and_resumes_without_them(
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
    # Rank 0 alone speaks.
    assert finished.stdout.count("from objective 'itm'") == 1
    assert finished.stdout.count("left behind") == 1
    old, new = weights(tmp_path / "tiny", 1), weights(tmp_path / "new", 1)
    renamed = {name.replace(".itm.", ".retrieval."): tensor for name, tensor in old.items()}
    assert set(new) == {name for name in renamed if ".mlm." not in name}
    # One step at such a rate moves no weight but those that are exactly 0.
    assert all(torch.allclose(new[name], renamed[name], rtol=0, atol=1e-28) for name in new)
    (tmp_path / "tiny").rename(tmp_path / "gone")
    resumed = torchrun(num_ranks, *arguments, "train.max_steps=2")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming {tmp_path}/new: step 1 of 2" in resumed.stdout
    assert "from objective" not in resumed.stdout


def test_check_prints_the_same_table_without_weights(folder: Path) -> None:
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
    assert f"weights from {folder}/tiny/checkpoints/step-00000001" in finished.out
    assert ("image_encoder", "resized", "1") in rows
    assert ("text_encoder", "resized", "1") in rows
    assert ("pooler", "newly", "initialized") in rows
    assert ("pooler", "left", "behind") in {tuple(line[:3]) for line in lines}
    assert ["objectives.itm", "loaded", "2", "66"] in lines
