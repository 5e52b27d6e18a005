"""An interrupt of papermill interrupts the cell that runs, as in JupyterLab.

papermill itself would shut the kernel down, which hides what the cell says at its end, such as that
a job of Slurm is cancelled.
"""

import os
import signal
import sys
import threading

from papermill.clientwrap import PapermillNotebookClient

from edge_lib.runs.interrupts import one_line_interrupt

_execute_cells = PapermillNotebookClient.papermill_execute_cells


def execute_cells(client: PapermillNotebookClient) -> None:
    """papermill's, in which SIGINT interrupts the kernel; a second one ends papermill itself.

    KeyboardInterrupt with the line of the cell, once the notebook is written.
    """
    default, thread = signal.default_int_handler, threading.current_thread()
    if signal.getsignal(signal.SIGINT) is not default or thread is not threading.main_thread():
        return _execute_cells(client)

    def interrupt(*_) -> None:
        signal.signal(signal.SIGINT, default)
        os.killpg(client.km.provisioner.pgid, signal.SIGINT)

    signal.signal(signal.SIGINT, interrupt)
    try:
        _execute_cells(client)
        interrupted = signal.getsignal(signal.SIGINT) is default
    finally:
        signal.signal(signal.SIGINT, default)
    outputs = [output for cell in client.nb.cells for output in cell.get("outputs", ())]
    errors = [output for output in outputs if output.output_type == "error"]
    if interrupted and errors:
        line = errors[-1].evalue or "interrupted"
        print(f"\n{line}", file=sys.stderr)  # below the bar
        raise one_line_interrupt(line)
