"""Open editing models in this process: any image-editing pipeline of diffusers.

In: a picture and an instruction. Out: the edited picture at the source's size. Covered by name are Qwen-Image-Edit and
-Plus, FLUX.2 and its Klein, LongCat-Image-Edit, FLUX Kontext and InstructPix2Pix; another pipeline that takes `image`
and `prompt` works as well. What is done so that they all behave alike:

- The picture is scaled to the area that the model works at (`pixels`), its sides multiples of 32, and the result is
  asked for at that size and scaled back. Left alone, FLUX.2 crops to multiples of 16, and Kontext answers in squares.
- Noise is drawn on the CPU by a generator seeded for each edit: same picture, instruction and seed, same noise on any
  device, and on the same CPU the same pixels.
- Qwen-Image-Edit applies its guidance only beside a negative prompt, and says nothing where there is none: a blank one
  is given, as its authors do.

The weights are read at the first edit, from safetensors alone. A pipeline is kept for the life of the process, is
shared by editors with the same weights, and makes one edit at a time, whatever the number of threads.
"""

import inspect
import threading
from importlib.util import find_spec
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from redaes.calls import Declined, Usage, note
from redaes.chat.local import fingerprint
from redaes.editors.answers import at_size
from redaes.errors import UserError, nearest
from redaes.registry import require

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.records import Instruction

DTYPES = ("float32", "bfloat16", "float16")
OFFLOADS = ("none", "model", "sequential")
QUANTIZATIONS = ("none", "8bit", "4bit")
MULTIPLE = 32
"""Sides are multiples of this; what every pipeline's own rounding leaves alone."""

NAMED = {"Flux2Pipeline", "Flux2KleinPipeline", "FluxKontextPipeline", "StableDiffusionInstructPix2PixPipeline"}
"""Editing pipelines whose names do not say so."""

QUANTISED = {"transformer", "unet", "text_encoder", "text_encoder_2"}
"""Components that hold nearly all of the weights; the autoencoder stays as it is."""

CONTROL = "<|"
"""Begins the control tokens of most text encoders; an instruction is text and nothing else."""

RESERVED = {"image", "prompt", "generator", "width", "height", "output_type", "return_dict", "num_images_per_prompt"}
"""Arguments of a pipeline's call that are the editor's own business."""


class Weights(NamedTuple):
    """What a loaded pipeline is told apart by."""

    pipeline: str
    model: str
    revision: str | None
    dtype: str
    device: str
    offload: str
    quantization: str
    trust_remote_code: bool


_loaded: dict[Weights, Any] = {}
_one_at_a_time = threading.Lock()


