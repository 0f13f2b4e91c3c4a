"""Laws of run specs: what is written reads back equal, and how layers combine."""

import copy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.spec_components import BASE, COMPONENTS, write

from renaissance.plugins.loading import Plugins
from renaissance.spec import load_spec, resolve, spec_to_toml
from renaissance.spec.layers import Layers
from renaissance.spec.resolve import Facts

SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
POSITIVE = st.floats(1e-12, 1e12)
COUNTS = st.integers(1, 10**9)
# A text with NUL is refused, since it may become part of a path.
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


@pytest.fixture
def plugins(plugins_with: Any) -> Plugins:
    made: Plugins = plugins_with(*COMPONENTS)
    return made


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("base.toml", BASE)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return tables that have any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


THREE = st.lists(POSITIVE, min_size=3, max_size=3)
LAYERS = some(
    run=some(seed=st.integers(0, 2**63 - 1), output_dir=TEXTS, resume=st.sampled_from(["auto"])),
    model=some(
        text_encoder=some(checkpoint=TEXTS, frozen=st.booleans(), config=some(a=TEXTS, b=COUNTS)),
        image_encoder=some(checkpoint=TEXTS, size=some(width=COUNTS, depth=COUNTS)),
        fusion=some(num_layers=COUNTS, frozen=st.booleans()),
        pooler=some(size=COUNTS),
    ),
    data=some(
        root=TEXTS,
        tokenizer=TEXTS.filter(bool),
        num_workers=st.integers(0, 99) | st.just("auto"),
        transform=some(mean=THREE, std=THREE, randaugment=st.booleans()),
    ),
    objectives=st.lists(
        st.fixed_dictionaries(
            {"type": st.just("mlm"), "name": st.uuids().map(str)},
            optional={"weight": POSITIVE, "probability": st.floats(0, 0.99)},
        ),
        min_size=1,
        max_size=3,
    ),
    optimizer=some(
        learning_rate=POSITIVE,
        multipliers=some(encoder=POSITIVE, fusion=POSITIVE, head=POSITIVE),
    ),
    schedule=some(power=POSITIVE, warmup_steps=st.integers(0, 1) | st.floats(0, 0.99)),
    train=some(max_steps=COUNTS, max_epochs=COUNTS, gradient_clip=POSITIVE, compile=st.booleans()),
    evaluate=some(every_steps=COUNTS, every_epochs=POSITIVE),
    checkpoint=some(every_steps=COUNTS)
    | st.fixed_dictionaries(
        {"best_metric": TEXTS, "best_mode": st.sampled_from(["min", "max"])},
        optional={"every_steps": COUNTS},
    ),
    monitors=st.lists(
        st.fixed_dictionaries({"type": st.sampled_from(["console", "jsonl"])}), max_size=3
    ),
)


@SAME_FOLDER
@given(layer=LAYERS, num_samples=COUNTS)
def test_what_is_written_reads_back_equal(
    plugins: Plugins, layer: dict[str, Any], num_samples: int
) -> None:
    Path("layer.toml").write_text(tomli_w.dumps(layer))
    spec = load_spec(["base.toml", "layer.toml", "data.tokenizer=dataset"], plugins)
    Path("spec.toml").write_text(spec_to_toml(spec))
    assert load_spec(["spec.toml"], plugins) == spec
    facts = Facts(num_samples, world_size=2)
    resolved = resolve(spec, facts)
    Path("spec.toml").write_text(spec_to_toml(resolved))
    assert resolve(load_spec(["spec.toml"], plugins), facts) == resolved


def combined(*layers: dict[str, Any]) -> dict[str, Any]:
    result = Layers("here")
    for layer in layers:
        result.add(copy.deepcopy(layer), "somewhere")
    assert result.faults == []
    return result.table


@given(a=LAYERS, b=LAYERS, c=LAYERS)
@settings(max_examples=60, deadline=None)
def test_layering_is_associative(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    """Of layers that choose no other component: one that does drops what lies below it."""
    assert combined(combined(a, b), c) == combined(a, combined(b, c)) == combined(a, b, c)


@given(a=LAYERS)
@settings(max_examples=30, deadline=None)
def test_layering_is_idempotent_and_an_empty_layer_is_neutral(a: dict[str, Any]) -> None:
    assert combined(a, a) == combined(a, {}) == combined({}, a) == combined(a)
