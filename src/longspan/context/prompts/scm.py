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
    2,
    "A user sends a new message in a long conversation. Does a good answer need something from earlier in the conversation "
    "than the last turn? Answer Yes or No.",
    ("last_turn", "message"),
)
CAN_ANSWER = Prompt(
    "scm.can_answer",
    2,
    "Does the text contain what is needed to answer the question? Answer Yes or No.",
    ("text", "question"),
    (
        (("Otto wears shoes of size 43.", "What is Otto's shoe size?"), "Yes"),
        (("Otto went to the cinema with me.", "What is Otto's shoe size?"), "No"),
        (("Rita has a new coat.", "How many books did Rita buy?"), "No"),
        (("On Monday Rita bought 12 books.", "How many books did Rita buy?"), "Yes"),
    ),
)
# The paper's form: two letters and no example. Measured beside the other in bench/checks/scm.py, used nowhere else.
CAN_ANSWER_LETTERS = Prompt(
    "scm.can_answer_letters",
    1,
    "Does the text contain what is needed to answer the question? Answer with one letter: A for yes, B for no.",
    ("text", "question"),
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
