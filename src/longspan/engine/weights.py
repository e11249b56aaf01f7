"""What is done to a model's weights after loading: nothing to their values; on a CPU linear layers get matrices that multiply few rows fast."""

import torch
from torch import nn

from longspan.ops.few_rows import Weight


def for_decoding(model: nn.Module) -> None:
    """Give every fp32 linear layer on a CPU a weight of the kind `Weight`, over the same memory; what is tied stays tied."""
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        old = module.weight
        if old.device.type != "cpu" or old.dtype != torch.float32 or isinstance(old, Weight):
            continue
        if id(old) not in seen:
            seen[id(old)] = Weight(old.data, old.requires_grad)
        module.weight = seen[id(old)]
