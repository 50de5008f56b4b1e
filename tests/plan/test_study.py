"""The notebook: executed from start to end, and every output is the one that is stored."""

from pathlib import Path
from typing import Any

import nbformat.v4
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "study" / "from-dmesg-to-decision.ipynb"


def outputs(notebook: Any) -> list[str]:
    """What each code cell printed; anything but printed text fails."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert all(
                output.output_type == "stream" and output.name == "stdout"
                for output in cell.outputs
            )
            texts.append("".join(output.text for output in cell.outputs))
    return texts


def test_the_study_says_what_it_said() -> None:
    read: Any = nbformat.v4.reads
    notebook = read(NOTEBOOK.read_text(encoding="utf-8"))
    stored = outputs(notebook)
    assert len(stored) >= 6
    assert all(stored)
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    assert outputs(notebook) == stored
