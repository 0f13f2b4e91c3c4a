"""The conformance kit: does a component keep the contract of its kind?

One call per kind, on tiny inputs, in a second or two on a CPU. Each builds the component, tries
every promise of its contract, and raises one `ContractError` that lists every violation.

    from renaissance.testing import check_pooler

    def test_contract() -> None:
        check_pooler(MyPooler, MyPooler.Options(scale=0.5))
"""

from renaissance.testing.contract_check import ContractError
from renaissance.testing.dataset import check_dataset
from renaissance.testing.encoder import check_encoder
from renaissance.testing.fusion import check_fusion
from renaissance.testing.head import check_head
from renaissance.testing.monitor import check_monitor
from renaissance.testing.objective import check_objective
from renaissance.testing.optimizer import check_optimizer
from renaissance.testing.pooler import check_pooler
from renaissance.testing.source import check_source
from renaissance.testing.transform import check_transform

__all__ = [
    "ContractError",
    "check_dataset",
    "check_encoder",
    "check_fusion",
    "check_head",
    "check_monitor",
    "check_objective",
    "check_optimizer",
    "check_pooler",
    "check_source",
    "check_transform",
]
