"""A conversation with a memory: recall, answer, remember. What the assistant says is kept but never extracted again."""

from dataclasses import dataclass, field

from longspan.context.ledger import Ledger, Metered
from longspan.context.memory.base import Episode, StoreMemory
from longspan.context.packer import Packed
from longspan.context.port import Completion
from longspan.context.prompts.chat import CHAT
from longspan.errors import BadInput


def checked(budget: int, max_tokens: int) -> None:
    """Refuse limits under which no answer could be given."""
    for what, value in (("of memory", budget), ("of an answer", max_tokens)):
        if value < 1:
            raise BadInput(f"the tokens {what} are {value}; give at least 1")


@dataclass
class Chat:
    """`budget` tokens of memory and the last `recent` turns go into every prompt; `session` names this conversation."""

    memory: StoreMemory
    tenant: str
    session: str = "chat"
    user: str = "User"
    budget: int = 1500
    recent: int = 4
    max_tokens: int = 512
    ledger: Ledger = field(default_factory=Ledger)
    turns: list[tuple[str, str]] = field(default_factory=list)
    recalled: Packed | None = None

    def __post_init__(self):
        checked(self.budget, self.max_tokens)
        if self.memory.model.model_id == "heuristic":
            raise BadInput(
                "a chat needs a model; give --model local:NAME, openai:MODEL or http://HOST/v1#MODEL"
            )

    def say(self, message: str) -> Completion:
        """Answer one message and remember both sides of the exchange. On a model failure nothing is remembered."""
        if not message.strip():
            raise BadInput("the message is empty")
        self.recalled = self.memory.recall(self.tenant, message, self.budget, ledger=self.ledger)
        recent = "\n".join(f"{who}: {text}" for who, text in self.turns[-self.recent :])
        model = Metered(self.memory.model, self.ledger, "query", "chat")
        prompt = CHAT.render(memory=self.recalled.text, recent=recent, message=message)
        done = model.complete(prompt, max_tokens=self.max_tokens)
        time = self.memory.clock()
        said = Episode(message, time, self.user, self.session)
        answer = Episode(done.text, time, "Assistant", self.session, "derived", extract=False)
        self.memory.remember(self.tenant, [said, answer], self.ledger)
        self.turns += [(self.user, message), ("Assistant", done.text)]
        return done
