"""A text-to-image model's reward: a tiny diffusion model learns to make what nano scores higher.

    python examples/diffusion_reward.py

The loop is DDPO's (Black et al. 2023, arXiv 2305.13301), small enough for one core: a diffusers UNet with random
weights denoises in a few steps, each of them a Gaussian whose log-probability has a gradient; images that score above
their batch's mean are made more probable. What it makes are patches of colour, not pictures, and nano, which has no
taste, likes them with contrast; the curve is what counts. With a real pipeline only `generate` changes, and
`scorer.as_reward()` goes into ddpo-pytorch and flow_grpo as their `reward_fn(images, prompts, metadata)`.
"""

import argparse

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from redaes import Scorer

SIDE = 4
DENOISING_STEPS = 3
NOISE = 0.5
"""Standard deviation of what is added to each step: how far the policy explores."""
SCALE = 0.5
"""Contrast of the image that a latent of unit variance becomes."""


def policy() -> UNet2DModel:
    """A UNet of some 200,000 random weights."""
    return UNet2DModel(
        sample_size=SIDE,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


def generate(unet: UNet2DModel, scheduler: DDIMScheduler, count: int) -> tuple[Tensor, Tensor]:
    """Denoise from pure noise.

    Returns:
        Images (count, 3, 64, 64) in [0, 1], and the log-probability of each one's steps, (count,), up to constants.
    """
    x = torch.randn(count, 3, SIDE, SIDE)
    logprob = torch.zeros(count)
    for t in scheduler.timesteps:
        mean = scheduler.step(unet(x, t).sample, int(t), x).prev_sample
        x = (mean + NOISE * torch.randn_like(mean)).detach()
        logprob = logprob - ((x - mean) ** 2).mean(dim=(1, 2, 3)) / (2 * NOISE**2)
    decoded = torch.nn.functional.interpolate(0.5 + SCALE * x, size=(64, 64), mode="bicubic")
    return decoded.clamp(0, 1), logprob


def main() -> None:
    """Train and print the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="of the policy's optimiser")
    parser.add_argument("--batch", type=int, default=48, help="images of each step")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    reward = Scorer("nano", device="cpu").as_reward()
    unet, scheduler = policy(), DDIMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(DENOISING_STEPS)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-3)
    for step in range(options.steps):
        images, logprob = generate(unet, scheduler, options.batch)
        rewards = reward(images)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        optimizer.zero_grad()
        (-(advantages * logprob).mean()).backward()
        optimizer.step()
        bar = "#" * round(4 * float(rewards.mean()))
        print(f"step {step:3}  reward {rewards.mean():5.2f} ± {rewards.std():4.2f}  {bar}", flush=True)
    print(f"{reward.seen} images scored, {reward.unparsed} of them without a readable score")


if __name__ == "__main__":
    main()
