"""`redaes app`: the web page on this computer."""

import sys
from pathlib import Path

from redaes.errors import UserError


def app(
    model: str = "nano",
    port: int = 7860,
    data: str | None = None,
    run: str | None = None,
    open: bool = False,
    device: str | None = None,
) -> int:
    """Serve a web page on 127.0.0.1: score and rank photographs, compare two, ask what would help one.

    With --data and --run it also browses a dataset and shows a run's curves and completions. Nothing leaves this
    computer; what was uploaded is deleted when the page is closed.

    Args:
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        port: where the page is: http://127.0.0.1:PORT.
        data: folder of a dataset that `redaes data build` made. Default: the one of --run, if there is one.
        run: folder of a run that `redaes run` made.
        open: open the page in the browser.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.

    Returns:
        The exit code, 0.

    Raises:
        UserError: a port that is taken, a model that cannot be loaded, no dataset or no run where one was named.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port is {port}; it must be from 1 to 65535")
    if data is None and run is not None and (Path(run) / "data" / "manifest.json").is_file():
        data = f"{run}/data"
    from redaes.app.server import serving, wait
    from redaes.inference.scorer import Scorer

    folders = {"data": Path(data) if data else None, "run": Path(run) if run else None}
    with serving(Scorer(model, device=device), port=port, **folders) as address:
        print(f"the page is at {address} (Ctrl-C closes it)", file=sys.stderr)
        if open:
            import webbrowser

            webbrowser.open(address)
        wait()
    return 0
