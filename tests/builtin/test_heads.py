"""The built-in heads."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, LxmertConfig
from transformers.models.bert.modeling_bert import BertLMPredictionHead
from transformers.models.lxmert.modeling_lxmert import LxmertVisualAnswerHead

from renaissance.builtin.heads.linear import Linear
from renaissance.builtin.heads.mlm import MLMHead
from renaissance.builtin.heads.mlp import MLP

INPUT, OUTPUT = 8, 5
each_head = pytest.mark.parametrize("head_class", [Linear, MLP, MLMHead])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomize(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter)


def test_mlm_head_equals_berts():
    head = MLMHead(MLMHead.Options(), INPUT, OUTPUT)
    randomize(head)
    bert = BertLMPredictionHead(BertConfig(hidden_size=INPUT, vocab_size=OUTPUT))
    bert.transform.dense.load_state_dict(head.dense.state_dict())
    bert.transform.LayerNorm.load_state_dict(head.layer_norm.state_dict())
    bert.decoder.load_state_dict(head.decoder.state_dict())
    states = torch.randn(3, INPUT)
    torch.testing.assert_close(head(states), bert(states))


def test_mlp_equals_vilts_classifier():
    head = MLP(MLP.Options(), INPUT, OUTPUT)
    randomize(head)
    vilt = nn.Sequential(
        nn.Linear(INPUT, 2 * INPUT),
        nn.LayerNorm(2 * INPUT),
        nn.GELU(),
        nn.Linear(2 * INPUT, OUTPUT),
    )
    for ours, theirs in ((head.dense, 0), (head.layer_norm, 1), (head.decoder, 3)):
        vilt[theirs].load_state_dict(ours.state_dict())
    states = torch.randn(3, INPUT)
    torch.testing.assert_close(head(states), vilt(states))


def test_an_mlp_with_its_norm_after_the_gelu_equals_lxmerts_classifier():
    head = MLP(MLP.Options(norm="after"), INPUT, OUTPUT)
    randomize(head)
    lxmert = LxmertVisualAnswerHead(LxmertConfig(hidden_size=INPUT), OUTPUT).logit_fc
    for ours, theirs in ((head.dense, 0), (head.layer_norm, 2), (head.decoder, 3)):
        lxmert[theirs].load_state_dict(ours.state_dict())
    states = torch.randn(3, INPUT)
    torch.testing.assert_close(head(states), lxmert(states))


def test_the_hidden_layer_of_an_mlp_may_have_another_size():
    head = MLP(MLP.Options(hidden_size=3), INPUT, OUTPUT)
    assert head.dense.weight.shape == (3, INPUT)
    assert head(torch.randn(2, INPUT)).shape == (2, OUTPUT)


def test_linear_drops_inputs_in_training_alone():
    head = Linear(Linear.Options(dropout=0.5), INPUT, OUTPUT)
    with torch.no_grad():
        head.decoder.weight.fill_(1.0)
    ones = torch.ones(200, INPUT)
    assert torch.equal(head.eval()(ones), torch.full((200, OUTPUT), float(INPUT)))
    # Inputs that survive are doubled: sums of 0, 2, 4, ...
    sums = head.train()(ones)[:, 0]
    assert set(sums.tolist()) <= {2.0 * kept for kept in range(INPUT + 1)}
    assert sums.mean().item() == pytest.approx(INPUT, rel=0.1)


@each_head
@pytest.mark.parametrize("shape", [(3,), (2, 4)])
def test_any_leading_shape_gradients_and_bf16(head_class, shape):
    head = head_class(head_class.Options(), INPUT, OUTPUT)
    states = torch.randn(*shape, INPUT)
    logits = head(states)
    assert logits.shape == (*shape, OUTPUT)
    with torch.autocast("cpu", torch.bfloat16):
        low = head(states)
    torch.testing.assert_close(low.float(), logits, atol=0.02, rtol=0.02)
    logits.square().sum().backward()
    assert all(parameter.grad.any() for parameter in head.parameters())


@each_head
def test_runs_without_data(head_class):
    head = head_class(head_class.Options(), INPUT, OUTPUT).to("meta")
    assert head(torch.empty(3, INPUT, device="meta")).shape == (3, OUTPUT)
