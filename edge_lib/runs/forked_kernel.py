"""Kernels of papermill that are forked from this process, with all that it has imported.

papermill starts a kernel through jupyter_client, which asks a provisioner for the process. Here it
is a fork instead of a new Python; everything else is jupyter_client's.
"""

import ast
import asyncio
import os
import sys
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import ipykernel_launcher
import nbformat
from ipykernel.kernelapp import IPKernelApp
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

COMMAND = [sys.executable, "-m", "ipykernel_launcher"]
forked = False  # whether this process is such a kernel


def prepare_kernels(notebook: Path) -> None:
    """Import what a notebook imports. Kernels of processes forked from this one are forks, too."""
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type == "code":
            _run_imports(cell.source)
    ForkingFactory.instance()  # and so the instance of its base class


def _run_imports(source: str) -> None:
    """Run the import statements of a cell. Errors are left to the cell."""
    with suppress(SyntaxError):
        code = TransformerManager().transform_cell(source)  # magic commands become calls
        for node in ast.parse(code).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                with suppress(Exception, SystemExit):
                    exec(compile(ast.Module([node], []), "<imports>", "exec"), {})


class ForkingFactory(KernelProvisionerFactory):
    """Creates provisioners that fork."""

    def create_provisioner_instance(self, kernel_id, kernel_spec, parent):
        options = {"kernel_id": kernel_id, "kernel_spec": kernel_spec, "parent": parent}
        return ForkingProvisioner(**options)


class ForkingProvisioner(LocalProvisioner):
    """Forks a kernel whose command would start this Python's ipykernel; starts any other."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        if cmd[: len(COMMAND)] != COMMAND:
            return await super().launch_kernel(cmd, **kwargs)
        arguments = [*cmd[len(COMMAND) :], f"--IPKernelApp.parent_handle={os.getpid()}"]
        process = get_context("fork").Process(
            target=_run_kernel, args=(arguments, kwargs["env"], kwargs.get("cwd"))
        )
        process.start()
        self.process = _ForkedProcess(process)
        self.pid = self.pgid = process.pid
        return self.connection_info


class _ForkedProcess:
    """The part of subprocess.Popen that provisioners use."""

    stdin = stdout = stderr = None

    def __init__(self, process: BaseProcess):
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _run_kernel(arguments: list[str], env: dict[str, str], cwd: str | Path | None) -> None:
    global forked
    forked = True
    os.setsid()  # papermill signals a kernel's process group
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd or ".")
    KernelProvisionerFactory.clear_instance()
    asyncio.set_event_loop(asyncio.new_event_loop())  # papermill's would already be running
    sys.argv = [ipykernel_launcher.__file__, *arguments]
    IPKernelApp.launch_instance(arguments)
