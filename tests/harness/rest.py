"""Users of a deployment's REST API: connections that expect the service's name, and requests over kept-alive ones."""

import http.client
import json
import socket
import ssl
import threading
from typing import Any, Self

from tests.harness.workspaces import NAME, Site

BODY = json.dumps({"instances": [1.0, 2.0, 5.0]}).encode()
ANSWER = {"predictions": [2.5, 3.0, 4.5]}
PREDICT = f"/v1/models/{NAME}:predict"


def user_context(site: Site, *, certificate: bool = True) -> ssl.SSLContext:
    """Return the TLS settings of a user, with the files that the owner gives."""
    user = site.workspace.user
    context = ssl.create_default_context(cafile=user.service_ca)
    if certificate:
        context.load_cert_chain(user.certificate, user.key)
    return context


class RestConnection(http.client.HTTPSConnection):
    """A kept-alive connection to the service's address that expects the service's name, as `curl --connect-to`."""

    def __init__(self, site: Site, context: ssl.SSLContext) -> None:
        service = site.deployment.service
        super().__init__(service.name, service.rest_port, timeout=60, context=context)
        self._listen, self._tls = service.listen, context

    def connect(self) -> None:
        opened = socket.create_connection((self._listen, self.port), timeout=60)
        self.sock = self._tls.wrap_socket(opened, server_hostname=self.host)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Return status and answer of one request."""
        self.request(method, path, body)
        answer = self.getresponse()
        return answer.status, json.loads(answer.read())


class RestLoad:
    """Clients that send one request after another, each over a connection that it keeps until an answer closes it.

    A client does not repeat a request that fails.

    Attributes:
        answered: How many requests of each client were answered.
        moved: How many connections of each client ended with an answer.
        errors: What became of the other requests.
    """

    def __init__(self, site: Site, clients: int, *, certificate: bool = True) -> None:
        self.answered = [0] * clients
        self.moved = [0] * clients
        self.errors: list[str] = []
        self._site, self._context = site, user_context(site, certificate=certificate)
        self._stop, self._begun = threading.Event(), threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        for _ in self._threads:  # each has sent a request
            assert self._begun.acquire(timeout=120)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self, number: int) -> None:
        connection, begun = RestConnection(self._site, self._context), False
        while not self._stop.is_set():
            try:
                connection.request("POST", PREDICT, BODY)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
                connection.close()
            else:
                if (answer.status, json.loads(content)) != (200, ANSWER):
                    self.errors.append(f"{answer.status}: {content!r}")
                self.answered[number] += 1
                self.moved[number] += answer.will_close
            if not begun:
                self._begun.release()
            begun = True
            self._stop.wait(0.005)
        connection.close()
