"""An interrupt as a line for users."""


def one_line_interrupt(message: str) -> KeyboardInterrupt:
    """A KeyboardInterrupt that IPython shows as one line, without a traceback.

    Not a subclass: Python ends a script with the signal's exit code only for the exact type.
    """
    error = KeyboardInterrupt(message)
    error._render_traceback_ = lambda: [message]
    return error
