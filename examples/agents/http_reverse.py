#!/usr/bin/env python3
"""An HTTP agent in Python: answers text backwards.

    shoal deploy "$PWD/examples/agents/http_reverse.py" --kind http --name reverse
    shoal message ask --to reverse --content "hello"
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Agent(BaseHTTPRequestHandler):
    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            status, body = 200, content.decode()[::-1]
        except UnicodeDecodeError:
            status, body = 415, "only text can be read backwards"  # any status but 2xx: the agent failed
        print("message", self.headers["Shoal-Message-Id"], "from", self.headers["Shoal-From"], flush=True)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        body = body.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Not every request needs a line in the log."""


# The node picks the port. Listen on loopback only: whoever reaches the port can speak to the agent.
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Agent).serve_forever()
