"""Whether generators make the same items in another process: one hash over items, here and there. Imports no torch, so that a process is cheap.

echo '[[["bio_standard", {}]], 1024, 2]' | python -m longspan.bench.reproduce
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from longspan.bench.task import get_task

SEED = 5
Plans = Sequence[tuple[str, Mapping[str, Any]]]


class Pieces:
    """A tokenizer that is the same everywhere: runs of at most four word characters, other marks one each."""

    def encode(self, text: str) -> list[str]:
        return re.findall(r"\w{1,4}|[^\w ]", text)


def digest(plans: Plans, tokens: int, n: int) -> str:
    """One hash over `n` items of every (task, knobs) pair, at most `tokens` long or the task's least length."""
    found = hashlib.sha256()
    for name, knobs in plans:
        task = get_task(name)
        for item in task.make(n, max(tokens, task.min_tokens), Pieces(), SEED, **knobs):
            found.update(item.to_json().encode())
    return found.hexdigest()


def elsewhere(plans: Plans, tokens: int, n: int) -> str:
    """`digest` in a process of its own."""
    told = json.dumps([plans, tokens, n])
    command = [sys.executable, "-m", "longspan.bench.reproduce"]
    return subprocess.run(command, input=told, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    print(digest(*json.load(sys.stdin)))
