"""The part of a Kubernetes API server that `kubectl` needs for pods and Secrets, on loopback.

Its pods are processes of this machine. A folder has its settings, each a file: `quota` is the most
pods, `forbidden` refuses all new ones, `nodes` full leaves pods pending. An image of the name `bad`
cannot be pulled. Ends with its standard input, and all pods with it.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

FOLDER = Path(sys.argv[1])
KINDS = {"pods": "Pod", "secrets": "Secret"}
LOCK = threading.RLock()
OBJECTS: dict[tuple[str, str, str], dict] = {}
PROCESSES: dict[str, subprocess.Popen] = {}


class Problem(Exception):
    """An answer that refuses a request."""

    def __init__(self, code, reason, message):
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.status.update(reason=reason, message=message)


def setting(name):
    """Return the text of a setting, if it is there."""
    path = FOLDER / name
    return path.read_text().strip() if path.exists() else None


def begin(pod):
    """Run the container of a pod as a process, as the kubelet would."""
    name = pod["metadata"]["name"]
    home = FOLDER / name
    home.mkdir()
    container = pod["spec"]["containers"][0]
    mounts = {"/tmp": str(home)}
    for volume in pod["spec"].get("volumes", []):
        if "secret" in volume:
            key = (pod["metadata"]["namespace"], "secrets", volume["secret"]["secretName"])
            folder = home / volume["name"]
            folder.mkdir()
            for file, text in OBJECTS[key]["stringData"].items():
                (folder / file).write_text(text)
                (folder / file).chmod(0o440)
            mount = next(m for m in container["volumeMounts"] if m["name"] == volume["name"])
            mounts[mount["mountPath"]] = str(folder)
    env = {"PATH": os.environ["PATH"]}
    for variable in container["env"]:
        value = variable.get("value", name)
        env[variable["name"]] = re.sub("^/tmp", str(home), value)

    def filled(text):
        # As Kubernetes does: `$$` is a dollar, and a variable that is not known stays as it is.
        text = re.sub(
            r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)",
            lambda m: "$" if m[0] == "$$" else env.get(m[1], m[0]),
            text,
        )
        for path, real in mounts.items():
            text = text.replace(f"{path}/", f"{real}/")
        return text

    argv = [filled(word) for word in container["command"] + container["args"]]
    with (home / "log").open("wb") as log:
        PROCESSES[name] = subprocess.Popen(
            argv, env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def look(pod):
    """Bring the status of a pod up to date."""
    name, status = pod["metadata"]["name"], pod["status"]
    if status["phase"] == "Pending":
        image = pod["spec"]["containers"][0]["image"]
        if setting("nodes") == "full":
            why = "0/1 nodes are available: 1 Insufficient cpu."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            status["conditions"] = [{**condition, "message": why}]
        elif image == "bad":
            waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "bad"'}
            status["containerStatuses"] = [{"name": "engine", "state": {"waiting": waiting}}]
        elif "deletionTimestamp" not in pod["metadata"]:
            pod["spec"]["nodeName"] = "n1"
            begin(pod)
            status.update(phase="Running", conditions=[])
    if status["phase"] == "Running" and PROCESSES[name].poll() is not None:
        code = PROCESSES[name].returncode
        status["phase"] = "Failed" if code else "Succeeded"
        reason = "Error" if code else "Completed"
        ended = {"reason": reason, "exitCode": code}
        status["containerStatuses"] = [{"name": "engine", "state": {"terminated": ended}}]


def create(namespace, kind, given, dry):
    """Make an object, unless that is only tried."""
    meta = given["metadata"]
    if kind == "pods":
        pods = [key for key in OBJECTS if key[1] == "pods"]
        name = meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        if setting("forbidden") is not None:
            say = 'pods is forbidden: User "me" cannot create resource "pods" in API group ""'
            raise Problem(403, "Forbidden", f'{say} in the namespace "{namespace}"')
        if (quota := setting("quota")) and len(pods) >= int(quota):
            say = f"exceeded quota: small, requested: pods=1, used: pods={len(pods)}"
            raise Problem(403, "Forbidden", f'pods "{name}" is forbidden: {say}')
        given["status"] = {"phase": "Pending"}
    meta.update(namespace=namespace, uid=secrets.token_hex(8), resourceVersion="1")
    if not dry:
        OBJECTS[namespace, kind, meta["name"]] = given
        if kind == "pods":
            look(given)
    return given


def remove(key, options):
    """Delete an object; a pod that runs is told so, and has its time."""
    found = OBJECTS[key]
    process = PROCESSES.get(key[2])
    if key[1] == "secrets" or process is None or process.poll() is not None:
        del OBJECTS[key]
        return
    grace = options.get("gracePeriodSeconds")
    grace = found["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
    found["metadata"]["deletionTimestamp"] = "2026-12-03T12:00:00Z"
    process.send_signal(signal.SIGTERM)

    def wait():
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with LOCK:
            OBJECTS.pop(key, None)

    threading.Thread(target=wait, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """The requests of `kubectl`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def answer(self):
        """Answer a request of any method."""
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        try:
            with LOCK:
                status, said = self.route(json.loads(body) if body else {})
        except Problem as problem:
            status, said = problem.status["code"], problem.status
        data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        kind = "text/plain" if isinstance(said, str) else "application/json"
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

    def route(self, body):
        """Return the status and the body of an answer."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if fixed := discovery(url.path):
            return 200, fixed
        if parts[:3] != ["api", "v1", "namespaces"] or len(parts) < 5 or parts[4] not in KINDS:
            raise Problem(404, "NotFound", f"{url.path} is not there")
        namespace, kind = parts[3], parts[4]
        if len(parts) == 5:
            if self.command == "POST":
                return 201, create(namespace, kind, body, query.get("dryRun"))
            return 200, self.listed(namespace, kind, query.get("labelSelector", ""))
        key = (namespace, kind, parts[5])
        if self.command == "PATCH":
            # A server-side apply: it makes the object, too.
            return 200, create(namespace, kind, body, query.get("dryRun"))
        if key not in OBJECTS:
            raise Problem(404, "NotFound", f'{kind} "{parts[5]}" not found')
        if parts[6:] == ["log"]:
            if parts[5] not in PROCESSES:
                raise Problem(400, "BadRequest", f'container in pod "{parts[5]}" is waiting')
            return 200, (FOLDER / parts[5] / "log").read_text(errors="replace")
        if self.command == "DELETE":
            remove(key, body)
            return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return 200, OBJECTS[key]

    def listed(self, namespace, kind, selector):
        """List the objects with these labels."""
        wanted = [pair.split("=", 1) for pair in selector.split(",") if pair]
        items = []
        for (place, of, _), it in list(OBJECTS.items()):
            labels = it["metadata"].get("labels", {})
            if (place, of) == (namespace, kind) and all(labels.get(k) == v for k, v in wanted):
                if kind == "pods":
                    look(it)
                items.append({"apiVersion": "v1", "kind": KINDS[kind], **it})
        return {"apiVersion": "v1", "kind": f"{KINDS[kind]}List", "metadata": {}, "items": items}


def discovery(path):
    """Return what `kubectl` asks before all else, if it is that."""
    verbs = ["create", "delete", "get", "list", "patch"]
    resources = [
        {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind}
        | {"verbs": verbs}
        for name, kind in KINDS.items()
    ]
    # What `kubectl` looks for before it leaves validation to the server.
    checks = [{"name": name, "in": "query"} for name in ("fieldValidation", "dryRun")]
    patched = {
        f"/api/v1/namespaces/{{namespace}}/{name}/{{name}}": {
            "patch": {
                "parameters": checks,
                "x-kubernetes-group-version-kind": {"group": "", "version": "v1", "kind": kind},
            }
        }
        for name, kind in KINDS.items()
    }
    return {
        "/openapi/v3": {"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=1"}}},
        "/openapi/v3/api/v1": {"openapi": "3.0.0", "info": {}, "paths": patched},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": resources},
        "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
    }.get(path)


def main():
    """Serve until standard input ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
    for process in PROCESSES.values():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


main()
