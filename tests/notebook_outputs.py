"""What an executed notebook shows: its text, and its figures with their alt texts."""


def printed_text(notebook) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


def figure_alts(notebook) -> list[str | None]:
    """The alt text of each figure; None for a figure without one."""
    data = ((output.get("data", {}), output.get("metadata", {})) for output in outputs(notebook))
    return [metadata.get("image/png", {}).get("alt") for d, metadata in data if "image/png" in d]


def outputs(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]
