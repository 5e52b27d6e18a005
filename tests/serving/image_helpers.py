"""Builds images with buildah; a base image of Debian's packages and this Python, where the named
one cannot be pulled.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

CHROOT = os.environ | {"BUILDAH_ISOLATION": "chroot"}
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
STAND_IN = """
FROM scratch
COPY root /
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PIP_CERT=/etc/ssl/certs/ca-certificates.crt
"""


def buildah(*arguments, **options):
    """What the command prints."""
    command = ["buildah", *map(str, arguments)]
    options = {"check": True, "capture_output": True, "text": True, "env": CHROOT} | options
    return subprocess.run(command, **options).stdout


def has_image(name):
    return bool(buildah("images", "--quiet", name, check=False))


def make_base(name, folder):
    """An image of this name with this Python in /usr/local, where that of the library has it."""
    root, version = folder / "root", f"python3.{sys.version_info.minor}"
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    include = "--include=python3,ca-certificates"  # the libraries that a Python links
    command = ["debootstrap", "--variant=minbase", include, suite, str(root)]
    subprocess.run(command, check=True, capture_output=True)
    prefix, local = Path(sys.base_prefix), root / "usr/local"
    skip = shutil.ignore_patterns("site-packages", "test", "__pycache__")
    shutil.copytree(
        prefix / "lib" / version, local / "lib" / version, ignore=skip, dirs_exist_ok=True
    )
    for library in prefix.glob("lib/libpython*"):
        shutil.copy2(library, local / "lib")
    shutil.copy2(prefix / "bin" / version, local / "bin")
    for link in ("python", "python3"):
        (local / "bin" / link).symlink_to(version)
    shutil.copy2(BUNDLE, root / BUNDLE.relative_to("/"))
    subprocess.run(["chroot", root, "ldconfig"], check=True)
    buildah("bud", "--format", "docker", "--tag", name, "--file", "-", folder, input=STAND_IN)


def build_image(context, target, name):
    """Layers are kept, so that only what changed is built again."""
    options = ["--format", "docker", "--pull-never", "--layers", "--target", target]
    buildah("bud", *options, "--tag", name, context)


def image_config(name):
    return json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]


@contextmanager
def container(image):
    name = buildah("from", "--pull-never", image).strip()
    try:
        yield name
    finally:
        buildah("rm", name)
