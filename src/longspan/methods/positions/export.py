"""Write a frequency map into a model's config, so that the extended model runs anywhere transformers runs.

Shape 1 maps only: one that follows the length (dynamic NTK), maps distances or biases scores has no place in `rope_parameters`. Configs with one rotation per layer type
(Gemma-3: nested `rope_parameters`) get it where the layers see the whole text, the sliding layers keep theirs.
"""

import copy
from typing import Any

from longspan.engine.method import PositionMethod
from longspan.errors import BadInput
from longspan.methods.positions.base import AUTO
from longspan.ops.frequency_maps import Rope

FULL = "full_attention"
KEPT = ("partial_rotary_factor", "mrope_section", "mrope_interleaved")  # which pairs turn, and by which axis


def exported_config(config: Any, method: PositionMethod, factor: float | None = None) -> Any:
    """A copy of a transformers config with `method` in its `rope_parameters` and the window stretched.

    factor: target length over trained length; the method's own when None. Raises BadInput for a method or model that cannot be written this way.
    """
    if not hasattr(method, "rope_parameters"):
        raise BadInput(
            f"{method.name} is not a map of frequencies, so a config cannot hold it; export pi, ntk, yarn or longrope instead."
        )
    own = getattr(method, "factor", getattr(method, "multiplier", None))
    factor = own if factor is None else factor
    if factor in (None, AUTO):
        raise BadInput(f"a config holds one fixed factor; name it, as in {method.name}(factor=4).")
    config = copy.deepcopy(config)
    text = config.get_text_config(decoder=True)
    parameters = getattr(text, "rope_parameters", None)
    if not parameters:
        raise BadInput(
            "this model's config has no rope_parameters; only rotary models can be extended this way."
        )
    nested = FULL in parameters
    found = parameters[FULL] if nested else parameters
    if found is None or found.get("rope_type", "default") != "default":
        raise BadInput(
            f"the config already scales its rotation ({(found or {}).get('rope_type')}); start from the unscaled model."
        )
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    share = found.get("partial_rotary_factor", 1.0)
    method.check_trained(text.max_position_embeddings)
    window = getattr(method, "window", 0) or text.max_position_embeddings
    rope = Rope(int(head_dim * share), found["rope_theta"], window)
    written = {
        **{k: v for k, v in found.items() if k in KEPT},
        **method.rope_parameters(rope, factor),
    }
    if nested:
        parameters[FULL] = written
    else:
        text.rope_parameters = written
    if hasattr(method, "factor"):
        text.max_position_embeddings = int(window * factor)
    return config
