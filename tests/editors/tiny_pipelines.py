"""Image-editing pipelines of diffusers, each of its real class, with tiny random weights, written to a folder.

What is left out is width and depth; classes, call, tokenizers and file layout are those of the published models. Sizes
follow diffusers' own tests. Each takes a second to make.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from redaes.models.nano import nano_config, train_tokenizer

TEXTS = ["Brighten the photograph slightly.", "Make the sky warmer.", "Remove the lamp."]


def written(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


class Absent:
    """In the place of a processor while a pipeline is put together; its folder is written beside the others."""

    image_processor = None


def indexed(folder: Path, **parts: Any) -> Path:
    """The folder with its index changed to name what a published one names: processors that need torchvision."""
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **parts}))
    return folder


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer over single bytes."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def clip_text(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def autoencoder(latent_channels: int, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        layers_per_block=1,
        **settings,
    ).eval()


def qwen2_5_vl(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(nano_config("qwen2_5_vl", tokenizer, 32, 1, 32)).eval()


def qwen2_vl_processor(tokenizer: Any, folder: Path) -> None:
    """What a published pipeline has in its folder `processor`, with few image tokens."""
    from transformers import Qwen2VLImageProcessorPil

    area = 4 * 28 * 28
    Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": area}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def instruct_pix2pix(folder: Path) -> Path:
    from diffusers import PNDMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "words")
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=32,
        in_channels=8,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
    ).eval()
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=autoencoder(4),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return written(pipeline, folder / "model")


def flux2_transformer(joint: int) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=joint,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
    ).eval()


def flux2_autoencoder() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
    ).eval()


def flux2_klein(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 512)
    words = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_autoencoder(),
        text_encoder=Qwen3ForCausalLM(words).eval(),
        tokenizer=tokenizer,
        transformer=flux2_transformer(3 * 32),
    )
    return written(pipeline, folder)


def flux2(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 512)
    tokenizer.add_tokens(["[IMG]", "[IMG_BREAK]", "[IMG_END]"], special_tokens=True)
    words = {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    sight = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            **words,
        },
        vision_config={"model_type": "pixtral", "image_size": 28, "patch_size": 14, "head_dim": 16, **sight},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    pipeline = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_autoencoder(),
        text_encoder=Mistral3ForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
        transformer=flux2_transformer(3 * 32),
    )
    return indexed(written(pipeline, folder), tokenizer=["transformers", "PixtralProcessor"])


def kontext(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer, tokenizer_2 = clip_tokenizer(folder / "words"), train_tokenizer(TEXTS, 512)
    t5 = T5Config(vocab_size=len(tokenizer_2), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(4, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )
    return written(pipeline, folder / "model")


def _qwen_image(kind: str, folder: Path) -> Path:
    import diffusers

    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 512)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    pipeline = getattr(diffusers, kind)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLQwenImage(base_dim=4, num_res_blocks=1).eval(),
        text_encoder=qwen2_5_vl(tokenizer),
        tokenizer=tokenizer,
        processor=Absent(),
        transformer=transformer,
    )
    qwen2_vl_processor(tokenizer, folder / "processor")
    return indexed(written(pipeline, folder), processor=["transformers", "Qwen2VLProcessor"])


def qwen_image_edit(folder: Path) -> Path:
    return _qwen_image("QwenImageEditPipeline", folder)


def qwen_image_edit_plus(folder: Path) -> Path:
    return _qwen_image("QwenImageEditPlusPipeline", folder)


def longcat(folder: Path) -> Path:
    import diffusers

    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 512)
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    ).eval()
    qwen2_vl_processor(tokenizer, folder / "text_processor")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        layers_per_block=1,
        norm_num_groups=4,
        shift_factor=0.1,
        scaling_factor=0.36,
    ).eval()
    pipeline = diffusers.LongCatImageEditPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=qwen2_5_vl(tokenizer),
        tokenizer=tokenizer,
        text_processor=Absent(),
        transformer=transformer,
    )
    return indexed(written(pipeline, folder), text_processor=["transformers", "Qwen2VLProcessor"])


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "StableDiffusionInstructPix2PixPipeline": instruct_pix2pix,
    "Flux2KleinPipeline": flux2_klein,
    "Flux2Pipeline": flux2,
    "FluxKontextPipeline": kontext,
    "QwenImageEditPipeline": qwen_image_edit,
    "QwenImageEditPlusPipeline": qwen_image_edit_plus,
    "LongCatImageEditPipeline": longcat,
}
