"""Holds sweep files against W&B's own schema: `nox -s sweeps`, in an environment with the package `sweeps`."""

import sys
from pathlib import Path

import yaml


def main(folder: Path) -> int:
    """Check every file, and that a fault would be noticed; the exit code."""
    from sweeps.config.cfg import SweepConfig, schema_violations_from_proposed_config

    wrong = 0
    files = sorted(folder.glob("table*.yaml"))
    for file in files:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        violations = schema_violations_from_proposed_config(document)
        if not violations:
            SweepConfig(document)
        wrong += bool(violations)
        print(f"{file.name}: {'; '.join(violations) or 'valid'}")
        if not schema_violations_from_proposed_config({**document, "method": "gird"}):
            raise SystemExit("the schema takes a method that there is not")
    return 0 if files and not wrong else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
