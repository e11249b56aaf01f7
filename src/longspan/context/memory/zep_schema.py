"""Knobs of Zep, what its prompts answer, and the draft of one episode's writes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from longspan.context.memory.base import Episode
from longspan.context.port import Schema
from longspan.context.stores.base import Link, Record
from longspan.errors import BadInput, nearest

GENERIC = "Entity"


@dataclass(frozen=True)
class ZepKnobs:
    """Defaults of the Graphiti code. Lengths in tokens of the model's counter, cosines of the embedder.

    attributes: a schema (pydantic class or JSON schema) of what to know about entities of a type, by the type's name.
    """

    previous: int = 10
    types: tuple[tuple[str, str], ...] = ((GENERIC, "anything that no other type fits"),)
    attributes: Mapping[str, Schema] = field(default_factory=dict)
    candidates: int = 15
    min_cosine: float = 0.6
    jaccard: float = 0.9
    pool: int = 10
    split_above: int = 1000
    split_density: float = 0.15
    split_budget: int = 3000
    summary_chars: int = 1000
    limit: int = 10
    depth: int = 3
    constant: float = 0.0
    reranker: str = "rrf"
    mmr_balance: float = 0.5

    def __post_init__(self) -> None:
        names = [name for name, _ in self.types]
        for name in self.attributes:
            if name not in names:
                raise BadInput(
                    f"attributes are given for the entity type {name!r}, which is not among the types; {nearest(name, names)}"
                )


class NamedEntity(BaseModel):
    name: str
    entity_type_id: int = 0


class Entities(BaseModel):
    entities: list[NamedEntity]


class Resolution(BaseModel):
    id: int
    candidate_id: int


class Resolutions(BaseModel):
    resolutions: list[Resolution]


class StatedFact(BaseModel):
    source: str
    target: str
    relation: str
    fact: str
    valid_at: str | None = None
    invalid_at: str | None = None


class Facts(BaseModel):
    facts: list[StatedFact]


class Verdict(BaseModel):
    duplicates: list[int]
    contradicted: list[int]


class Dates(BaseModel):
    valid_at: str | None
    invalid_at: str | None


@dataclass
class Draft:
    """What one episode will write; later facts of an episode see what earlier ones changed."""

    episode: Episode
    records: dict[str, Record] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    support: list[tuple[str, str]] = field(default_factory=list)
