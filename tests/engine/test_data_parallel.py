"""What ranks exchange of gradients."""

import json
import subprocess
import sys

import pytest
from support.running import environment

# On each of two ranks: the gradients that ranks have, by compression, and the dtypes exchanged.
SCRIPT = """
import json
import torch
import torch.distributed as dist
from renaissance.engine.data_parallel import exchange, wrap
from renaissance.engine.distributed import Ranks

ranks = Ranks("cpu")
reduce, dtypes = dist.all_reduce, []

def noted(tensor, *arguments, **options):
    dtypes.append(str(tensor.dtype))
    return reduce(tensor, *arguments, **options)

found = {}
for compression in ("own", "none", "bf16"):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    network.is_sharded = False
    module = network if compression == "own" else wrap(network, ranks.world_size, compression)
    torch.manual_seed(1 + ranks.rank)
    dist.all_reduce = noted
    for is_last in (False, True):
        with exchange(module, is_last):
            module(torch.randn(8, 16)).square().sum().backward()
    dist.all_reduce = reduce
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
    found[compression] = ranks.gather_rows(gradient[None]).tolist()
if ranks.is_main:
    print(json.dumps([found, dtypes]))
ranks.close()
"""


@pytest.fixture(scope="module")
def gradients(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, list[list[float]]], list[str]]:
    script = tmp_path_factory.mktemp("ranks") / "script.py"
    script.write_text(SCRIPT)
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(script)),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    found, dtypes = json.loads(finished.stdout)
    return found, dtypes


def test_compressed_gradients_are_equal_on_all_ranks_and_rounded_to_bf16(
    gradients: tuple[dict[str, list[list[float]]], list[str]],
) -> None:
    found, dtypes = gradients
    own, exact, rounded = found["own"], found["none"], found["bf16"]
    assert exact[0] == exact[1]
    assert rounded[0] == rounded[1]
    assert rounded != exact
    for first, second, plain, coarse in zip(*own, exact[0], rounded[0], strict=True):
        assert plain == pytest.approx((first + second) / 2, rel=1e-5, abs=1e-6)
        # The summands, and then their sum, are rounded to 8 bits.
        summands = (abs(first) + abs(second)) / 2
        assert abs(coarse - plain) <= 2**-8 * (summands + abs(plain) + 2**-8 * summands) + 1e-6
    # One bucket, of the last micro-batch alone; without compression, DDP does not call it.
    assert dtypes == ["torch.bfloat16"]