class DiffusersEditor:
    """`diffusers`: edits by a pipeline of diffusers in this process.

    Args:
        pipeline: name of the class, such as `QwenImageEditPipeline`.
        model: a folder in diffusers' layout, or an id of the hub.
        revision: of the model on the hub: a commit or a tag, so that it stays the same.
        dtype: of the weights: float32, bfloat16 or float16.
        device: such as `cuda`, `cuda:1` or `cpu`; `auto`: a GPU if there is one.
        offload: what waits in main memory while it is not used: `none`, the `model`s whose turn it is not, or all but
            one layer (`sequential`), slower and smaller in this order.
        quantization: of transformer and text encoder by bitsandbytes while they are loaded: none, 8bit or 4bit (NF4).
        steps: of denoising; None: the pipeline's own.
        guidance: how closely the instruction is followed; None: the pipeline's own.
        pixels: the area at which the model works; None: the source's.
        call: more arguments of the pipeline's call, such as `{image_guidance_scale: 1.5}`.
        trust_remote_code: run Python code that lies beside the weights.
        endpoint: name that limits are set for. One edit is made at a time whatever they say; those that wait for it
            take the place of other calls.
        name: under which edits are recorded; None: the last part of `model`.

    Raises:
        UserError: a setting that cannot be.
    """

    def __init__(
        self,
        pipeline: str,
        model: str,
        revision: str | None = None,
        dtype: str = "bfloat16",
        device: str = "auto",
        offload: str = "none",
        quantization: str = "none",
        steps: int | None = None,
        guidance: float | None = None,
        pixels: int | None = 1024 * 1024,
        call: dict[str, Any] | None = None,
        trust_remote_code: bool = False,
        endpoint: str = "local",
        name: str | None = None,
    ) -> None:
        require("diffusers")
        self.model = Path(model).name
        self.name = name or self.model
        self.digest = fingerprint(Path(model))
        self.endpoint = endpoint
        for setting, value, known in (
            ("dtype", dtype, DTYPES),
            ("offload", offload, OFFLOADS),
            ("quantization", quantization, QUANTIZATIONS),
        ):
            if value not in known:
                raise UserError(f"unknown {setting} {value!r} of editor {self.name!r} ({nearest(value, known)})")
        if steps is not None and steps < 1:
            raise UserError(f"editor {self.name!r}: steps is {steps}; it takes at least 1")
        if pixels is not None and pixels < MULTIPLE**2:
            raise UserError(f"editor {self.name!r}: pixels is {pixels}; it takes at least {MULTIPLE**2}")
        if taken := RESERVED & set(call or {}):
            raise UserError(f"editor {self.name!r}: {', '.join(sorted(taken))} in call cannot be set")
        self.weights = Weights(pipeline, model, revision, dtype, device, offload, quantization, trust_remote_code)
        self.steps = steps
        self.guidance = guidance
        self.pixels = pixels
        self.call = dict(call or {})

    def identity(self, role: str) -> dict[str, Any]:
        """What an edit depends on beside picture, instruction and seed."""
        weights = self.weights
        return {
            "model": self.model,
            "weights": self.digest or f"{weights.model}@{weights.revision or 'main'}",
            "pipeline": weights.pipeline,
            "dtype": weights.dtype,
            "quantization": weights.quantization,
            "steps": self.steps,
            "guidance": self.guidance,
            "pixels": self.pixels,
            "call": self.call,
        }

    def largest_usage(self, role: str) -> Usage:
        """One picture; it costs no money."""
        return Usage(images=1)

    def edit(self, image: "Image", instruction: "Instruction", seed: int) -> "Image":
        """Carry out an instruction.

        Args:
            image: RGB.
            instruction: its text is the prompt.
            seed: of the noise, in [0, 2**63).

        Returns:
            RGB at the source's size.

        Raises:
            Declined: the instruction has control tokens in it, or the pipeline's safety checker blackened the result.
            UserError: the weights cannot be loaded, or do not fit into memory.
        """
        import torch

        if CONTROL in instruction.text:
            raise Declined(f"{self.name}: the instruction contains {CONTROL!r}, which would steer the text encoder")
        size = working_size(image.size, self.pixels)
        with _one_at_a_time:
            if self.weights not in _loaded:
                _loaded[self.weights] = load(self.weights)
            pipeline = _loaded[self.weights]
            arguments = self._arguments(pipeline, size)
            generator = torch.Generator("cpu").manual_seed(seed)
            try:
                made = pipeline(image=at_size(image, size), prompt=instruction.text, generator=generator, **arguments)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"editor {self.name!r} does not fit into the GPU's memory; set offload: model, or quantization"
                ) from error
        note("", model=self.model, images=1)
        if any(getattr(made, "nsfw_content_detected", None) or []):
            raise Declined(f"{self.name}: the safety checker of the pipeline blackened the result")
        return at_size(made.images[0], image.size)

    def _arguments(self, pipeline: Any, size: tuple[int, int]) -> dict[str, Any]:
        """What the pipeline is called with beside picture, prompt and noise."""
        takes = inspect.signature(pipeline.__call__).parameters
        arguments: dict[str, Any] = {"width": size[0], "height": size[1]} if "width" in takes else {}
        if self.steps is not None:
            arguments["num_inference_steps"] = self.steps
        qwen = self.weights.pipeline.startswith("QwenImage")
        if self.guidance is not None:
            arguments["true_cfg_scale" if qwen else "guidance_scale"] = self.guidance
        if qwen and (self.guidance is None or self.guidance > 1):
            arguments["negative_prompt"] = " "
        for key in self.call:
            if key not in takes:
                known = nearest(key, set(takes) - RESERVED - {"kwargs"})
                raise UserError(f"editor {self.name!r}: {self.weights.pipeline} takes no {key!r} ({known})")
        return {**arguments, **self.call}


def working_size(size: tuple[int, int], pixels: int | None) -> tuple[int, int]:
    """The size nearest to an area with the same aspect, and with sides that are multiples of `MULTIPLE`.

    Args:
        size: width and height in pixels.
        pixels: the area; None: that of `size`.

    Example:
        >>> working_size((512, 512), 1024 * 1024), working_size((112, 112), None), working_size((900, 600), 512 * 512)
        ((1024, 1024), (128, 128), (640, 416))
    """
    width, height = size
    scale = 1.0 if pixels is None else sqrt(pixels / (width * height))
    return (
        max(1, int(width * scale / MULTIPLE + 0.5)) * MULTIPLE,
        max(1, int(height * scale / MULTIPLE + 0.5)) * MULTIPLE,
    )


