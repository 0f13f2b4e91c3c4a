"""The built-in fusion modules."""

from itertools import product
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LxmertConfig
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

from renaissance import FusedUse, Fusion, Tokens
from renaissance.builtin.fusions.co_attention import CoAttention
from renaissance.builtin.fusions.cross_attention import CrossAttention
from renaissance.builtin.fusions.lxmert import Lxmert
from renaissance.builtin.fusions.merged_attention import MergedAttention

FUSIONS = [CoAttention, CrossAttention, Lxmert, MergedAttention]
HIDDEN, HEADS, TEXT_TOKENS, IMAGE_TOKENS = 16, 4, 5, 7
READS = ["all", "first", "none"]

each_fusion = pytest.mark.parametrize("fusion_class", FUSIONS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(fusion_class: Any, **options: Any) -> Fusion:
    settings = {"hidden_size": HIDDEN, "num_heads": HEADS, "num_layers": 2} | options
    fusion = fusion_class(fusion_class.Options(**settings)).eval()
    for parameter in fusion.parameters():
        # Away from their start, where biases are zero and norms do nothing.
        nn.init.normal_(parameter, std=0.3)
    return fusion


def make_tokens(num_pairs: int, num_tokens: int) -> Tokens:
    """Row i has i padding tokens at its end."""
    mask = torch.arange(num_tokens) < num_tokens - torch.arange(num_pairs)[:, None] % num_tokens
    return Tokens(torch.randn(num_pairs, num_tokens, HIDDEN), mask)


def make_pairs(num_pairs: int = 4) -> tuple[Tokens, Tokens]:
    return make_tokens(num_pairs, TEXT_TOKENS), make_tokens(num_pairs, IMAGE_TOKENS)


def additive(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None, :]


def copy_attention(ours: Any, theirs: nn.MultiheadAttention) -> nn.MultiheadAttention:
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.query_key_value.weight)
        theirs.in_proj_bias.copy_(ours.query_key_value.bias)
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    return theirs


def copy_to_transformers(ours: Any, theirs: LxmertXLayer) -> None:
    def attention(source: Any, target: Any, output: Any) -> None:
        parts = zip(
            (target.query, target.key, target.value),
            source.query_key_value.weight.chunk(3),
            source.query_key_value.bias.chunk(3),
            strict=True,
        )
        for linear, weight, bias in parts:
            linear.load_state_dict({"weight": weight, "bias": bias})
        output.dense.load_state_dict(source.output.state_dict())
        output.LayerNorm.load_state_dict(source.layer_norm.state_dict())

    def feed_forward(source: Any, target: Any, output: Any) -> None:
        target.dense.load_state_dict(source.intermediate.state_dict())
        output.dense.load_state_dict(source.output.state_dict())
        output.LayerNorm.load_state_dict(source.layer_norm.state_dict())

    text, image = ours.text_stream, ours.image_stream
    cross = theirs.visual_attention
    attention(ours.cross_attention, cross.att, cross.output)
    attention(text.self_attention, theirs.lang_self_att.self, theirs.lang_self_att.output)
    attention(image.self_attention, theirs.visn_self_att.self, theirs.visn_self_att.output)
    feed_forward(text.feed_forward, theirs.lang_inter, theirs.lang_output)
    feed_forward(image.feed_forward, theirs.visn_inter, theirs.visn_output)


def test_lxmert_equals_transformers_layers():
    fusion = make(Lxmert)
    config = LxmertConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=4 * HIDDEN
    )
    text, image = make_pairs()
    expected_text, expected_image = text.hidden_states, image.hidden_states
    for layer in fusion.layers:
        reference = LxmertXLayer(config).eval()
        copy_to_transformers(layer, reference)
        expected_text, expected_image = reference(
            expected_text,
            additive(text.attention_mask),
            expected_image,
            additive(image.attention_mask),
        )
    fused_text, fused_image = fusion(text, image)
    torch.testing.assert_close(fused_text.hidden_states, expected_text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused_image.hidden_states, expected_image, atol=1e-5, rtol=1e-5)


