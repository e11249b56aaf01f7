"""A rule scorer: a deterministic cache language model. Not a quality claim, only plumbing with known preferences.

A word seen before (prefix included, any case) costs 0.5 nats, a new word 2 nats and a quarter more per letter.
"""

import re

import numpy as np

_TOKEN = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")


class RuleScorer:
    def token_logprobs(self, prefix, text):
        seen = {word.lower() for word in re.findall(r"\w+", prefix)}
        tokens, offsets, values = [], [], []
        for match in _TOKEN.finditer(text):
            word = match.group().strip().lower()
            values.append(-0.5 if word in seen or not re.match(r"\w", word) else -2.0 - len(word) / 4)
            seen.add(word)
            tokens.append(match.group())
            offsets.append(match.span())
        return tokens, offsets, values

    def count_tokens(self, text):
        return sum(1 for _ in _TOKEN.finditer(text))

    def tail_attention(self, text, question, draft, rows, *, guessed, first_layer, how):
        """By rule: every row attends to the words of the question."""
        tokens, offsets, _ = self.token_logprobs("", text)
        asked = set(re.findall(r"\w+", question.lower()))
        row = [0.5 if token.strip().lower() in asked else 0.01 for token in tokens]
        return tuple(offsets), np.array([row] * (rows + guessed))