def load(weights: Weights) -> Any:
    """The pipeline, ready to be called.

    Raises:
        UserError: no such class, weights that are missing or not safetensors, or a device that is not there.
    """
    import diffusers
    import torch

    kind = _pipeline_class(diffusers, weights.pipeline)
    device = weights.device if weights.device != "auto" else _accelerator()
    for setting in ("offload", "quantization"):
        if getattr(weights, setting) != "none" and torch.device(device).type == "cpu":
            raise UserError(f"{setting}: {getattr(weights, setting)} of {weights.model!r} needs a GPU; device is cpu")
    try:
        pipeline = _from_pretrained(kind, weights, getattr(torch, weights.dtype))
    except Exception as error:
        # Loaders of several libraries raise almost anything; whatever it was, these weights cannot be used.
        said = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"cannot load {weights.model!r} as {weights.pipeline}: {type(error).__name__}: {said}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline.text_encoder.config, "image_token_id"):
        pipeline.text_encoder.register_forward_pre_hook(_say_where_the_image_is, with_kwargs=True)
    if weights.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif weights.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return pipeline


def _from_pretrained(kind: Any, weights: Weights, dtype: Any) -> Any:
    options = {"dtype": dtype, "revision": weights.revision, "trust_remote_code": weights.trust_remote_code}
    if weights.quantization != "none":
        options["quantization_config"] = _quantization(
            weights.quantization, dtype, set(inspect.signature(kind).parameters)
        )
    parts = {} if find_spec("torchvision") else _processors(kind, weights)
    # A bare tokenizer in the place of a processor is refused as an argument, and taken afterwards.
    later = {name: part for name, part in parts.items() if not hasattr(part, "image_processor")}
    given = {name: None if name in later else part for name, part in parts.items()}
    pipeline = kind.from_pretrained(weights.model, use_safetensors=True, **options, **given)
    pipeline.register_modules(**later)
    return pipeline


def _say_where_the_image_is(encoder: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Add `mm_token_type_ids` to a call of Qwen2.5-VL.

    transformers 5 places image tokens in two dimensions by them, and in a line without. The pipelines of
    Qwen-Image-Edit and LongCat leave them out (diffusers issue 14194).
    """
    if kwargs.get("image_grid_thw") is not None and "mm_token_type_ids" not in kwargs:
        kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == encoder.config.image_token_id).int()
    return args, kwargs


def _pipeline_class(diffusers: Any, name: str) -> Any:
    kind = getattr(diffusers, name, None) if name.endswith("Pipeline") else None
    takes = inspect.signature(kind.__call__).parameters if inspect.isclass(kind) else {}
    if not {"image", "prompt", "generator"} <= set(takes):
        editing = [n for n in dir(diffusers) if n.endswith("Pipeline") and ("Edit" in n or n in NAMED)]
        raise UserError(f"{name!r} is no image-editing pipeline of diffusers ({nearest(name, editing)})")
    return kind


def _processors(kind: Any, weights: Weights) -> dict[str, Any]:
    """The processors of a pipeline, made of what it uses of them, where transformers' own cannot be had.

    The whole ones need torchvision. Qwen-Image-Edit and LongCat use tokenizer and image processor, for which Pillow
    does; FLUX.2 uses the tokenizer alone.
    """
    from transformers import AutoTokenizer, ProcessorMixin, Qwen2VLImageProcessorPil, Qwen2VLProcessor

    class ImageAndText(Qwen2VLProcessor):
        # transformers reads the parts of a processor off the arguments of its constructor.
        def __init__(self, image_processor: Any = None, tokenizer: Any = None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer)

    made: dict[str, Any] = {}
    for part, parameter in inspect.signature(kind).parameters.items():
        where = {"subfolder": part, "revision": weights.revision}
        if "AutoProcessor" in str(parameter.annotation):
            made[part] = AutoTokenizer.from_pretrained(weights.model, **where)
        elif "Qwen2VLProcessor" in str(parameter.annotation):
            tokenizer = AutoTokenizer.from_pretrained(weights.model, **where)
            made[part] = ImageAndText(Qwen2VLImageProcessorPil.from_pretrained(weights.model, **where), tokenizer)
    return made


def _accelerator() -> str:
    import torch

    found = torch.accelerator.current_accelerator()
    return found.type if found else "cpu"


def _quantization(bits: str, dtype: Any, parts: set[str]) -> Any:
    from diffusers import PipelineQuantizationConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return PipelineQuantizationConfig(
        quant_backend=f"bitsandbytes_{bits}",
        quant_kwargs=four if bits == "4bit" else {"load_in_8bit": True},
        components_to_quantize=sorted(QUANTISED & parts),
    )
