"""Fit the confidence of measured depth, and show how far it can be trusted.

Run: `OMP_NUM_THREADS=1 python benchmark/measuring_confidence.py FOLDER ... [--judge FOLDER ...]` on
scene folders with depth. Prints the coefficients that `gld_ros/measuring/confidence.py` holds,
fitted on the first folders, and for every folder the shares of pixels that are right beside the
probabilities that these coefficients give them.
"""

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from measuring import Disturbance, depth_on_grid, keyframe_blocks, search_arguments
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from gld_ros.measuring.carried import FILLING_SOURCES, carried_depth
from gld_ros.measuring.confidence import (
    CARRIED_TERMS,
    POSSIBLE,
    RIGHT_WITHIN,
    SURE,
    SURFACE_TERMS,
    VIEW_TERMS,
    carried_evidence,
    surface_evidence,
    view_evidence,
)
from gld_ros.measuring.consistency import MeasuredImage, consistent, same_surface, votes_of
from gld_ros.measuring.frames import FloatArray, MeasuredDepth
from gld_ros.measuring.measure import find_surface
from gld_ros.measuring.pose_refinement import refined_poses
from gld_ros.measuring.surfaces import Surface, sure_depth
from gld_ros.scenes.folders import find_scene_folders, open_scene_folder
from gld_ros.scenes.recording import Recording

EDGES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass(frozen=True, eq=False)
class Found:
    """One keyframe: what was found, and where the truth is known."""

    image: MeasuredImage  # every pixel whose depth can be told; confidence is filled in later
    evidence: FloatArray  # (terms, h, w)
    true_m: FloatArray  # (h, w), NaN where unknown


def found_blocks(recording: Recording, arguments: argparse.Namespace) -> list[list[Found]]:
    """Every block of keyframes of a recording, searched."""
    blocks = []
    for frames, keyframes in keyframe_blocks(recording, Disturbance(""), arguments):
        block = []
        for i in keyframes:
            neighbours, parameters = search_arguments(frames, i)
            if not neighbours:
                continue
            refined = refined_poses(frames[i], neighbours)
            surface = find_surface(frames[i], refined.neighbours, parameters)
            depth_m = np.where(surface.told_apart, 1.0 / surface.inverse_depth, np.nan)
            measured = MeasuredDepth(
                depth_m.astype(np.float32), np.zeros_like(surface.inverse_depth), "stereo"
            )
            true_m = depth_on_grid(recording, i, frames[i].image_hw)
            block.append(
                Found(MeasuredImage(frames[i], measured), surface_evidence(surface), true_m)
            )
        blocks.append(block)
    return blocks


def surface_samples(blocks: list[list[Found]]) -> tuple[FloatArray, FloatArray]:
    """Evidence (terms, N) and whether the depth is right (N,) of all pixels with a truth."""
    evidence, right = [], []
    for found in itertools.chain(*blocks):
        error = np.abs(found.image.measured.depth_m / found.true_m - 1)
        known = np.isfinite(error)
        evidence.append(found.evidence[:, known])
        right.append(error[known] <= RIGHT_WITHIN)
    return np.concatenate(evidence, axis=1), np.concatenate(right)


