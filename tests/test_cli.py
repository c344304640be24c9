"""The command line: light, forgiving in form, and one line long when something is wrong."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from redaes import Scorer
from redaes.cli import COMMANDS, main
from redaes.commands.plugin_arguments import name_plugins, plain_plugins

HEAVY = {"torch", "transformers", "diffusers", "lightning"}


def redaes(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "redaes", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error of a command that must fail with exit code 2 and one line."""
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["score", "--help"],
        ["serve", "--help"],
        ["data", "--help"],
        ["data", "status", "nowhere"],
        ["data", "report", "nowhere"],
        ["plugins", "list"],
        ["plugins", "list", "--format", "json"],
        ["run", "--help"],
    ],
)
def test_light_commands_import_no_heavy_library(words: list[str]) -> None:
    code = (
        "import sys\nfrom redaes.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', sorted({HEAVY} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "HEAVY []"


def test_help_is_there_at_once() -> None:
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        result = redaes("--help")
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.7
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("fit", "validate", "test", "predict")])
def test_every_command_has_help_made_of_its_docstring(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: redaes {name}" in shown
    assert "Args:" not in shown


def test_version_is_the_package_s() -> None:
    assert redaes("--version").stdout == "redaes 0.1.0\n"


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'scor' (did you mean 'score'?" in one_line(capsys, "scor", "a.jpg")
    assert "unknown command 'plugins lst' (did you mean 'list'?" in one_line(capsys, "plugins", "lst")
    assert "write redaes COMMAND --model" in one_line(capsys, "--model", "x")


def test_an_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    line = one_line(capsys, "score", "a.jpg", "--batch_sise", "3")
    assert "unknown option '--batch_sise' (did you mean '--batch_size'?" in line


def test_a_value_of_the_wrong_type_is_named_with_what_would_be_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(capsys, "score", "a.jpg", "--batch-size", "x").endswith("batch_size is 'x'; it must be int or null")
    assert "top is 'many'; it must be int or null" in one_line(capsys, "rank", ".", "--top", "many")
    assert "'jsonl', 'csv', 'parquet'" in one_line(capsys, "score", "a.jpg", "--format", "yaml")


def test_a_missing_argument_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: paths" in one_line(capsys, "score")


def test_debug_adds_the_traceback() -> None:
    plain, debug = redaes("score", "nowhere.jpg"), redaes("score", "nowhere.jpg", "--debug")
    assert (plain.returncode, debug.returncode) == (2, 2)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert plain.stderr.splitlines()[-1] == debug.stderr.splitlines()[-1]


def test_an_interruption_is_one_word_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "interrupting.py").write_text("def command():\n    '''Stops.'''\n    raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "stop", COMMANDS["doctor"]._replace(target="interrupting:command"))
    assert main(["stop"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_goes_away_is_no_crash() -> None:
    writer = subprocess.Popen(
        [sys.executable, "-u", "-m", "redaes", "plugins", "list", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    writer.stdout.close()
    assert writer.stderr is not None
    assert "Traceback" not in writer.stderr.read()
    assert writer.wait(60) == 1


def test_plugins_are_listed_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    (row,) = [row for row in rows if (row["kind"], row["name"]) == ("rewards", "rrc")]
    assert row["package"] == "redaes"
    assert {"kind", "name", "package", "version", "ok", "error"} <= set(row)


def test_doctor_says_that_a_key_is_set_but_never_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    for form in ("json", "table"):
        assert main(["doctor", "--format", form]) == 0
        shown = capsys.readouterr().out
        assert "very-secret" not in shown
        if form == "json":
            facts = json.loads(shown)
            assert facts["keys"]["OPENAI_API_KEY"] is True
            assert facts["keys"]["ANTHROPIC_API_KEY"] is False
            assert facts["packages"]["torch"]
            assert facts["devices"][0]["name"] == "cpu"


def test_a_new_plugin_needs_a_known_kind_a_plain_name_and_a_free_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--folder", str(tmp_path)]
    assert "did you mean 'reward'?" in one_line(capsys, "plugins", "new", "rewrd", "mine", *folder)
    assert "cannot be a plug-in's name" in one_line(capsys, "plugins", "new", "reward", "../mine", *folder)
    assert main(["plugins", "new", "reward", "mine", *folder]) == 0
    capsys.readouterr()
    assert "exists" in one_line(capsys, "plugins", "new", "reward", "mine", *folder)


# --- fit: LightningCLI with plug-ins. The module is the test's own, so that nothing heavy runs. ----

MODULE = """
from lightning.pytorch import LightningDataModule, LightningModule
from redaes.registry import PluginSpec, create

class Tiny(LightningModule):
    def __init__(self, reward: PluginSpec = "rrc", k: int = 6, folder: str = "") -> None:
        super().__init__()
        self.reward = create("rewards", reward)
        self.k, self.folder = k, folder

    def fit_me(self):
        settings = {key: value for key, value in vars(self.reward).items() if not key.startswith("_")}
        print("MADE", type(self.reward).__name__, settings, self.k, self.folder)

    def configure_optimizers(self):
        return None

    def on_fit_start(self):
        self.fit_me()

    def training_step(self, batch, index):
        return None

class Numbers(LightningDataModule):
    def __init__(self, batch_size: int = 1) -> None:
        super().__init__()

    def train_dataloader(self):
        return [0]
"""

BASE = """
model:
  class_path: tiny.Tiny
  init_args:
    reward: {class_path: rrc, init_args: {tau: 1.0}}
    folder: ${trainer.default_root_dir}/here
data: {class_path: tiny.Numbers}
trainer:
  default_root_dir: base
  max_steps: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.py").write_text(MODULE)
    (tmp_path / "base.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    return tmp_path


def fitted(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the module was made of."""
    assert main(["fit", "--config", "base.yaml", *words]) == 0, capsys.readouterr().err
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("MADE ")]
    return line.removeprefix("MADE ")


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ([], "RelativeRankingConsistency {'tau': 1.0, 'weight': 'abs', 'across': 'g'}"),
        (["--model.reward.tau=0.25"], "RelativeRankingConsistency {'tau': 0.25, 'weight': 'abs', 'across': 'g'}"),
        (["--model.reward.init_args.tau=0.25"], "RelativeRankingConsistency {'tau': 0.25,"),
        (["--model.init_args.reward.init_args.tau=0.25"], "RelativeRankingConsistency {'tau': 0.25,"),
        (["--model.reward.tau=0.25", "--model.reward.weight=tanh"], "{'tau': 0.25, 'weight': 'tanh', 'across': 'g'}"),
        (["--model.reward=mae"], "MeanAbsoluteError {}"),
        (["--model.reward", "rapo", "--model.reward.width=3"], "Rapo {'width': 3}"),
        (["--model.reward={class_path: rapo, init_args: {width: 2.0}}"], "Rapo {'width': 2.0}"),
        (["--model.reward=redaes.rewards.Rapo"], "Rapo {'width': 1.0}"),
    ],
)
def test_plugins_go_by_name_and_their_settings_are_overridden(
    tiny: Path, capsys: pytest.CaptureFixture[str], words: list[str], made: str
) -> None:
    assert made in fitted(capsys, *words)


def test_later_configurations_win_and_interpolations_see_the_outcome(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTPUTS", "k_of_env")
    (tiny / "second.yaml").write_text(
        "model: {init_args: {reward: mae, k: 3}}\ntrainer: {default_root_dir: '${oc.env:OUTPUTS}'}\n"
    )
    assert fitted(capsys, "--config", "second.yaml") == "MeanAbsoluteError {} 3 k_of_env/here"
    assert fitted(capsys, "--trainer.default_root_dir=elsewhere").endswith("6 elsewhere/here")


def test_a_setting_of_a_plugin_named_in_a_file_is_overridden(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "second.yaml").write_text("model: {init_args: {reward: rapo}}\n")
    assert fitted(capsys, "--config=second.yaml", "--model.reward.width=4").startswith("Rapo {'width': 4}")


def test_the_saved_configuration_makes_the_same_again(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = fitted(capsys, "--model.reward.tau=0.5", "--trainer.default_root_dir=saved")
    assert fitted(capsys, "--config", "saved/config.yaml") == first


def test_a_run_with_a_folder_is_continued_without_being_configured_for_it(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--config", "base.yaml", "--trainer.enable_checkpointing=true", "--trainer.max_epochs=1"]

    def said(*more: str) -> str:
        assert main([*words, *more]) == 0
        return capsys.readouterr().err

    assert "continuing" not in said()
    (written,) = (tiny / "base" / "checkpoints").iterdir()
    assert f"continuing from base/checkpoints/{written.name} (--fresh starts over)\n" in said()
    assert "continuing" not in said("--trainer.fast_dev_run=1")
    assert "continuing" not in said("--fresh")
    written.write_bytes(b"")
    assert "starting from the beginning" in said()


def test_the_time_between_checkpoints_is_a_setting(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = "{class_path: redaes.training.checkpoints.Checkpoints, init_args: {train_time_interval: '00:02:30'}}"
    (tiny / "second.yaml").write_text(f"trainer: {{enable_checkpointing: true, callbacks: [{settings}]}}\n")
    fitted(capsys, "--config", "second.yaml", "--trainer.max_epochs=1")
    assert "train_time_interval: 0:02:30" in (tiny / "base" / "config.yaml").read_text().replace("'", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.reward=rrk"], "unknown reward 'rrk' (did you mean 'rrc'?"),
        (["--model.reward.tua=1"], "reward 'rrc' has no setting 'tua' (did you mean 'tau'?"),
        (["--model.reward.tau=warm"], "'tau' of reward 'rrc' is 'warm'; it must be float"),
        (["--model.kk=3"], "unknown key 'kk' (did you mean 'k'?"),
        (["--trainer.max_step=3"], "unknown option '--trainer.max_step' (did you mean '--trainer.max_steps'?"),
        (["--trainer.max_steps=many"], "trainer.max_steps is 'many'; it must be int"),
        (["--model=GRPOO"], "unknown model 'GRPOO' (did you mean 'GRPO'?"),
        (["--data=GroupDat"], "unknown data 'GroupDat' (did you mean 'GroupData'?"),
        (["--trainer.callbacks+=Nothing"], "trainer.callbacks: there is no class 'Nothing'"),
        (["--config", "nano/sftt.yaml"], "no configuration file 'nano/sftt.yaml' (did you mean 'nano/sft.yaml'?"),
        (["--trainer.default_root_dir=/proc/x"], "cannot write to /proc/x"),
    ],
)
def test_a_bad_configuration_is_one_line(
    tiny: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in one_line(capsys, "fit", "--config", "base.yaml", *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {init_args: {k: 3}}", "unknown key 'modle' (did you mean 'model'?"),
        ("model: {init_args: {kk: 3}}", "unknown key 'kk' (did you mean 'k'?"),
        ("trainer: {max_step: 3}", "unknown key 'trainer.max_step' (did you mean 'trainer.max_steps'?"),
        ("trainer: {default_root_dir: '${trainer.nowhere}'}", "Interpolation key"),
        ("model: [1", "Problems parsing"),
    ],
)
def test_a_bad_file_is_one_line(tiny: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (tiny / "bad.yaml").write_text(text)
    assert message in one_line(capsys, "fit", "--config", "base.yaml", "--config", "bad.yaml")


def test_the_name_of_a_plugin_is_put_before_the_first_of_its_settings_only() -> None:
    words = ["--model.reward=rapo", "--model.reward.width=3", "--model.reward.width=4"]
    assert name_plugins(words, {"model": [], "data": []}) == [
        "--model.reward=rapo",
        "--model.reward.class_path=rapo",
        "--model.reward.width=3",
        "--model.reward.width=4",
    ]


def test_classes_of_libraries_keep_their_form() -> None:
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "x"}}
    dotted = {"class_path": "my.Reward", "init_args": {"a": 1}}
    assert plain_plugins([logger, dotted]) == [logger, dotted]


ENDING = """
import atexit, sys
from redaes import cli
class Lasting:
    def __del__(self, write=sys.stderr.write):
        write("taken apart")
lasting = Lasting()
lasting.itself = lasting
atexit.register(print, "cleaned up")
def answer(words):
    atexit.register(print, "cleaned up at last")
    sys.stdout.write("answer ")
    if "fault" in words:
        raise ZeroDivisionError
    return 3
cli._dispatch = answer
sys.argv[0] = "redaes"
sys.exit(cli.process())
"""


def ended(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ENDING, *words], check=False, capture_output=True, text=True)


def test_a_command_that_answers_ends_without_taking_its_objects_apart() -> None:
    done = ended("score", "a.jpg")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "answer cleaned up at last\n"  # what was registered before is not of the command's


@pytest.mark.parametrize("words", [("fit", "a.yaml"), ("--help",), ()])
def test_other_commands_end_as_processes_do(words: tuple[str, ...]) -> None:
    done = ended(*words)
    assert (done.returncode, done.stderr) == (3, "taken apart")
    assert done.stdout == "answer cleaned up at last\ncleaned up\n"


ALONE = """
import sys
from redaes import cli
end = cli._end
def tell(codes):
    print([name in sys.modules for name in ("transformers", "torch.distributed", "torch.distributed.tensor")])
    end(codes)
cli._end = tell
sys.argv[0] = "redaes"
sys.exit(cli.process())
"""


@pytest.mark.parametrize(("words", "shards"), [((), False), (("--scorer=redaes",), True)])
def test_a_command_that_answers_imports_nothing_for_sharding(
    words: tuple[str, ...], shards: bool, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "a.png")
    command = [sys.executable, "-c", ALONE, "score", str(tmp_path / "a.png"), "--format=jsonl", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row, imported = done.stdout.splitlines()
    (score,) = Scorer("nano").score([tmp_path / "a.png"])
    assert json.loads(row)["score"] == score.value
    assert json.loads(imported.lower()) == [True, True, shards]


def test_a_fault_of_ours_keeps_its_traceback_and_ends_as_processes_do() -> None:
    done = ended("score", "fault")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert done.stdout == "answer cleaned up at last\ncleaned up\n"


@pytest.mark.parametrize("words", [["score", "a.jpg"], ["plugins", "list"]])
def test_a_reader_that_has_gone_is_no_traceback(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    script = ENDING.replace('sys.stdout.write("answer ")', 'print("answer " * 9)')
    done = subprocess.run(
        [sys.executable, "-c", script, *words], check=False, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.returncode == 1
    assert "BrokenPipe" not in done.stderr
