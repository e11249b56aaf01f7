"""Prompts of the self-controlled memory (memory/scm.py)."""

from longspan.context.prompts import Prompt

SUMMARISE_TURN = Prompt(
    "scm.summarise_turn",
    1,
    "Summarise the turn of a conversation: one sentence for each speaker, with names, numbers and dates kept.",
    ("turn",),
)
NEEDS_MEMORY = Prompt(
    "scm.needs_memory",
    1,
    "A user sends a new message in a long conversation. Does a good answer need something from earlier in the conversation "
    "than the last turn? Answer with one letter: A for yes, B for no.",
    ("last_turn", "message"),
)
CAN_ANSWER = Prompt(
    "scm.can_answer",
    1,
    "Does the text contain what is needed to answer the question? Answer with one letter: A for yes, B for no.",
    ("text", "question"),
)
# The same question in other words: a small model's leaning to one letter differs from form to form.
CAN_ANSWER_FORMS = (
    CAN_ANSWER,
    Prompt(
        "scm.can_answer_said",
        1,
        "Is the answer to the question said in the text? A means it is said, B means it is not. Answer with one letter.",
        ("text", "question"),
    ),
    Prompt(
        "scm.can_answer_enough",
        1,
        "You see a text and a question. If reading the text is enough to answer the question, write A. If it is not, write B.",
        ("question", "text"),
    ),
)
SUMMARISE_BLOCK = Prompt(
    "scm.summarise_block",
    1,
    "Summarise the current part of a longer text in at most 500 words. The part before it is background only.",
    ("before", "current"),
)
SUMMARISE_GROUP = Prompt(
    "scm.summarise_group",
    1,
    "Join the summaries of consecutive parts into one coherent summary. Keep the most important third of the content.",
    ("summaries",),
)