def view_samples(
    blocks: list[list[Found]], weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Evidence of other images (terms, N) given surface weights; rightness, errors (N,)."""
    evidence, right, errors = [], [], []
    for block in blocks:
        images = [_with_confidence(found, weights) for found in block]
        for found, image in zip(block, images, strict=True):
            votes = votes_of(image, [other for other in images if other is not image])
            at = np.isfinite(image.measured.depth_m)
            error = np.abs(image.measured.depth_m[at] / found.true_m[at] - 1)
            terms = view_evidence(
                image.measured.confidence[at], votes.agreeing, votes.looking_through, votes.hiding
            )
            known = np.isfinite(error)
            evidence.append(terms[:, known])
            right.append(error[known] <= RIGHT_WITHIN)
            errors.append(error[known])
    return np.concatenate(evidence, axis=1), np.concatenate(right), np.concatenate(errors)


def carried_samples(
    blocks: list[list[Found]], weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Evidence of carried depth (terms, N) where the image's own is not sure; rightness, errors.

    Surface weights are given; how others confirm a surface is as the package has it.
    """
    evidence, right, errors = [], [], []
    for block in blocks:
        images = [_possible(_with_confidence(found, weights)) for found in block]
        surfaces = [
            _surface(image, consistent(image, [o for o in images if o is not image]))
            for image in images
        ]
        for found, image, surface in zip(block, images, surfaces, strict=True):
            others = [other for other in surfaces if other is not surface]
            carried = carried_depth(others, image.frame, blank=True, max_sources=FILLING_SOURCES)
            agrees = same_surface(carried.depth_m, image.measured.depth_m)
            terms = carried_evidence(carried, agrees, sure_depth(surface))
            error = np.abs(carried.depth_m / found.true_m - 1)
            known = np.isfinite(error) & (surface.confidence < SURE)
            evidence.append(terms[:, known])
            right.append(error[known] <= RIGHT_WITHIN)
            errors.append(error[known])
    return np.concatenate(evidence, axis=1), np.concatenate(right), np.concatenate(errors)


def _possible(image: MeasuredImage) -> MeasuredImage:
    """What of an image counts as measured."""
    measured = image.measured
    kept = measured.confidence >= POSSIBLE
    depth_m = np.where(kept, measured.depth_m, np.float32(np.nan))
    confidence = np.where(kept, measured.confidence, np.float32(0.0))
    return MeasuredImage(image.frame, MeasuredDepth(depth_m, confidence, "stereo"))


def _surface(image: MeasuredImage, measured: MeasuredDepth) -> Surface:
    frame = image.frame
    return Surface(
        frame.image, frame.K_px, frame.T_fixed_cam, measured.depth_m, measured.confidence
    )


def _with_confidence(found: Found, weights: FloatArray) -> MeasuredImage:
    confidence = expit(np.tensordot(weights, found.evidence, 1)).astype(np.float32)
    return MeasuredImage(
        found.image.frame, MeasuredDepth(found.image.measured.depth_m, confidence, "stereo")
    )


def fitted(evidence: FloatArray, right: FloatArray) -> FloatArray:
    """Weights (terms,) of a logistic model."""
    target = right.astype(np.float64)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        log_odds = weights @ evidence
        value = -(target * log_expit(log_odds) + (1 - target) * log_expit(-log_odds)).mean()
        slope = evidence @ (expit(log_odds) - target) / len(target)
        return value + 1e-6 * weights @ weights, slope + 2e-6 * weights

    return minimize(loss, np.zeros(len(evidence)), jac=True, method="L-BFGS-B").x


def show_calibration(
    name: str, evidence: FloatArray, right: FloatArray, error: FloatArray, weights: FloatArray
) -> None:
    """Print the share of right pixels beside the probability, by bins of it."""
    probability = expit(weights @ evidence)
    for low, high in itertools.pairwise(EDGES):
        at = (probability >= low) & (probability < high)
        if at.any():
            print(
                f"{name:28s} probability {low:.2f}..{high:.2f}: {at.mean():6.1%} of pixels, "
                f"mean {probability[at].mean():.2f}, right {right[at].mean():.2f}, "
                f"over 20 %: {(error[at] > 0.2).mean():5.1%}"
            )


def main() -> None:
    """Fit, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="+", type=Path, help="scene folders to fit on")
    parser.add_argument("--judge", nargs="*", type=Path, default=[], help="others to judge on")
    parser.add_argument("--blocks", type=int, default=3, help="of keyframes, spread over a scene")
    parser.add_argument("--keyframes", type=int, default=9, help="of one block")
    parser.add_argument("--stride", type=int, default=2, help="frames between keyframes")
    parser.add_argument("--width", type=int, default=320, help="largest width of images, pixels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    blocks: dict[str, list[list[Found]]] = {}
    for path in (*arguments.scenes, *arguments.judge):
        for folder in find_scene_folders(path):
            recording = open_scene_folder(folder)
            blocks[recording.scene_id] = found_blocks(recording, arguments)
            if path in arguments.scenes:
                fit_on = list(blocks)
    to_fit = [block for name in fit_on for block in blocks[name]]
    surface_weights = fitted(*surface_samples(to_fit))
    evidence, right, _ = view_samples(to_fit, surface_weights)
    view_weights = fitted(evidence, right)
    evidence, right, _ = carried_samples(to_fit, surface_weights)
    carried_weights = fitted(evidence, right)
    for title, terms, weights in (
        ("SURFACE_TERMS", SURFACE_TERMS, surface_weights),
        ("VIEW_TERMS", VIEW_TERMS, view_weights),
        ("CARRIED_TERMS", CARRIED_TERMS, carried_weights),
    ):
        print(title)
        for (term, held), weight in zip(terms, weights, strict=True):
            print(f'    ("{term}", {weight:.2f}),  # held now: {held:.2f}')
    for name, searched in blocks.items():
        label = name if name in fit_on else f"{name} (not fitted on)"
        evidence, right, error = view_samples(searched, surface_weights)
        show_calibration(label, evidence, right, error, view_weights)
        show_calibration(
            f"{label}, carried", *carried_samples(searched, surface_weights), carried_weights
        )


if __name__ == "__main__":
    main()
