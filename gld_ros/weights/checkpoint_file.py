"""Published checkpoint files opened safely: pickles that hold only tensors, and safetensors.

Owns reading and unwrapping; the files stay mapped, so a tensor costs memory only while it is used.
What the names mean is decided by the converters.
"""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gld_ros.weights.errors import UnsafeCheckpointError, WeightsError
from gld_ros.weights.tensor_file import read_layout


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The top mapping of a `.pt`/`.pth`/`.safetensors` file, tensors on the CPU and mapped.

    Tensors stored on a GPU come back on the CPU. Pickles are read by torch's restricted reader,
    which executes nothing. Raises UnsafeCheckpointError for a pickle that asks for more than
    tensors and plain containers, WeightsError for a missing, cut or foreign file.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist or is not a file")
    if path.suffix == ".safetensors":
        read_layout(path)
        return dict(load_file(path))
    try:
        # Only the zip format of torch >= 1.6 can be mapped; older files are read whole.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(
            f"{path} is refused: it is damaged, or asks for code or classes beyond tensors and "
            f"plain containers, and nothing of it was executed. The reader says: {_reason(error)}"
        ) from error
    except Exception as error:  # damaged bytes meet the reader's every line
        raise WeightsError(f"{path} is not a readable torch checkpoint: {error}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected a mapping of names")
    return dict(content)


def _reason(error: pickle.UnpicklingError) -> str:
    """The sentence that names the cause, without torch's advice to allow the class."""
    text = str(error)
    marker = text.find("WeightsUnpickler error:")
    return text[marker:].split("\n")[0] if marker >= 0 else text.split("\n")[0]


def unwrap(content: Mapping[str, Any], wrappers: Sequence[str], path: Path) -> dict[str, Tensor]:
    """Name -> tensor of the first of `wrappers` that is present, else of the mapping itself.

    Raises WeightsError when what is found there is no mapping, or has entries that are not tensors.
    """
    found: Any = content
    place = "the top of the file"
    for wrapper in wrappers:
        if wrapper in content:
            found, place = content[wrapper], f"entry {wrapper!r}"
            break
    if not isinstance(found, Mapping):
        raise WeightsError(
            f"{path}: {place} is a {type(found).__name__}, expected names -> tensors"
        )
    strangers = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(
            f"{path}: {place} has entries that are not tensors: {', '.join(strangers[:5])}"
            + (f"; none of the wrappers {', '.join(wrappers)} is there" if found is content else "")
        )
    return {str(name): value for name, value in found.items()}
