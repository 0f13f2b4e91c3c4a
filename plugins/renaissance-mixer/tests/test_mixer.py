"""The package in a fresh virtual environment: its contract, and a run with it on two ranks."""

import json
from pathlib import Path

import pytest
from support.fresh_environment import FreshEnvironment, copy_package
from support.running import TINY, write_spec

CONTRACT = """
import pytest
from renaissance import EncoderContext, SpecError
from renaissance.testing import check_encoder
from renaissance_mixer.encoder import MixerEncoder

check_encoder(MixerEncoder, MixerEncoder.Options(hidden_size=16, num_layers=2, dropout=0.1))
with pytest.raises(SpecError, match="patch_size: got 15, which does not divide data.image_size"):
    MixerEncoder(MixerEncoder.Options(patch_size=15), EncoderContext(32, 16, 8))
print("kept")
"""


@pytest.mark.slow
def test_a_run_with_the_encoder(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path)
    copy_package("renaissance-mixer", tmp_path)
    fresh.run("pip install ./renaissance-mixer")
    assert "mixer\trenaissance-mixer\t0.1.0" in fresh.run("renaissance plugins")
    (tmp_path / "contract.py").write_text(CONTRACT)
    assert "kept" in fresh.run("python contract.py")
    start, end = TINY.index("[model.image_encoder]"), TINY.index("[model.fusion]")
    own = '[model.image_encoder]\ntype = "mixer"\nhidden_size = 16\nnum_layers = 1\n\n'
    write_spec(tmp_path, TINY[:start] + own + TINY[end:])
    fresh.run("torchrun --standalone --nproc-per-node 2 -m renaissance run.toml train.max_steps=4")
    lines = (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4
