"""TensorRT engines: made of ONNX files by NVIDIA's trtexec, on the GPU that will run them."""

import shutil
import subprocess
from pathlib import Path

TOLD_LINES = 12  # of what trtexec says when it fails


def require_trtexec() -> str:
    """Path of trtexec; raises ValueError that says how to get it."""
    found = shutil.which("trtexec")
    if found is None:
        raise ValueError(
            "no trtexec on the PATH. It comes with TensorRT (on a Jetson in "
            "/usr/src/tensorrt/bin); or write ONNX here (--format onnx) and run "
            "trtexec --onnx=PART.onnx --saveEngine=PART.engine where there is one"
        )
    return found


def write_engine(trtexec: str, onnx: Path, engine: Path) -> None:
    """Build the engine of an ONNX file; raises ValueError with the end of what trtexec said."""
    finished = subprocess.run(
        [trtexec, f"--onnx={onnx}", f"--saveEngine={engine}", "--skipInference"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if finished.returncode or not engine.is_file():
        said = "\n".join(finished.stdout.splitlines()[-TOLD_LINES:])
        raise ValueError(
            f"trtexec made no engine of {onnx.name} (exit status {finished.returncode}):\n{said}"
        )
