"""Floating-point operations of every stage, counted on tensors without storage.

Counts the published sizes (GLD with Depth Anything 3) by torch's own counter: matrix products,
convolutions and attention, two operations per multiplication and addition. Takes no time worth
speaking of and no memory; owns nothing but the count.
"""

import argparse

import torch

from gld_ros.cli._arguments import SIZE_FORM, size_hw
from gld_ros.diffusion.conditioning import concatenate_conditions
from gld_ros.diffusion.config import GLD_DA3_CASCADE, GLD_DA3_LEVEL1, DenoiserConfig
from gld_ros.diffusion.denoiser import Denoiser
from gld_ros.diffusion.fast_path import TimeConstants, precompute, step
from gld_ros.mapping.expected_work import blank_conditions, operations

CALLS = 49  # network evaluations per stage of the published procedure


def guided_call(
    config: DenoiserConfig, references: int, targets: int, image_hw: tuple[int, int]
) -> tuple[int, int]:
    """Operations of one guided call: of the plain network on a doubled batch, of the fast path."""
    with torch.device("meta"):
        denoiser = Denoiser(config)
        one = blank_conditions(config, references, targets, image_hw)
        both, noisy = concatenate_conditions(one, one), torch.zeros_like(one.reference_latent)
        width, depth = config.hidden[0], config.depth[0]
        time = TimeConstants(torch.zeros(1, 1, 1, width), torch.zeros(depth, 1, 1, 1, 6 * width))
        t = torch.ones(2)
        with torch.no_grad():
            run = precompute(denoiser, both)
        plain = operations(lambda: denoiser(torch.cat((noisy, noisy)), t, both))
        return plain, operations(lambda: step(denoiser, noisy, time, run))


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--references", type=int, default=4)
    parser.add_argument("--targets", type=int, default=4)
    parser.add_argument("--size", type=size_hw, default=(280, 504), metavar=SIZE_FORM)
    arguments = parser.parse_args()
    print("| guided call | plain, TFLOP | fast path, TFLOP | sample of 49 calls, TFLOP |")
    print("| --- | --- | --- | --- |")
    for name, config in (("level 1", GLD_DA3_LEVEL1), ("cascade", GLD_DA3_CASCADE)):
        plain, fast = guided_call(config, arguments.references, arguments.targets, arguments.size)
        print(f"| {name} | {plain / 1e12:.2f} | {fast / 1e12:.2f} | {CALLS * fast / 1e12:.0f} |")


if __name__ == "__main__":
    main()
