"""What methods declare about their use, and the sentence with which a session refuses any other.

Declared on the method (`engine.method.Method`), some by its knobs: `reads` and `chunk_step` (how a text may be cut into chunks),
`batch_safe` (several sessions in one forward), `turn_safe` (a second text), `pre_rope` (keys or queries before rotation).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from longspan.errors import BadInput

if TYPE_CHECKING:
    from longspan.engine.batch import Work
    from longspan.engine.geometry import LayerGeometry
    from longspan.engine.recipe import Recipe
    from longspan.engine.session import Session


def check_model(recipe: Recipe, model: Any) -> None:
    """Raise BadInput when a method of the recipe cannot serve the model."""
    for method in recipe.methods:
        layers = model.geometry.layers
        if method.stage == "positions":
            check_positions(method.name, layers.values())
        elif method.pre_rope:
            check_rotation(method.name, (layers[index] for index in model.geometry.growing))
        method.check(model)


def check_rotation(who: str, layers: Iterable[LayerGeometry]) -> None:
    """Raise BadInput unless the engine can rotate, and turn back, the keys and queries of these layers. who: a method's name."""
    if any(layer.rope.layout == "unknown" for layer in layers):
        raise BadInput(
            f"{who} needs keys or queries before rotation, and this model's rotation is of a kind the engine does not know; "
            "use a method that takes keys as they are, such as quest or snapkv."
        )


def check_positions(who: str, layers: Iterable[LayerGeometry]) -> None:
    """Raise BadInput unless these layers have rotary positions, and of a kind that the engine can change. who: a method's name."""
    layouts = {layer.rope.layout for layer in layers}
    if "unknown" in layouts or layouts == {"none"}:
        raise BadInput(
            f"{who} changes rotary positions, and this model has none that the engine knows; leave {who} out of the recipe."
        )


def check_reading(session: Session, tokens: int) -> None:
    """Raise BadInput when `tokens` more tokens of a text cannot be read as the session's methods need it."""
    chunk, begun = session.chunk, session.length - session.text_start
    for method in session.recipe.methods:
        if session.texts_read and not begun and not method.turn_safe:
            raise BadInput(
                f"{method.name} serves one text, and this session has read one; start a session of its own for the next text."
            )
        if begun + tokens <= chunk:
            continue
        if method.reads == "whole":
            raise BadInput(
                f"{method.name} has to see a text as a whole, and {begun + tokens} tokens would come in chunks of {chunk}; "
                f"give session(chunk={begun + tokens}) and read them in one go."
            )
        if tokens > chunk and chunk % method.chunk_step:
            raise BadInput(
                f"{method.name} works on tiles of {method.chunk_step} tokens, which chunks of {chunk} would cut; "
                f"give session(chunk={-(-chunk // method.chunk_step) * method.chunk_step})."
            )


def check_packing(works: Sequence[Work]) -> None:
    """Raise BadInput when sessions that share a forward include one whose method does not allow it."""
    for work in works:
        alone = work.session.recipe.unpackable
        if alone is not None:
            raise BadInput(
                f"{alone} runs one session at a time, and {len(works)} were given; generate, score or feed that session by itself."
            )
