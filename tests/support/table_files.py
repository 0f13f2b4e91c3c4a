"""The same rows, written as tables of every format."""

import csv
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Row = dict[str, Any]
COLUMNS = ("img", "caption", "label")
WORDS = ["a", "photo", "of", "it", "x,y", '"it"', "über", "日本", "line\nbreak"]


def rows_of(number: int, num_images: int | None = None) -> list[Row]:
    """Return rows with an image path, a caption and a label; some images belong to several rows."""
    generator = np.random.default_rng(7)
    return [
        {
            "img": f"photos/{row % (num_images or number)}.png",
            "caption": " ".join(generator.choice(WORDS, 4)),
            "label": int(generator.integers(3)),
        }
        for row in range(number)
    ]


def picture(name: str) -> bytes:
    """Return a PNG file of 8 x 8 random pixels, which depend on the name."""
    seed = zlib.crc32(name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_photos(folder: Path, rows: Sequence[Row]) -> None:
    """Write the image files that rows name."""
    for name in {row["img"] for row in rows}:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(name))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def with_bytes(rows: Sequence[Row]) -> list[Row]:
    return [{**row, "img": picture(row["img"])} for row in rows]


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(with_bytes(rows)), path, row_group_size=7)


def write_arrow(path: Path, rows: Sequence[Row]) -> None:
    table = pa.Table.from_pylist(with_bytes(rows))
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_tar(path: Path, rows: Sequence[Row]) -> None:
    with tarfile.open(path, "w") as tar:
        for index, row in enumerate(rows):
            key = f"x/{index:04}"
            rest = {"caption": row["caption"], "label": row["label"]}
            for suffix, data in (
                ("img.png", picture(row["img"])),
                ("json", json.dumps(rest).encode()),
            ):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_hf_folder(path: Path, rows: Sequence[Row]) -> None:
    """Write the layout of `Dataset.save_to_disk` of Hugging Face's datasets: two Arrow streams."""
    path.mkdir(parents=True)
    structs = [{**row, "img": {"bytes": picture(row["img"]), "path": None}} for row in rows]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("img", image), ("caption", pa.string()), ("label", pa.int64())])
    half = len(rows) // 2
    files = []
    for index, part in enumerate((structs[:half], structs[half:])):
        name = f"data-{index:05}-of-00002.arrow"
        table = pa.Table.from_pylist(part, schema)
        with pa.ipc.new_stream(path / name, schema) as writer:
            writer.write_table(table, max_chunksize=4)
        files.append({"filename": name})
    (path / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))
    features = {"img": {"_type": "Image"}, "caption": {"dtype": "string", "_type": "Value"}}
    (path / "dataset_info.json").write_text(json.dumps({"features": features}))


WRITERS: dict[str, Callable[[Path, Sequence[Row]], None]] = {
    "t.csv": write_csv,
    "t.jsonl": write_jsonl,
    "t.parquet": write_parquet,
    "t.arrow": write_arrow,
    "t.tar": write_tar,
    "folder": write_hf_folder,
}


def write_all(folder: Path, rows: Sequence[Row]) -> None:
    """Write rows in every format, and their photos."""
    folder.mkdir(parents=True, exist_ok=True)
    write_photos(folder, rows)
    for name, write in WRITERS.items():
        write(folder / name, rows)


def columns_in(name: str) -> dict[str, str]:
    """Return the option `columns` for the file of a name."""
    columns = dict(zip(("image", "text", "label"), COLUMNS, strict=True))
    return {**columns, "image": "img.png"} if name == "t.tar" else columns
