"""Disks without space, folders that cannot be written, and clocks that are set back."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from fault_content import differences, files_of, scores, trained_content
from fault_targets import (
    as_another_user,
    in_new_process,
    measure,
    measure_launched,
    measure_with_clock,
)

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts disks and changes users: needs root"),
]


@pytest.fixture(scope="module")
def folder(tiny_vision, tiny_text):
    """A folder that other users can read, with the encoders."""
    path = Path(tempfile.mkdtemp(prefix="edge-glass-faults-"))
    path.chmod(0o755)
    for source in (tiny_vision, tiny_text):
        shutil.copytree(source, path / source.name)
    for file in path.rglob("*.safetensors"):  # written for their owner alone
        file.chmod(0o644)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def make_config(small_align, folder, tiny_vision, tiny_text):
    """make_config(cache) -> a small config."""
    encoders = f"vision.encoder={folder / tiny_vision.name} text.encoder={folder / tiny_text.name} "
    return lambda cache: small_align(f"{encoders} features.shard_rows=40 data.cache_dir={cache}")


@pytest.fixture(scope="module")
def whole(folder, make_config):
    """A run without faults: (folder, metrics). Its cache is complete."""
    run = folder / "whole/run"
    return run.parent, scores(in_new_process(measure, make_config(run.parent / "cache"), run))


@pytest.fixture
def disk(folder):
    """disk(kilobytes) -> a small disk that is made, or made larger."""
    path = folder / "disk"
    path.mkdir()

    def resize(kilobytes):
        option = "remount," if path.is_mount() else ""
        mount = ["mount", "-t", "tmpfs", "-o", f"{option}size={kilobytes}k", "tmpfs", path]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no tmpfs can be mounted here")
        return path

    yield resize
    if path.is_mount():
        subprocess.run(["umount", "-l", path], check=True)
    path.rmdir()


def assert_same(run, metrics, whole):
    folder, expected = whole
    assert not differences(scores(metrics), expected)
    assert not differences(trained_content(run), trained_content(folder / "run"))


@pytest.mark.parametrize("function", [measure, measure_launched])
def test_full_disk_is_named_and_a_larger_one_gives_the_same_result(
    disk, make_config, whole, function
):
    """The disk is full at another write in each start."""
    metrics, lines = None, []
    while metrics is None:
        path = disk(40 + 24 * len(lines))
        try:
            metrics = in_new_process(function, make_config(path / "cache"), path / "run")
        except Exception as error:
            lines.append(str(error).splitlines()[0])
    unclear = [line for line in lines if str(path) not in line or "left on device" not in line]
    print(f"disk full: {len(lines)} starts that fail, of which {len(unclear)} are unclear")
    print(*dict.fromkeys(lines), sep="\n")
    assert len(lines) > 20
    assert not unclear
    assert_same(path / "run", metrics, whole)
    features = [files_of(f / "cache/features") for f in (path, whole[0])]
    assert not differences(*features)


@pytest.fixture
def another(folder):
    """A folder that belongs to another user, as whom experiments run."""
    path = folder / "another"
    path.mkdir()
    os.chown(path, 65534, 65534)
    yield path
    shutil.rmtree(path)


def test_cache_of_another_user_is_read(another, make_config, whole):
    config = make_config(whole[0] / "cache")
    before = files_of(whole[0])
    metrics = in_new_process(as_another_user, measure, config, another / "run")
    assert_same(another / "run", metrics, whole)
    assert files_of(whole[0]) == before


@pytest.mark.parametrize(
    "parts",
    [["arrow"], ["features"], ["items"], ["digests.sqlite"], ["features", "arrow"]],
    ids=str,
)
def test_cache_of_another_user_that_lacks_a_part_is_named(
    folder, another, make_config, whole, parts
):
    cache, aside = whole[0] / "cache", folder / "aside"
    aside.mkdir()
    for part in parts:
        (cache / part).rename(aside / part)
    try:
        with pytest.raises(Exception, match=str(cache)) as caught:
            in_new_process(as_another_user, measure, make_config(cache), another / "run")
    finally:
        for part in parts:
            (aside / part).rename(cache / part)
        aside.rmdir()
    print(f"without {parts}: {caught.value!r}")


@pytest.mark.parametrize("part", ["", "checkpoints", "logs", "metrics.jsonl", "env.json"])
def test_run_of_another_user_is_named(folder, another, make_config, whole, part):
    """All else is this user's own."""
    run = shutil.copytree(whole[0] / "run", another / "run")
    shutil.rmtree(run / "checkpoints/step-00000012")
    for path in (run, *run.rglob("*")):
        os.chown(path, 65534, 65534)
    os.chown(run / part, 0, 0)
    config = make_config(whole[0] / "cache")
    try:
        metrics = in_new_process(as_another_user, measure, config, run)
    except Exception as error:
        print(f"{part}: {error!r:.300}")
        if str(run / part) not in str(error):
            raise
    else:
        print(f"{part}: the same result")
        assert_same(run, metrics, whole)


@pytest.mark.parametrize("hours", [1, 48])
def test_clock_set_back_changes_no_result(folder, make_config, whole, hours):
    """Of a run that goes on after its clock was ahead; meanwhile the clock goes back again."""
    work = folder / "ahead"
    config = make_config(work / "cache")
    in_new_process(measure, config, work / "run")
    shutil.rmtree(work / "run/checkpoints/step-00000012")
    next(work.glob("cache/features/text-*/shard-*")).unlink()
    ahead = time.time() + 3600 * hours
    for path in work.rglob("*"):
        os.utime(path, (ahead, ahead))
    metrics = in_new_process(measure_with_clock, hours, config, work / "run")
    assert_same(work / "run", metrics, whole)
    shutil.rmtree(work)
