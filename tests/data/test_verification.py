import json
import re
from pathlib import Path

import pytest
from support.arrow_files import rows, spec_with_files, write_arrow

from renaissance import DataError
from renaissance.data.verification import verify_files
from renaissance.engine.run_parts import build_datasets
from renaissance.files import sha256_of
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec


def prepared(folder: Path, names: list[str]) -> list[Path]:
    """Write files and a manifest that lists them."""
    paths = [folder / name for name in names]
    for index, path in enumerate(paths):
        write_arrow(path, rows(index + 1))
    entries = {p.name: {"size": p.stat().st_size, "sha256": sha256_of(p)} for p in paths}
    (folder / "mine_manifest.json").write_text(json.dumps({"tables": entries}))
    return paths


def flip_a_letter(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"a photo of it", b"a phOto of it"))


def test_any_change_is_found_and_its_file_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = prepared(tmp_path, ["a.arrow", "b.arrow", "c.arrow"])
    verify_files(paths)
    assert "verifying data" in capsys.readouterr().err
    flip_a_letter(paths[1])
    message = rf"^{tmp_path}/b\.arrow: its SHA-256 is not the one in mine_manifest\.json"
    with pytest.raises(DataError, match=message):
        verify_files(paths)
    paths[0].unlink()
    with pytest.raises(DataError, match=rf"^{tmp_path}/a\.arrow: cannot be read: No such file"):
        verify_files(paths)


def test_a_file_that_no_manifest_lists_cannot_be_verified(tmp_path: Path) -> None:
    (path,) = prepared(tmp_path, ["a.arrow"])
    manifest = tmp_path / "mine_manifest.json"
    for content in ("[", "{}", '{"tables": {"a.arrow": {"size": 3}}}'):
        manifest.write_text(content)
        with pytest.raises(DataError) as error:
            verify_files([path])
        assert str(error.value) == (
            f"data.verify: 'sha256', but no manifest in its folder lists {path}; prepare it with "
            "'renaissance data prepare', or set data.verify = 'size'"
        )


def test_a_run_verifies_its_data_when_it_is_asked_to(tmp_path: Path) -> None:
    arguments = [str(spec_with_files(tmp_path))]
    (path,) = prepared(tmp_path, ["train.arrow"])
    flip_a_letter(path)
    spec = load_spec(arguments, load_plugins())
    assert len(build_datasets(spec, spec.data.train, "data.train")) == 1
    spec = load_spec([*arguments, "data.verify=sha256"], load_plugins())
    with pytest.raises(DataError, match=re.escape(f"{path}: its SHA-256 is not the one in mine")):
        build_datasets(spec, spec.data.train, "data.train")