def test_merged_attention_equals_torch_encoder_layers():
    fusion = make(MergedAttention)
    text, image = make_pairs()
    states = torch.cat([text.hidden_states, image.hidden_states], dim=1)
    padding = ~torch.cat([text.attention_mask, image.attention_mask], dim=1)
    for layer in fusion.layers:
        reference = nn.TransformerEncoderLayer(
            HIDDEN, HEADS, 4 * HIDDEN, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        copy_attention(layer.self_attention, reference.self_attn)
        reference.norm1.load_state_dict(layer.self_attention.layer_norm.state_dict())
        reference.linear1.load_state_dict(layer.feed_forward.intermediate.state_dict())
        reference.linear2.load_state_dict(layer.feed_forward.output.state_dict())
        reference.norm2.load_state_dict(layer.feed_forward.layer_norm.state_dict())
        states = reference.eval()(states, src_key_padding_mask=padding)
    fused = torch.cat([tokens.hidden_states for tokens in fusion(text, image)], dim=1)
    torch.testing.assert_close(fused, states, atol=1e-5, rtol=1e-5)


def test_co_attention_equals_its_definition():
    fusion = make(CoAttention)
    text, image = make_pairs()

    def attend(module: Any, states: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        reference = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)
        reference = copy_attention(module, reference).eval()
        attended, _ = reference(states, context, context, key_padding_mask=~mask)
        return module.layer_norm(states + attended)

    def stream(module: Any, own: Tensor, own_mask: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        states = attend(module.self_attention, own, own, own_mask)
        states = attend(module.cross_attention, states, other, mask)
        feed_forward = module.feed_forward
        inner = nn.functional.gelu(feed_forward.intermediate(states))
        return feed_forward.layer_norm(states + feed_forward.output(inner))

    states = text.hidden_states, image.hidden_states
    masks = text.attention_mask, image.attention_mask
    for layer in fusion.layers:
        states = (
            stream(layer.text_stream, states[0], masks[0], states[1], masks[1]),
            stream(layer.image_stream, states[1], masks[1], states[0], masks[0]),
        )
    for fused, expected in zip(fusion(text, image), states, strict=True):
        torch.testing.assert_close(fused.hidden_states, expected, atol=1e-5, rtol=1e-5)


def test_cross_attention_equals_torch_decoder_layers_on_text_alone():
    fusion = make(CrossAttention)
    text, image = make_pairs()
    states = text.hidden_states
    for layer in fusion.layers:
        reference = nn.TransformerDecoderLayer(
            HIDDEN, HEADS, 4 * HIDDEN, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        copy_attention(layer.self_attention, reference.self_attn)
        copy_attention(layer.cross_attention, reference.multihead_attn)
        reference.norm1.load_state_dict(layer.self_attention.layer_norm.state_dict())
        reference.norm2.load_state_dict(layer.cross_attention.layer_norm.state_dict())
        reference.norm3.load_state_dict(layer.feed_forward.layer_norm.state_dict())
        reference.linear1.load_state_dict(layer.feed_forward.intermediate.state_dict())
        reference.linear2.load_state_dict(layer.feed_forward.output.state_dict())
        states = reference.eval()(
            states,
            image.hidden_states,
            tgt_key_padding_mask=~text.attention_mask,
            memory_key_padding_mask=~image.attention_mask,
        )
    fused_text, fused_image = fusion(text, image)
    torch.testing.assert_close(fused_text.hidden_states, states, atol=1e-5, rtol=1e-5)
    assert torch.equal(fused_image.hidden_states, image.hidden_states)


@each_fusion
@pytest.mark.parametrize("has_mask", [False, True])
def test_pairs_that_share_rows_equal_pairs_of_their_own(fusion_class, has_mask):
    fusion = make(fusion_class)
    text, image = make_tokens(3, TEXT_TOKENS), make_tokens(2, IMAGE_TOKENS)
    if not has_mask:
        text, image = Tokens(text.hidden_states), Tokens(image.hidden_states)
    text_rows, image_rows = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 1, 1, 0, 0])
    uses = [FusedUse(2, "all", "none"), FusedUse(3, "first", "first")]
    fused = fusion.fuse_rows(text, image, text_rows, image_rows, uses)
    gathered = text.map(lambda part: part[text_rows]), image.map(lambda part: part[image_rows])
    for ours, expected in zip(fused, Fusion.fuse(fusion, *gathered, uses), strict=True):
        for tokens, other in zip(ours, expected, strict=True):
            assert (tokens is None) == (other is None)
            if tokens is not None:
                states = tokens.hidden_states
                torch.testing.assert_close(states, other.hidden_states, atol=1e-5, rtol=1e-5)
                assert torch.equal(tokens.attention_mask, other.attention_mask)


def test_cross_attention_projects_each_image_once_per_layer():
    fusion = make(CrossAttention, num_layers=3)
    text, image = Tokens(torch.randn(6, TEXT_TOKENS, HIDDEN)), Tokens(torch.randn(2, 7, HIDDEN))
    rows = torch.arange(6)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        fusion.fuse_rows(text, image, rows, rows % 2, [FusedUse(6, "all", "none")])
    counts = counter.get_flop_counts()["Global"]
    linear = sum(counts.get(op, 0) for op in (torch.ops.aten.addmm, torch.ops.aten.mm))
    # Six texts, but two images.
    assert linear == 3 * ((4 + 2 + 8) * TEXT_TOKENS * 6 + 2 * 7 * 2) * 2 * HIDDEN**2


@each_fusion
def test_padding_changes_nothing(fusion_class):
    fusion = make(fusion_class)
    text, image = make_pairs(1)
    alone = fusion(text, image)

    def pad(tokens: Tokens) -> Tokens:
        rubbish = 100 * torch.randn(1, 3, HIDDEN)
        mask = torch.zeros(1, 3, dtype=torch.bool)
        return Tokens(
            torch.cat([tokens.hidden_states, rubbish], dim=1),
            torch.cat([tokens.attention_mask, mask], dim=1),
        )

    padded = fusion(pad(text), pad(image))
    for one, other, count in zip(alone, padded, (TEXT_TOKENS, IMAGE_TOKENS), strict=True):
        torch.testing.assert_close(
            other.hidden_states[:, :count], one.hidden_states, atol=1e-5, rtol=1e-5
        )


def with_real_tokens(mask: Tensor, uses: list[FusedUse]) -> list[FusedUse]:
    """Tell each group of pairs which of its text tokens are real, and two that are not."""
    groups = []
    for use, part in zip(uses, mask.split([use.num_pairs for use in uses]), strict=True):
        real, padding = (torch.nonzero(m.flatten())[:, 0] for m in (part, ~part))
        groups.append(attrs.evolve(use, text_index=torch.cat([real, padding[:2]])))
    return groups


@each_fusion
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(
    "reads", [("all", "none", "first", "first"), ("first", "all", "all", "first")]
)
def test_real_tokens_alone_equal_padded_ones(fusion_class, num_layers, reads):
    fusion = make(fusion_class, num_layers=num_layers).double()
    text, image = make_tokens(4, TEXT_TOKENS), make_tokens(2, IMAGE_TOKENS)
    text_rows, image_rows = torch.tensor([1, 0, 2, 3, 3]), torch.tensor([1, 0, 0, 1, 1])
    uses = [FusedUse(2, *reads[:2]), FusedUse(3, *reads[2:])]
    results = []
    for asked in (uses, with_real_tokens(text.attention_mask[text_rows], uses)):
        inputs = [
            Tokens(tokens.hidden_states.detach().double().requires_grad_(), tokens.attention_mask)
            for tokens in (text, image)
        ]
        fusion.zero_grad()
        fused = [
            t for pair in fusion.fuse_rows(*inputs, text_rows, image_rows, asked) for t in pair
        ]
        real = [None if t is None else t.hidden_states[t.attention_mask] for t in fused]
        sum(r.square().sum() for r in real if r is not None).backward()
        results.append(
            (
                [None if t is None else t.attention_mask for t in fused],
                real,
                [tokens.hidden_states.grad[tokens.attention_mask] for tokens in inputs],
                {n: p.grad.clone() for n, p in fusion.named_parameters() if p.grad is not None},
            )
        )
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fusion_class", [CoAttention, CrossAttention, Lxmert])
def test_linear_layers_of_the_text_see_real_tokens_alone(fusion_class):
    fusion = make(fusion_class, num_layers=2)
    text, image = make_pairs(4)
    (use,) = with_real_tokens(text.attention_mask, [FusedUse(4, "all", "none")])
    lengths = set()
    for layer in fusion.layers:
        part = getattr(layer, "text_stream", layer)
        part.feed_forward.intermediate.register_forward_pre_hook(
            lambda module, inputs: lengths.add(tuple(inputs[0].shape))
        )
    (fused,) = fusion.fuse(text, image, [use])
    # 5 + 4 + 3 + 2 real ones, and two that are not.
    assert lengths == {(16, HIDDEN)}
    assert fused[0].hidden_states.shape == (4, TEXT_TOKENS, HIDDEN)


@each_fusion
@pytest.mark.parametrize("num_layers", [1, 2])
def test_fuse_agrees_with_forward_for_all_reads(fusion_class, num_layers):
    fusion = make(fusion_class, num_layers=num_layers)
    text, image = make_pairs(6)
    combinations = list(product(READS, READS))
    for first, second in product(combinations, combinations):
        reads = [FusedUse(1, *first), FusedUse(2, *second), FusedUse(3, *first)]
        results = fusion.fuse(text, image, reads)
        # The contract's own method runs forward and selects.
        expected = Fusion.fuse(fusion, text, image, reads)
        assert len(results) == len(reads)
        for tokens, selected in zip(sum(results, ()), sum(expected, ()), strict=True):
            assert (tokens is None) == (selected is None)
            if tokens is not None:
                torch.testing.assert_close(
                    tokens.hidden_states, selected.hidden_states, atol=1e-5, rtol=1e-5
                )
                assert torch.equal(tokens.attention_mask, selected.attention_mask)


def products(fusion: Fusion, text_use: str, image_use: str) -> int:
    """Multiply-adds of the linear layers for one pair, in units of hidden size squared."""
    text, image = make_pairs(1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        fusion.fuse(text, image, [FusedUse(1, text_use, image_use)])
    counts = counter.get_flop_counts().get("Global", {})
    linear = [counts.get(op, 0) for op in (torch.ops.aten.addmm, torch.ops.aten.mm)]
    assert sum(linear) % (2 * HIDDEN**2) == 0
    return sum(linear) // (2 * HIDDEN**2)


# A token costs: query 1, key and value 2, output projection 1, feed-forward 8.
T, I = TEXT_TOKENS, IMAGE_TOKENS  # noqa: E741


@pytest.mark.parametrize(
    ("fusion_class", "text_use", "image_use", "expected"),
    [
        (CoAttention, "all", "all", (4 + 2 + 8) * (T + I) + 2 * (T + I)),
        (CoAttention, "all", "none", 4 * T + 2 * T + 2 * I + 8 * T),
        (CoAttention, "first", "first", 2 * (2 + 2 + 8) + 2 * T + 2 * I + 2 * I + 2 * T),
        (CoAttention, "none", "none", 0),
        (CrossAttention, "all", "all", (4 + 2 + 8) * T + 2 * I),
        (CrossAttention, "all", "none", (4 + 2 + 8) * T + 2 * I),
        (CrossAttention, "first", "first", (2 + 2 + 8) + 2 * T + 2 * I),
        (CrossAttention, "none", "first", 0),
        (Lxmert, "all", "all", (4 + 4 + 8) * (T + I)),
        (Lxmert, "all", "none", 2 * T + 2 * I + 4 * T + 8 * T),
        (Lxmert, "first", "first", 4 * (T + I) + 2 * (T + I) + 2 * (2 + 8)),
        (Lxmert, "none", "first", 2 * I + 2 * T + 2 * I + 2 + 8),
        (Lxmert, "none", "none", 0),
        (MergedAttention, "all", "all", 12 * (T + I)),
        (MergedAttention, "all", "none", 2 * (T + I) + 2 * T + 8 * T),
        (MergedAttention, "first", "first", 2 * (T + I) + 2 * (2 + 8)),
        (MergedAttention, "none", "none", 0),
    ],
)
def test_last_layer_computes_only_what_is_read(fusion_class, text_use, image_use, expected):
    assert products(make(fusion_class, num_layers=1), text_use, image_use) == expected


@each_fusion
def test_layers_before_the_last_run_once_over_all_pairs(fusion_class):
    fusion = make(fusion_class)
    calls = [0, 0]
    for index, layer in enumerate(fusion.layers):

        def count(*_: Any, index: int = index) -> None:
            calls[index] += 1

        layer.register_forward_hook(count)
    text, image = make_pairs()
    fusion.fuse(text, image, [FusedUse(1, "all", "none"), FusedUse(3, "first", "first")])
    assert calls == [1, 2]
    # What is read alike is not split.
    fusion.fuse(text, image, [FusedUse(1, "all", "none"), FusedUse(3, "all", "none")])
    assert calls == [2, 3]


@each_fusion
def test_gradient_checkpointing_changes_no_number(fusion_class):
    fusion = make(fusion_class).train()
    text, image = make_pairs()
    reads = [FusedUse(1, "all", "none"), FusedUse(3, "first", "first")]
    forwards = 0

    def count(*_: Any) -> None:
        nonlocal forwards
        forwards += 1

    fusion.layers[0].register_forward_pre_hook(count)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        fusion.zero_grad()
        torch.manual_seed(1)  # dropout is on
        results = fusion.fuse(text, image, reads)
        states = [t.hidden_states.flatten() for t in sum(results, ()) if t is not None]
        output = torch.cat(states)
        output.square().sum().backward()
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in fusion.named_parameters()
            if parameter.grad is not None
        }
        return output.detach(), gradients

    output, gradients = run()
    assert forwards == 1
    fusion.enable_gradient_checkpointing()
    again, gradients_again = run()
    assert forwards == 3  # one more in forward, and one in backward
    torch.testing.assert_close(again, output)
    torch.testing.assert_close(gradients_again, gradients)


@each_fusion
@pytest.mark.parametrize(("every_n_layers", "recomputed"), [(1, [0, 1, 2]), (2, [0, 2])])
def test_every_nth_layer_is_recomputed(fusion_class, every_n_layers, recomputed):
    fusion = make(fusion_class, num_layers=3).train()
    fusion.enable_gradient_checkpointing(every_n_layers)
    calls: list[int] = []
    for index, layer in enumerate(fusion.layers):
        layer.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    results = fusion.fuse(*make_pairs(), [FusedUse(4, "all", "first")])
    assert calls == [0, 1, 2]
    torch.cat([t.hidden_states.flatten() for t in results[0]]).square().sum().backward()
    assert sorted(calls[3:]) == recomputed


@each_fusion
def test_gradients_reach_every_parameter(fusion_class):
    fusion = make(fusion_class).train()
    text, image = fusion(*make_pairs())
    (text.hidden_states.square().sum() + image.hidden_states.square().sum()).backward()
    without = [n for n, p in fusion.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@each_fusion
def test_bf16_autocast_stays_close(fusion_class):
    fusion = make(fusion_class, dropout=0.0, attention_dropout=0.0).train()
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.05)
    pairs = make_pairs()
    expected, _ = fusion(*pairs)
    with torch.autocast("cpu", torch.bfloat16):
        fused, _ = fusion(*pairs)
    assert fused.attention_mask.dtype == torch.bool
    torch.testing.assert_close(
        fused.hidden_states.float(), expected.hidden_states, atol=0.05, rtol=0.05
    )
    fused.hidden_states.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in fusion.parameters() if p.grad is not None)


