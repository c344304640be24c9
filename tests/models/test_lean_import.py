"""A model is opened without what it does not use, and whoever uses it afterwards finds it whole."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.utils import import_utils

from redaes.models.lean_import import TRIED, _exports, release

UNUSED = ("scipy.optimize", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint", "accelerate")
SCORED = f"""
import sys
import numpy as np
from redaes import Scorer
from redaes.importing import is_imported
scorer = Scorer("nano", device="cpu")
(score,) = scorer.score([np.full((64, 64, 3), 99, np.uint8)])
assert score.value is not None
loaded = [name for name in {UNUSED} if is_imported(name)]
assert not loaded, loaded
"""


TRAIN = """
import sys
from lightning.pytorch import Trainer, seed_everything
from redaes.data.modules import ComparativeData
from redaes.models.vlm import Backbone
from redaes.training.base import Optimisation
from redaes.training.sft import ComparativeSFT
folder, dataset, checkpoint = sys.argv[1:]
seed_everything(1, verbose=False)
module = ComparativeSFT(Backbone(checkpoint, gradient_checkpointing=True), Optimisation(lr=3e-3, warmup=0.0))
trainer = Trainer(default_root_dir=folder, max_steps=2, accelerator="cpu", logger=False, limit_val_batches=0,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(module, ComparativeData(dataset, batch_size=4))
print(float(trainer.callback_metrics["train/loss"]))
"""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_score_needs_no_compiler_no_sharding_and_no_losses_of_detectors():
    run(SCORED + "assert len(sys.modules) < 2400, len(sys.modules)")


def test_a_process_that_has_scored_can_compile_and_disable():
    run(
        SCORED
        + """
import torch, transformers
from transformers.integrations.eager_paged import eager_paged_attention_forward
from transformers.integrations.finegrained_fp8 import _load_finegrained_fp8_kernel
from transformers import masking_utils
import torch._dynamo
assert torch._dynamo is sys.modules["torch._dynamo"] and torch._dynamo.config.recompile_limit > 0
from torch._dynamo import trace_rules
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
assert masking_utils.TransformGetItemToIndex is TransformGetItemToIndex
assert id(_load_finegrained_fp8_kernel) in trace_rules._allowed_callable_ids  # the mark that waited for the compiler
assert eager_paged_attention_forward._torchdynamo_disable

seen = []
@torch.compile(backend=lambda graph, inputs: seen.append(graph) or graph)
def compiled(x):
    return torch.arange(3, device="meta").shape[0] * torch.sin(x) + 1
assert torch.allclose(compiled(torch.ones(2)), 3 * torch.sin(torch.ones(2)) + 1) and len(seen) >= 1

language = scorer.model.model.language_model
embedded = torch.ones(1, 3, language.config.hidden_size)
with torch.no_grad():
    expected = language(inputs_embeds=embedded).last_hidden_state
    torch._dynamo.reset()
    out = torch.compile(language, backend="eager")(inputs_embeds=embedded).last_hidden_state
assert torch.allclose(out, expected, atol=1e-5)

@torch.compile(backend="eager", fullgraph=True)
def broken(x):
    return late(x) + 1
from redaes.models.lean_import import _disable
late = _disable(lambda x: x * 2)
try:
    broken(torch.ones(2))
except torch._dynamo.exc.Unsupported:
    pass
else:
    raise AssertionError("a disabled function was traced")
assert late(torch.ones(2)).tolist() == [2, 2]
"""
    )


def test_a_process_that_has_scored_can_shard_dispatch_and_match():
    run(
        SCORED
        + """
import torch.distributed.tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed._composable.fsdp import fully_shard as composable
import transformers.distributed.fsdp, transformers.distributed.checkpoint, transformers.generation.utils
assert transformers.distributed.fsdp.MixedPrecisionPolicy is MixedPrecisionPolicy
assert transformers.distributed.fsdp.fully_shard is composable
assert transformers.distributed.checkpoint.HuggingFaceStorageReader is HuggingFaceStorageReader
import accelerate, accelerate.utils, accelerate.hooks
assert transformers.integrations.accelerate.dispatch_model is accelerate.dispatch_model
assert transformers.modeling_utils.extract_model_from_parallel is accelerate.utils.extract_model_from_parallel
assert transformers.generation.utils.AlignDevicesHook is accelerate.hooks.AlignDevicesHook
assert accelerate.utils.modeling.clean_device_map is sys.modules["accelerate.utils.modeling"].clean_device_map
from transformers.loss.loss_for_object_detection import linear_sum_assignment
assert linear_sum_assignment([[2, 1], [1, 2]])[1].tolist() == [1, 0] and is_imported("scipy.optimize")

import os, torch.distributed
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
torch.distributed.init_process_group("gloo")
mesh = torch.distributed.init_device_mesh("cpu", (1,))
spread = distribute_tensor(torch.arange(4.0), mesh, [Shard(0)])
assert isinstance(spread, DTensor) and (spread + 1).full_tensor().tolist() == [1, 2, 3, 4]
layer = fully_shard(torch.nn.Linear(2, 2), mesh=mesh, mp_policy=transformers.distributed.fsdp.MixedPrecisionPolicy())
layer(torch.ones(1, 2)).sum().backward()
assert isinstance(layer.weight.grad, DTensor)
torch.distributed.destroy_process_group()
"""
    )


@pytest.mark.slow
def test_a_process_that_has_scored_trains_as_one_that_has_not(tmp_path):
    from benchmarks.resume import write_dataset, write_model

    given = [str(tmp_path), str(write_dataset(tmp_path / "data")), str(write_model(tmp_path / "model"))]
    first, afterwards = run(TRAIN, *given), run(SCORED + TRAIN, *given)
    assert float(first) > 0
    assert first == afterwards


def test_the_package_of_models_knows_all_that_it_would_have_read_itself():
    run(
        """
from redaes.models.lean_import import lean
with lean():
    pass
import transformers.models
from transformers.utils import import_utils
lean_all, objects = set(transformers.models.__all__), transformers.models._class_to_module
structure = import_utils.define_import_structure(transformers.models.__file__)  # really reads
fresh = import_utils._LazyModule("transformers.models", transformers.models.__file__, structure)
assert lean_all == set(fresh.__all__) and len(lean_all) > 1000
assert objects == fresh._class_to_module
assert transformers.models._object_missing_backend == fresh._object_missing_backend
"""
    )


LINES = st.sampled_from(
    [
        "import os",
        "",
        "__all__ = ['a', \"b\"]",
        "__all__ = [",
        '    "c",',
        "]",
        "    __all__ = [1]",
        "x = '__all__'",
        "__all__",
    ]
)


@given(st.lists(LINES).map("\n".join))
@example("__all__ = ['first']\n")
def test_the_names_a_file_exports_are_read_from_its_end_as_from_the_whole(file):
    assert read(_exports(file)) == read(file)


def read(file: str) -> list[str] | type[Exception]:
    try:
        return import_utils.fetch__all__(file)
    except Exception as error:
        return type(error)


def test_patterns_of_weights_are_those_that_would_have_been_compiled():
    run(
        """
import copy, pickle, re
import numpy as np
from redaes import Scorer
scorer = Scorer("nano", device="cpu")
from transformers import conversion_mapping, core_model_loading
from redaes.models.lean_import import _Pattern
assert core_model_loading.re is re
late = conversion_mapping._checkpoint_conversion_mapping_cache
at_once = conversion_mapping._build_checkpoint_conversion_mapping()
assert list(late) == list(at_once)
both = [pair for name in late for pair in zip(late[name], at_once[name], strict=True)]
pairs = [(a.compiled_sources, b.compiled_sources) for a, b in both]
assert len(pairs) > 500
for a, b in pairs:
    assert isinstance(a, _Pattern) and isinstance(b, re.Pattern)
    assert (a.pattern, a.flags, a.groupindex) == (b.pattern, b.flags, b.groupindex)
    again = pickle.loads(pickle.dumps(copy.deepcopy(a)))
    assert (again.pattern, again.search("model.x.weight") is None) == (b.pattern, b.search("model.x.weight") is None)
"""
    )


def test_transformers_is_left_as_it_was():
    run(
        """
from redaes.models.lean_import import lean
with lean():
    pass
from transformers.utils import import_utils
for name in ("fetch__all__", "create_import_structure_from_path"):
    found = getattr(import_utils, name)
    assert getattr(found, "__wrapped__", found).__module__ == import_utils.__name__
assert import_utils.create_import_structure_from_path.cache_parameters()["maxsize"] == 128
"""
    )


def test_other_releases_import_everything():
    run(
        f"""
import importlib.metadata, sys
real = importlib.metadata.version
importlib.metadata.version = lambda name: "5.99.1" if name == "transformers" else real(name)
import numpy as np
from redaes import Scorer
from redaes.importing import is_imported
(score,) = Scorer("nano", device="cpu").score([np.full((64, 64, 3), 99, np.uint8)])
assert score.value is not None
assert all(is_imported(name) for name in {UNUSED[1:]})
"""
    )


def test_the_installed_releases_are_among_those_that_were_tried():
    for library, releases in TRIED.items():
        assert release(version(library)) in releases, f"run this file's tests, and add {library} to TRIED"
