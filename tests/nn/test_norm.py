"""The root-mean-square norm in mixed precision."""

import warnings

import torch

from edge_lib.nn.norm import RMSNorm


def make_norm():
    torch.manual_seed(0)
    norm = RMSNorm(32)
    torch.nn.init.normal_(norm.weight)
    return norm, torch.randn(5, 32)


def test_rms_norm_of_16_bit_inputs_is_computed_with_weights_in_fp32():
    norm, x = make_norm()
    with warnings.catch_warnings(action="error"), torch.autocast("cpu", torch.bfloat16):
        output = norm(x.bfloat16())
    rounded = x.bfloat16().double()
    expected = rounded / rounded.square().mean(-1, keepdim=True).sqrt() * norm.weight.double()
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-6)


def test_rms_norm_in_fp32_is_that_of_torch():
    norm, x = make_norm()
    assert torch.equal(norm(x), torch.nn.functional.rms_norm(x, (32,), norm.weight))


def test_rms_norm_with_weights_in_16_bits_stays_in_16_bits():
    norm, x = make_norm()
    assert norm.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
