#!/usr/bin/env python3
"""A stdio agent that asks another one: passes each request on to the agent named by its argument, and answers
with what that one answered. It never waits: it can have many requests under way.

    shoal deploy "$PWD/examples/agents/relay.py" --name relay -- upper
    shoal message ask --to relay --content "hello"
"""

import json
import sys

target = sys.argv[1]


def say(**line):
    print(json.dumps(line), flush=True)


def content_of(line):
    """Text or binary, as it came, to be passed on as it is."""
    return {key: line[key] for key in ("content", "content_base64", "content_type") if key in line}


say(type="ready")

for text in sys.stdin:
    line = json.loads(text)
    if line["type"] == "message" and line["wants_answer"]:
        # The id is ours to choose; the message's own tells later which request the answer belongs to.
        # `in_reply_to` names the message that made us ask, so that the mesh notices when messages go in circles.
        say(type="ask", id=line["id"], to=target, in_reply_to=line["id"], deadline_ms=line["deadline_ms"],
            **content_of(line))
    elif line["type"] == "message":
        say(type="send", to=target, in_reply_to=line["id"], **content_of(line))
    elif line["type"] == "answer":
        say(type="reply", to=line["id"], **content_of(line))
    elif line["type"] == "error" and line["id"] is not None:
        say(type="failure", to=line["id"], reason=f"{target}: {line['reason']}")
    elif line["type"] == "error":
        say(type="log", level="warn", text=f"{target}: {line['reason']}")
