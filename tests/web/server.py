"""A server that tests kill: one process imports everything, and forks a server at each start, at once.

`python -m tests.web.server WORKSPACE PORT`; each line on stdin starts a server, and its process id is printed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from patchlight.web.app import all_routers, create_app
from tests.web.conftest import form_alone


def main(workspace: Path, port: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(512)
        number = os.fork()
        if number == 0:
            app = create_app(workspace, routers=[*all_routers(), form_alone])
            config = uvicorn.Config(app, log_level="critical", access_log=False)
            uvicorn.Server(config).run(sockets=[listening])
            os._exit(0)
        listening.close()
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
