"""The part of the in-process Consul beside its keys: services with their health, and sessions that hold locks."""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

MaySee = Callable[[str], bool]


class FakeCatalog:
    """Services of all hosts by id, and the sessions that live; no checks are made and no TTL runs."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.sessions: set[str] = set()

    def answer(self, request: web.Request, body: bytes, may_see: MaySee, index: int) -> web.Response:
        """Answer what is not about keys; *may_see* tells of a service's name."""
        parts = request.path.removeprefix("/v1/").split("/")
        match parts:
            case ["catalog", "register"]:
                return self._register(json.loads(body))
            case ["agent", "service", "register"]:
                given = json.loads(body)
                return self._register({"Node": "fake", "Address": "127.0.0.1", "Service": given})
            case ["agent", "service", "deregister", name]:
                return web.Response() if self.services.pop(name, None) else web.Response(status=404)
            case ["agent", "service", name]:
                return web.json_response({}) if name in self.services else web.Response(status=404)
            case ["health", "service", name]:
                found = [each for each in self.services.values() if each["Service"]["Service"] == name]
                shown = found if may_see(name) else []
                return web.json_response(shown, headers={"X-Consul-Index": str(index)})
            case ["status", "leader"]:
                return web.json_response("127.0.0.1:8300")
            case ["session", "create"]:
                session = str(uuid.uuid4())
                self.sessions.add(session)
                return web.json_response({"ID": session})
            case ["session", "renew", session]:
                return web.json_response([]) if session in self.sessions else web.Response(status=404)
            case _:
                return web.Response(status=404)

    def _register(self, given: Mapping[str, Any]) -> web.Response:
        service = given["Service"]
        name = service.get("Service") or service["Name"]
        found = {"ID": service["ID"], "Service": name, "Port": service["Port"], "Meta": service.get("Meta", {})}
        status = given.get("Check", {}).get("Status", "passing")
        self.services[service["ID"]] = {
            "Node": {"Node": given["Node"], "Address": given["Address"]},
            "Service": found,
            "Checks": [{"CheckID": f"service:{service['ID']}", "Status": status}],
        }
        return web.json_response(True)
