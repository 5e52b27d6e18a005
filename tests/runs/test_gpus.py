"""GPUs of local workers, without any GPU: `CUDA_VISIBLE_DEVICES` says which there are."""

import pytest

from edge_lib.config import ConfigError
from edge_lib.runs.gpus import worker_devices


@pytest.mark.parametrize(
    ("visible", "workers", "gpus", "devices"),
    [
        ("0,1,2,3", 2, 1, ["0", "1"]),
        ("0,1,2,3", 2, 2, ["0,1", "2,3"]),
        ("4,6", 2, 1, ["4", "6"]),
        ("GPU-a,MIG-b", 2, 1, ["GPU-a", "MIG-b"]),
        ("0,1", 3, 1, ["0", "1", "0"]),
        ("0,1,2", 2, 2, ["0,1", "0,1"]),
        ("0,1", 2, 0, ["", ""]),
        ("", 2, 1, ["", ""]),
    ],
    ids=["own", "pairs", "of a part", "uuids", "shared", "rest unused", "no gpus", "cpu"],
)
def test_worker_devices_are_own_gpus_while_there_are_enough(
    visible, workers, gpus, devices, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert worker_devices(workers, gpus) == devices


def test_worker_devices_rejects_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match=r"sweep\.gpus=4, but this machine has 2 GPUs"):
        worker_devices(1, 4)


def test_worker_devices_counts_gpus_of_machine(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert worker_devices(2, 1) == ["0", "1"]
