#!/usr/bin/env python3
"""A stdio agent in Python: answers text in upper case, and says so when it cannot.

    shoal deploy "$PWD/examples/agents/upper.py" --name upper
    shoal message ask --to upper --content "hello"
"""

import json
import sys


def say(**line):
    """Writes one line to the node. Without the flush it would wait in a buffer."""
    print(json.dumps(line), flush=True)


say(type="ready")

for line in sys.stdin:  # ends when the node closes stdin to stop the agent
    message = json.loads(line)
    if message["type"] != "message":
        continue  # hello; later versions may say more
    print("message from", message["from"], file=sys.stderr)  # stderr is the log
    if not message["wants_answer"]:
        continue
    if "content" in message:
        say(type="reply", to=message["id"], content=message["content"].upper())
    else:  # content_base64: it is not text
        say(type="failure", to=message["id"], reason="only text can be put in upper case")
