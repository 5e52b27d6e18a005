"""Sessions of onnxruntime on the CPU, without torch."""

from pathlib import Path

from onnxruntime import InferenceSession, SessionOptions


def make_session(path: Path, threads: int = 0) -> InferenceSession:
    """threads: within an operation; 0 for one a core."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns of inputs that have a default
    # threads that wait busily slow each other down on a machine that other programs use as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])
