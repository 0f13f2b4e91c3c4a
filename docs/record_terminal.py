"""Records what a terminal of 80 columns and 24 lines shows.

`python docs/record_terminal.py` writes docs/terminal.md. It takes a few minutes, and times differ
at each recording.
"""

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from transformers import BertTokenizer

from renaissance.data.order import sample_at

DOCS = Path(__file__).resolve().parent
COLUMNS, LINES = 80, 24
NUM_ROWS = 400
# A text, or a control sequence with its numbers and its letter, or a control character.
TOKEN = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")

PHOTOS = """extends = ["recipe:shapes"]

[run]
name = "photos"

[data]
tokenizer = "./words"
validate = []

[[data.train]]
type = "image-text"
files = "photos.arrow"
"""

PAGE = """# What is left on the terminal

Recorded with `python docs/record_terminal.py`: the whole of a terminal of 80 columns and 24 lines,
after the command has ended. Two ranks are started on one machine with `--ranks 2`; with
`--ranks auto`, there is one per GPU. Under torchrun, which several machines need, its own report
follows each message, and ends with that message in one line.

## A typo

The spec is checked before any rank starts.

{typo}

## An unreadable record on rank 1

Each rank reads its own samples. The message says which rank, file and row; no rank is left waiting.

{record}

## Ctrl-C

The step is finished and saved. The same command goes on from there.

{interrupt}

## A finished run

While it runs, the last line moves with every step.

{finished}
"""


class Screen:
    """As much of a terminal as rich and torch use."""

    def __init__(self) -> None:
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def write(self, text: str) -> None:
        """Show what a program has written."""
        for numbers, letter, control, shown in TOKEN.findall(text):
            if letter == "A":
                self.row = max(0, self.row - int(numbers or 1))
            elif letter == "K":
                self.rows[self.row] = self.rows[self.row][: 0 if numbers == "2" else self.column]
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self.next_row()
            else:
                for character in shown:
                    self.put(character)

    def put(self, character: str) -> None:
        """Show a character; the one after the last column begins a line."""
        if self.column == COLUMNS:
            self.column = 0
            self.next_row()
        line = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def next_row(self) -> None:
        """Go down, keeping the column."""
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    def text(self) -> str:
        """Return the last lines."""
        return "\n".join(line.rstrip() for line in self.rows[-LINES:])


def record(arguments: Sequence[str], interrupt_at: str | None = None) -> str:
    """Run a command to its end; return the terminal as a block of Markdown.

    Args:
        arguments: Of `renaissance`.
        interrupt_at: What to wait for before pressing Ctrl-C.
    """
    screen = Screen()
    screen.write(f"$ renaissance {' '.join(arguments)}\r\n")
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm", COLUMNS=str(COLUMNS), LINES=str(LINES))
        os.execv(sys.executable, [sys.executable, "-m", "renaissance", *arguments])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    data = b""
    while chunk := _read(terminal):
        data += chunk
        if interrupt_at is not None and interrupt_at.encode() in data:
            time.sleep(1)
            os.write(terminal, b"\x03")
            interrupt_at = None
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    # What the terminal itself shows of the key.
    screen.write(data.decode().replace("^C", ""))
    screen.write(f"$ echo $?\r\n{code}\r\n$")
    return f"```text\n{screen.text()}\n```"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # Linux says so when the other end is closed.
        return b""


def write_photos(folder: Path) -> None:
    """Write pictures with captions, of which rank 1 cannot read one in the sixth step."""
    steps, size = 5, 64
    damaged = sample_at(steps * size + size // 2, NUM_ROWS, seed=0)[1]
    generator = np.random.default_rng(0)
    rows = []
    for index in range(NUM_ROWS):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG")
        whole = file.getvalue()
        rows.append({"image": whole[:300] if index == damaged else whole, "caption": ["a photo"]})
    table = pa.Table.from_pylist(rows)
    path = str(folder / "photos.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder / "words")


def main() -> None:
    """Record all scenes in a folder of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(DOCS.parent / "renaissance" / "demo" / "run.toml", folder)
        write_photos(folder)
        (folder / "photos.toml").write_text(PHOTOS)
        os.chdir(folder)
        short = ["train.max_steps=60", "train.log_every=20", "evaluate.every_steps=30"]
        run = ["train", "--ranks", "2", "run.toml"]
        scenes = {
            "typo": record([*run, "train.max_step=60"]),
            "record": record([*run[:-1], "photos.toml", "train.log_every=2"]),
            "interrupt": record([*run, "train.log_every=10"], interrupt_at="step  20/800"),
            "finished": record([*run, "run.name=short", *short]),
        }
    (DOCS / "terminal.md").write_text(PAGE.format(**scenes))


if __name__ == "__main__":
    main()
