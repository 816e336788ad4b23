"""Run scripts as cells in a real Jupyter kernel, as VS Code and Jupyter do."""

import json

import ipykernel_launcher
import jupytext
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from running import ENV, PYTHON


def cells_of(script):
    """The cells of the script, split as VS Code and jupytext split it."""
    cells = jupytext.read(script, fmt="py:percent").cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def run_cells(cells, folder, *, python=PYTHON, tmp, env=ENV, **options):
    """Run the cells in a kernel of PYTHON whose folder is FOLDER; return the notebook.

    The first cell that raises ends it, as "Run All" does. If PYTHON is a fork, the kernel has
    imported matplotlib already, so the backend of notebooks is chosen here.
    """
    spec = tmp / "kernels" / "lessons" / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    argv = [str(python), ipykernel_launcher.__file__, "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "lessons", "language": "python"}))
    specs = KernelSpecManager(kernel_dirs=[str(tmp / "kernels")])
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in ["%matplotlib inline", *cells]])
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="lessons", kernel_spec_manager=specs),
        resources={"metadata": {"path": str(folder)}},
        timeout=300,
        **options,
    )
    client.execute(env=env, cleanup_kc=True)
    return notebook


def printed(notebook, stream="stdout"):
    """What the cells printed, in one text."""
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    return "".join(each.text for each in outputs if each.get("name") == stream)
