"""Every source on its official layout: what is written, and that the dataset reads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import official_layouts
from support.preparing import prepare

from renaissance import DatasetContext
from renaissance.plugins.loading import load_plugins

# Number of rows of each file, counted by hand from tests/support/official_layouts.py.
ROWS = {
    "coco": {
        "coco_caption_karpathy_train.arrow": 10,
        "coco_caption_karpathy_restval.arrow": 2,
        "coco_caption_karpathy_val.arrow": 4,
        "coco_caption_karpathy_test.arrow": 3,
    },
    "f30k": {
        "f30k_caption_karpathy_train.arrow": 8,
        "f30k_caption_karpathy_val.arrow": 5,
        "f30k_caption_karpathy_test.arrow": 7,
    },
    "karpathy": {
        "flickr8k_caption_karpathy_train.arrow": 5,
        "flickr8k_caption_karpathy_val.arrow": 3,
        "flickr8k_caption_karpathy_test.arrow": 2,
    },
    "vg": {"vg.arrow": 7},
    "sbu": {"sbu_0.arrow": 5},
    "gcc": {"conceptual_caption_train_0.arrow": 6, "conceptual_caption_val_0.arrow": 3},
    "image-text": {"image_text_0.arrow": 6},
    # Of seven images of val, three are held out.
    "vqav2": {
        "vqav2_train.arrow": 12,
        "vqav2_val.arrow": 7,
        "vqav2_trainable_val.arrow": 4,
        "vqav2_rest_val.arrow": 3,
        "vqav2_test-dev.arrow": 5,
    },
    "nlvr2": {"nlvr2_train.arrow": 8, "nlvr2_dev.arrow": 12, "nlvr2_test1.arrow": 7},
    "snli-ve": {"snli_train.arrow": 6, "snli_dev.arrow": 9, "snli_test.arrow": 5},
    "refcoco": {
        "refcoco_unc_train.arrow": 8,
        "refcoco_unc_val.arrow": 5,
        "refcoco_unc_testA.arrow": 3,
        "refcoco_unc_testB.arrow": 3,
        "refcoco_unc_test.arrow": 6,
    },
    "refcoco+": {
        "refcoco+_unc_train.arrow": 8,
        "refcoco+_unc_val.arrow": 5,
        "refcoco+_unc_testA.arrow": 3,
        "refcoco+_unc_testB.arrow": 3,
        "refcoco+_unc_test.arrow": 6,
    },
    "refcocog": {
        "refcocog_umd_train.arrow": 6,
        "refcocog_umd_val.arrow": 3,
        "refcocog_umd_test.arrow": 4,
    },
}
# The dataset of each source, and the options with which it reads all of the files, one by one.
CAPTION_SPLITS = ({"split": "train"}, {"split": "validate"}, {"split": "test"})
REFCOCO_SPLITS = (*CAPTION_SPLITS, {"split": "testA"}, {"split": "testB"})
READ: dict[str, tuple[str, tuple[dict[str, str], ...]]] = {
    "coco": ("coco", CAPTION_SPLITS),
    "f30k": ("f30k", CAPTION_SPLITS),
    "karpathy": ("image-text", ({"files": "flickr8k_*.arrow"},)),
    "vg": ("vg", CAPTION_SPLITS[:1]),
    "sbu": ("sbu", CAPTION_SPLITS[:1]),
    "gcc": ("gcc", CAPTION_SPLITS[:2]),
    "image-text": ("image-text", ({"files": "image_text_*.arrow"},)),
    "vqav2": (
        "vqav2",
        tuple(
            {"split": split}
            for split in ("train", "validate", "trainable-val", "rest-val", "test-dev")
        ),
    ),
    "nlvr2": ("nlvr2", CAPTION_SPLITS),
    "snli-ve": ("snli-ve", CAPTION_SPLITS),
    "refcoco": ("refcoco", REFCOCO_SPLITS),
    "refcoco+": ("refcoco+", REFCOCO_SPLITS),
    "refcocog": ("refcocog", CAPTION_SPLITS),
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return official_layouts.write_all(tmp_path_factory.mktemp("official"))


@pytest.mark.parametrize("name", ROWS)
def test_the_manifest_counts_the_rows_of_the_layout(
    name: str, layouts: dict[str, Path], tmp_path: Path
) -> None:
    report = prepare(name, layouts[name], tmp_path, check=True)
    manifest = json.loads(report.manifest.read_text())
    assert {file: table["rows"] for file, table in manifest["tables"].items()} == ROWS[name]
    assert manifest["left_out"] == []
    # The dataset reads all of it: as many samples as there are texts.
    dataset_name, splits = READ[name]
    component: Any = load_plugins().require("dataset", dataset_name).component
    context = DatasetContext(root=tmp_path, seed=0, training=True)
    num_samples = 0
    for options in splits:
        dataset = component(component.Options(**options), context)
        num_samples += len(dataset)
        dataset.sample(len(dataset) - 1, np.random.default_rng(0)).images[0].load()
    assert num_samples == sum(table["texts"] for table in manifest["tables"].values())


def test_every_source_has_a_layout() -> None:
    assert sorted(ROWS) == load_plugins(kinds=("source",)).registry.names("source")


def test_the_official_captions_of_coco(tmp_path: Path) -> None:
    official_layouts.coco_2017(tmp_path / "coco", np.random.default_rng(0))
    report = prepare("coco", tmp_path / "coco", tmp_path / "out", check=True)
    assert {file: (table.rows, table.texts) for file, table in report.tables.items()} == {
        "coco_caption_train2017.arrow": (6, 18),
        "coco_caption_val2017.arrow": (4, 12),
    }
