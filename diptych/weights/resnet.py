"""torchvision's ImageNet ResNets as an image root: what `--init image=RUN` starts a ResNet from (image/resnet.py).

resnet101-cd907fc2.pth ...    a state dict of torchvision's names; its classifier is left behind
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from diptych.checkpoint import write_file
from diptych.config import UserError
from diptych.weights.folder import fresh, torch_load


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """A file of torchvision's to a directory that `--init image=` reads."""
    fresh(dest)
    if not source.is_file():
        raise UserError(f"{source} is no file; torchvision's weights are one, resnet101-cd907fc2.pth")
    state = torch_load(source)
    if not isinstance(state, dict) or "conv1.weight" not in state or "layer4.0.conv1.weight" not in state:
        raise UserError(f"{source}: no ResNet of torchvision, there is no layer4.0.conv1.weight")
    left = [name for name in state if name.startswith("fc.") or name.endswith("num_batches_tracked")]
    weights: dict[str, Tensor] = {f"image.trunk.{name}": tensor for name, tensor in state.items() if name not in left}
    dest.mkdir(parents=True, exist_ok=True)
    write_file(dest / "model.safetensors", save(weights))
    return {
        "source": str(source),
        "dest": str(dest),
        "used": len(weights),
        "unused": sorted(n for n in left if n.startswith("fc.")),
    }
