"""The operations that every collection of stored objects has, whatever is stored in it."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from aiohttp import web

from devhost.standin.call import Call, Operation
from devhost.standin.resource import Resource, new_id, page
from devhost.standin.wire import Json, bad_request, json_response, missing

_ROUTES = {
    "create": "POST {}", "list": "GET {}", "get": "GET {}/{{id}}", "update": "POST {}/{{id}}",
    "delete": "DELETE {}/{{id}}", "content": "GET {}/{{id}}/content",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Collection:
    """A row of the table of collections.

    `path`: its placeholders become members of each object, such as `thread_id`.
    `noun`, `prefix`: an object's `object`, and how its id begins.
    `methods`: those that the API has; of `cancel=cancelled`, POST `<object>/cancel` sets the status to cancelled.
    `defaults`: members of a new object where the caller says nothing.
    `references`: members that a new object needs, and the collection in which each must be found.
    `prepare`: completes a new object.
    `created`: the HTTP status of a creation.
    """

    path: str
    noun: str
    prefix: str = ""
    methods: str = "create list get update delete"
    defaults: Json = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Resource, Json], None] = lambda resource, new: None
    created: int = 200

    def operations(self) -> dict[str, Operation]:
        """The operations by method and path."""
        operations: dict[str, Operation] = {}
        for method in self.methods.split():
            name, _, status = method.partition("=")
            if status:
                operations[f"POST {self.path}/{{id}}/{name}"] = partial(self._act, status)
            else:
                operations[_ROUTES[name].format(self.path)] = getattr(self, f"_{name}")
        return operations

    def add(self, resource: Resource, new: Json, parents: Json, content: bytes | None = None) -> Json:
        """Store a new object below its `parents`, with what the caller says of it."""
        for name, collection in self.references.items():
            if not isinstance(value := new.get(name), str):
                raise missing(name)
            resource.get(collection, value)
        identity = {"id": new_id(self.prefix), "object": self.noun, "created_at": int(time.time())}
        new = {"metadata": {}} | copy.deepcopy(self.defaults) | new | identity | dict(parents)
        self.prepare(resource, new)
        return resource.put(self.path.format_map(parents), new, content)

    def _at(self, call: Call) -> str:
        """The collection's own path in a call. A 404 where the object it is below does not exist."""
        path = self.path.format_map(call.request.match_info)
        if path != self.path:
            above, _, object_id = path.rpartition("/")[0].rpartition("/")
            call.resource.get(above, object_id)
        return path

    def _found(self, call: Call) -> Json:
        return call.resource.get(self._at(call), call.request.match_info["id"])

    async def _create(self, call: Call) -> web.StreamResponse:
        self._at(call)
        described, files = await call.form()
        content = None
        for file in files[:1]:
            described |= {"filename": file.filename, "bytes": file.size}
            content = file.raw
        parents = call.request.match_info
        if several := described.get(self.path.rpartition("/")[2]):
            return json_response(page([self.add(call.resource, each, parents) for each in several]))
        return json_response(self.add(call.resource, described, parents, content), self.created)

    async def _list(self, call: Call) -> web.StreamResponse:
        """Filtered by every query parameter that has the name of a member, such as `purpose`."""
        objects = call.resource.newest_first(self._at(call))
        for name, value in call.request.query.items():
            objects = [each for each in objects if each.get(name, value) == value]
        return json_response(page(objects))

    async def _get(self, call: Call) -> web.StreamResponse:
        """What was queued is done when it is asked for."""
        found = self._found(call)
        if found.get("status") == "queued":
            found["status"] = "completed"
        return json_response(found)

    async def _update(self, call: Call) -> web.StreamResponse:
        found = self._found(call)
        found |= (await call.json()) | {"id": found["id"], "object": found["object"]}
        return json_response(found)

    async def _delete(self, call: Call) -> web.StreamResponse:
        object_id = self._found(call)["id"]
        call.resource.remove(self._at(call), object_id)
        return json_response({"id": object_id, "object": f"{self.noun}.deleted", "deleted": True})

    async def _content(self, call: Call) -> web.StreamResponse:
        content = call.resource.contents.get((self._at(call), self._found(call)["id"]))
        if content is None:
            raise bad_request("The stand-in keeps the content of small files only.")
        return web.Response(body=content, content_type="application/octet-stream")

    async def _act(self, status: str, call: Call) -> web.StreamResponse:
        found = self._found(call)
        found["status"] = status
        return json_response(found)
