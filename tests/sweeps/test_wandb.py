"""What W&B is told of a sweep, and the line that its agent makes of it."""

from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from redaes.presets import resolve_config
from redaes.sweeps.plan import load_sweep, registered

WORDS = ["--output", "runs/x", "--set", "photos=a b", "--jobs", "2", "--quick"]


def test_the_agents_line_does_what_was_asked_for() -> None:
    document = registered(load_sweep(resolve_config("sweeps/table6.yaml"), "redaes-2b"), ["n4"], range(2), WORDS)
    assert document["parameters"]["run"] == {"values": ["n4"]}
    assert document["parameters"]["seed"] == {"values": [0, 1]}
    chosen = {"run": "n4", "seed": 1, **{key: document["parameters"][key]["value"] for key in ("preset", "rows")}}
    filled = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    line = [
        word
        for part in create_sweep_command(document["command"])
        for word in ([part], filled["args"])[part == "${args}"]
    ]
    expected = [*WORDS, "--run=n4", "--seed=1", "--preset=redaes-2b", "--rows=sweeps/rows.yaml"]
    assert line == ["${env}", "redaes", "sweep", "sweeps/table6.yaml", "--wandb", *expected]


def test_without_wishes_the_file_is_told_as_it_stands() -> None:
    sweep = load_sweep(resolve_config("sweeps/table2.yaml"))
    assert registered(sweep, list(sweep.rows), sweep.seeds, []) == sweep.document
