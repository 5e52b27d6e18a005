"""What the tests of losses share: gradients, their comparison, and open_clip's losses."""

import importlib.util
import pathlib

import pytest
import torch


def grads(loss, *tensors):
    return [loss.detach(), *torch.autograd.grad(loss, tensors)]


def assert_same(ours, theirs, rtol=1e-5):
    """Equal by norm, as single entries of a gradient may nearly cancel."""
    for x, y in zip(ours, theirs, strict=True):
        assert x.isfinite().all()
        assert (x.double() - y.double()).norm() <= rtol * y.double().norm() + 1e-12


def open_clip_loss():
    """open_clip's own file by its path: the package itself needs torchvision."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        pytest.skip("open_clip_torch is not installed")
    path = pathlib.Path(spec.origin).with_name("loss.py")
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