@each_fusion
def test_dropout_is_of_training_alone_and_of_both_sorts(fusion_class):
    pairs = make_pairs()

    def states(fusion: Fusion) -> Tensor:
        return fusion(*pairs)[0].hidden_states

    for options, differs in (
        ({"dropout": 0.0, "attention_dropout": 0.0}, False),
        ({"dropout": 0.5, "attention_dropout": 0.0}, True),
        ({"dropout": 0.0, "attention_dropout": 0.5}, True),
    ):
        fusion = make(fusion_class, **options)
        assert torch.equal(states(fusion), states(fusion))
        assert torch.allclose(states(fusion.train()), states(fusion.eval()), atol=1e-5) != differs


@each_fusion
def test_fuse_runs_without_data_and_compiles_whole(fusion_class):
    fusion = make(fusion_class)
    text, image = make_pairs()
    reads = [FusedUse(1, "all", "none"), FusedUse(3, "first", "first")]
    expected = fusion.fuse(text, image, reads)
    compiled = torch.compile(fusion.fuse, fullgraph=True, backend="eager")
    for result, other in zip(compiled(text, image, reads), expected, strict=True):
        torch.testing.assert_close(result[0].hidden_states, other[0].hidden_states)
    (on_meta,) = fusion.to("meta").fuse(
        Tokens(*(t.to("meta") for t in text)),
        Tokens(*(t.to("meta") for t in image)),
        [FusedUse(4, "first", "all")],
    )
    assert on_meta[0].hidden_states.shape == (4, 1, HIDDEN)
    assert on_meta[1].hidden_states.shape == (4, IMAGE_TOKENS, HIDDEN)


@each_fusion
def test_weights_start_as_berts_scaled_to_the_width(fusion_class):
    fusion = fusion_class(fusion_class.Options(hidden_size=64, num_layers=2))
    linears = [m for m in fusion.modules() if isinstance(m, nn.Linear)]
    # A layer of 768 inputs would have 0.02; the sum of squares over inputs is the same for all.
    for linear in linears:
        assert linear.weight.std().item() * linear.in_features**0.5 == pytest.approx(
            0.02 * 768**0.5, rel=0.05
        )
    assert not any(linear.bias.any() for linear in linears)
    assert {m.eps for m in fusion.modules() if isinstance(m, nn.LayerNorm)} == {1e-12}


def test_heads_must_divide_the_hidden_size():
    with pytest.raises(ValueError, match=r"^got 3, expected a divisor of hidden_size \(256\)"):
        Lxmert.Options(num_heads=3)
    assert Lxmert.Options(hidden_size=384, num_heads=6, mlp_ratio=0.5).intermediate_size == 192


def test_a_number_of_layers_beyond_all_models_is_refused():
    # Building them would take hours.
    with pytest.raises(ValueError, match=r"^got 1,000,000, expected at most 1,000$"):
        MergedAttention.Options(num_layers=1_000_000)
