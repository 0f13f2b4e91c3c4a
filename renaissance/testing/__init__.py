"""The conformance kit: does a component keep the contract of its kind?

One call a kind, on tiny inputs, in a second or two on a CPU. Each builds the component, tries every
promise of its contract, and raises one `ContractError` that says in words what is not kept.

    from renaissance.testing import check_pooler

    def test_contract() -> None:
        check_pooler(MyPooler, MyPooler.Options(scale=0.5))
"""

from renaissance.testing.contract_check import ContractError
from renaissance.testing.dataset import check_dataset
from renaissance.testing.encoder import check_encoder
from renaissance.testing.fusion import check_fusion
from renaissance.testing.head import check_head
from renaissance.testing.objective import check_objective
from renaissance.testing.pooler import check_pooler

__all__ = [
    "ContractError",
    "check_dataset",
    "check_encoder",
    "check_fusion",
    "check_head",
    "check_objective",
    "check_pooler",
]
