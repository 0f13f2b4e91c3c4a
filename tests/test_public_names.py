"""The public names of `renaissance`, most of which are imported when they are asked for."""

import subprocess
import sys

import renaissance


def test_the_lazy_names_are_listed_before_they_are_imported() -> None:
    # In a process of its own, where nothing is imported yet.
    lines = (
        "import sys, renaissance",
        "print(set(renaissance.__all__) - set(dir(renaissance)), 'torch' in sys.modules)",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert printed == "set() False\n"


def test_every_public_name_can_be_imported() -> None:
    named = {name: getattr(renaissance, name) for name in renaissance.__all__}
    assert {name for name, value in named.items() if value is None} == set()
    assert len(named) > 50
