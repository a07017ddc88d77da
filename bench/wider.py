"""The built-in model made wider, with the same answers: work for servers that are to be measured.

python -m bench.wider log/wider --layers 24 --width 32768

Layers that are added, and the units that all get, have no weight in what comes out.
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from preceptor.ground.errors import UserError
from preceptor.teacher.card import TINY_MODEL


def widen(folder: Path, layers: int, width: int) -> float:
    """Write the model to a new folder.

    Returns:
        The largest change of a logit, which comes of rounding.

    Raises:
        UserError: There is something already.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already.", f"python -m bench.wider {folder}-2")
    shutil.copytree(TINY_MODEL, folder)
    narrow = AutoModelForCausalLM.from_pretrained(str(TINY_MODEL), dtype=torch.bfloat16)
    config = AutoConfig.from_pretrained(str(TINY_MODEL))
    config.num_hidden_layers, config.intermediate_size = layers, width
    wide = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    for layer in wide.model.layers:
        for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(out.weight)
    weights = wide.state_dict()
    for name, weight in narrow.state_dict().items():
        weights[name][tuple(slice(size) for size in weight.shape)].copy_(weight)
    wide.save_pretrained(str(folder))
    tokens = torch.randint(2, config.vocab_size, (2, 50))
    with torch.no_grad():
        return float((wide(tokens).logits - narrow(tokens).logits).abs().max())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=32_768)
    said = parser.parse_args()
    try:
        print(f"Logits differ by at most {widen(said.folder, said.layers, said.width):.2g}.")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
