"""Evaluations on held-out views: what `gld-ros eval` and the workers of `gld-ros evals` run.

Owns what the options of both commands mean.
"""

import argparse
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from gld_ros import __version__
from gld_ros.cli._arguments import SIZE_FORM, add_preset_argument, folder_or_name, size_hw

if TYPE_CHECKING:
    from gld_ros.diffusion.presets import PresetName
    from gld_ros.evaluation.held_out import ReferenceChoice
    from gld_ros.evaluation.model_runs import EvaluatedModel
    from gld_ros.evaluation.run import Evaluation
    from gld_ros.pipeline_device import Dtype


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that decide about the figures."""
    parser.add_argument("--bundle", default="tiny", help="folder or name (default: %(default)s)")
    views = parser.add_argument_group("views")
    views.add_argument(
        "--references",
        type=int,
        default=2,
        metavar="R",
        help="views given to the model (default: 2)",
    )
    views.add_argument(
        "--targets", type=int, default=2, metavar="T", help="views withheld (default: 2)"
    )
    views.add_argument(
        "--reference-choice",
        choices=("spread", "first"),
        help="references spread over the path with targets between, or first on it with targets "
        "beyond (default: spread; look_around rooms: first)",
    )
    views.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="recordings: frames from one view of a sample to the next (default: 5, or what fits)",
    )
    views.add_argument(
        "--max-scenes",
        type=int,
        metavar="N",
        help="samples to evaluate (default: 64 rooms; of recordings, as many as share no frame)",
    )
    views.add_argument(
        "--size", type=size_hw, metavar=SIZE_FORM, help="image size (default: the bundle's best)"
    )
    model = parser.add_argument_group("model")
    add_preset_argument(model)
    model.add_argument("--steps", type=int, help="sampling steps (default: the preset's)")
    model.add_argument("--guidance", type=float, help="guidance scale (default: the bundle's)")
    model.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="samples per scene; from 2 on their spread is reported. Tables are of the first "
        "(default: 1)",
    )
    model.add_argument("--first-seed", type=int, default=0, help="default: 0")
    model.add_argument(
        "--real-features",
        action="store_true",
        help="also decode the features of the true images: the upper bound of the decoders",
    )
    model.add_argument(
        "--measurements",
        action="store_true",
        help="also targets whose visible part is measured, by the references' true depth, and the "
        "rest the model's or inpainted; needs depth. Bundles that read measurements are shown them",
    )
    model.add_argument("--batch", type=int, default=8, help="scenes at once (default: 8)")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    model.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="precision of denoisers and RGB decoder (default: auto: bfloat16 where the "
        "processor or GPU has products of it)",
    )


@dataclass(frozen=True)
class EvaluationOptions:
    """What decides, besides the data, about the figures; None is the bundle's own."""

    bundle: str
    references: int
    targets: int
    reference_choice: "ReferenceChoice | None"
    every: int | None
    max_scenes: int | None
    size_hw: tuple[int, int] | None
    preset: "PresetName"
    steps: int | None
    guidance: float | None
    seeds: int
    first_seed: int
    real_features: bool
    measurements: bool
    batch: int
    device: str
    dtype: str

    @classmethod
    def of(cls, args: argparse.Namespace) -> "EvaluationOptions":
        """The options of a command line."""
        given = vars(args) | {"bundle": folder_or_name(args.bundle), "size_hw": args.size}
        return cls(**{field.name: given[field.name] for field in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """The options for a manifest, the bundle by what is in it. Raises ValueError."""
        from gld_ros.evaluation.totals import bundle_hash
        from gld_ros.weights.bundle import Bundle

        size = list(self.size_hw) if self.size_hw else None
        bundle = bundle_hash(Bundle.open(self.bundle))[:16]
        return asdict(self) | {"gld_ros": __version__, "bundle": bundle, "size_hw": size}


class Evaluator:
    """Evaluates data with the same options one after the other; the model is loaded once."""

    def __init__(self, options: EvaluationOptions, images: int = 0) -> None:
        self._options, self._images = options, images
        self._model: EvaluatedModel | None = None

    def load(self) -> "EvaluatedModel":
        """The model, loaded at the first call. Raises ValueError for a device that is not there."""
        if self._model is None:
            from gld_ros.evaluation.model_runs import EvaluatedModel
            from gld_ros.weights.bundle import Bundle

            bundle = Bundle.open(self._options.bundle)
            self._model = EvaluatedModel(bundle, *_device_and_dtype(self._options))
        return self._model

    def run(self, data: str) -> "Evaluation":
        """Evaluate what `--data` names. Raises ValueError for data or options that will not do."""
        from gld_ros.evaluation.held_out import ViewPlan, open_held_out
        from gld_ros.evaluation.run import evaluate
        from gld_ros.evaluation.totals import EvaluationSettings

        o = self._options
        plan = ViewPlan(o.references, o.targets, o.reference_choice, o.every, o.max_scenes)
        settings = EvaluationSettings(
            num_references=o.references,
            num_targets=o.targets,
            preset=o.preset,
            num_steps=o.steps,
            guidance_scale=o.guidance,
            seeds=o.seeds,
            first_seed=o.first_seed,
            batch_size=o.batch,
            real_features=o.real_features,
            measurements=o.measurements,
            images=self._images,
        )
        model = self.load()
        sizes_hw = (o.size_hw,) if o.size_hw else model.bundle.config.resolutions_hw
        return evaluate(model, open_held_out(data, plan, sizes_hw), settings)

    def grid(self, evaluation: "Evaluation") -> Any:
        """The images of an evaluation, one (H, W, 3) array of uint8 RGB."""
        from gld_ros.evaluation.image_grid import image_grid

        config = self.load().bundle.config
        note = " RANDOM WEIGHTS" if config.random_weights else ""
        data = evaluation.report["data"]["name"]
        return image_grid(evaluation.examples, f"{config.name}{note} on {data}")


def _device_and_dtype(options: EvaluationOptions) -> tuple[Any, Any]:
    from gld_ros.pipeline_device import resolve_device, resolve_dtype

    device = resolve_device(options.device)
    return device, resolve_dtype(cast("Dtype", options.dtype), device)
