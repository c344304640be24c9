"""`redaes report`: the results of a run as a page for people, a table and a JSON file."""

import sys


def report(run: str) -> int:
    """Write report.html, results.md and results.json into a run folder; parts that are missing are said to be.

    Args:
        run: the folder of a run: data/, sft/, calibration/, grpo/, evaluation/ and run.json, as far as they exist.

    Returns:
        The exit code, 0.

    Raises:
        UserError: not a run folder, a damaged part, or a folder that cannot be written to.
    """
    from redaes.evaluation.report import write_report

    page = write_report(run)
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)
    return 0
