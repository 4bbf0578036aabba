"""Stock Ray tools reach a cluster's head through the market, with the market's key and never with more."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi.testclient import TestClient

from marketplace import clusters, jobs
from marketplace.database import transaction
from tests.marketplace.conftest import Floor, Person


class Dashboard(BaseHTTPRequestHandler):
    """A head's dashboard that says what it was asked."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = {"method": self.command, "path": self.path, "headers": dict(self.headers.items()), "body": body.decode()}
        content = json.dumps({**seen, "submission_id": "raysubmit_1"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Set-Cookie", "a=b")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def client(live_client: TestClient) -> TestClient:
    """The whole server."""
    return live_client


@pytest.fixture
def buyer(floor: Floor) -> Person:
    return floor.buyer()


@pytest.fixture
def path(floor: Floor, buyer: Person) -> Iterator[str]:
    """The path of a cluster whose head is a dashboard of ours."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    cluster = floor.cluster(buyer)
    with transaction(floor.sessions) as session:
        clusters.cluster(session, cluster).dashboard_url = f"http://127.0.0.1:{server.server_port}"
    yield f"/v1/clusters/{cluster}/ray"
    server.shutdown()
    server.server_close()


def test_key_is_replaced(floor: Floor, buyer: Person, path: str) -> None:
    """The head gets the cluster's own token and never the buyer's key or cookies; path, query and body pass as sent."""
    headers = buyer.headers("buyer") | {"Cookie": "secret=1", "X-Ray-Authorization": "Bearer x"}
    answer = floor.client.put(f"{path}/api/packages/a?x=1&x=2", content=b"zip", headers=headers)
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["body"]) == ("PUT", "/api/packages/a?x=1&x=2", "zip")
    token = floor.context.ray_token(path.split("/")[3])
    sent = {name.lower(): value for name, value in seen["headers"].items()}
    assert sent["authorization"] == f"Bearer {token}"
    assert "cookie" not in sent
    assert "x-ray-authorization" not in sent
    assert buyer.keys["buyer"] not in answer.text
    assert "set-cookie" not in answer.headers


def test_who_may_pass(floor: Floor, buyer: Person, path: str) -> None:
    """Only the cluster's buyer passes: no key 401, another role 403, another buyer 404."""
    target = f"{path}/api/jobs/"
    assert floor.client.get(target, headers=buyer.headers("buyer")).status_code == 200
    assert floor.client.get(target).status_code == 401
    assert floor.client.get(target, headers=floor.operator).status_code == 403
    assert floor.client.get(target, headers=floor.buyer().headers("buyer")).status_code == 404


def test_jobs_are_remembered(floor: Floor, buyer: Person, path: str) -> None:
    """A job that Ray accepted is on the receipt."""
    answer = floor.client.post(f"{path}/api/jobs/", json={"entrypoint": "python x.py"}, headers=buyer.headers("buyer"))
    assert answer.json()["submission_id"] == "raysubmit_1"
    cluster = path.split("/")[3]
    with floor.sessions() as session:
        assert [job.submission_id for job in jobs.of_cluster(session, cluster)] == ["raysubmit_1"]
    found = floor.client.get(f"/v1/clusters/{cluster}/receipt", headers=buyer.headers("buyer")).json()
    assert found["jobs"][0]["submission_id"] == "raysubmit_1"


def test_no_head_no_break(floor: Floor, buyer: Person, path: str) -> None:
    """A cluster without a head answers 409, a head that is gone 503, and a path that is none 4xx."""
    headers = buyer.headers("buyer")
    bare = floor.cluster(buyer)
    assert floor.client.get(f"/v1/clusters/{bare}/ray/api/jobs/", headers=headers).status_code == 409
    for odd in ("%00", "a%0d%0ab", "%7f", "%20", "..%2f..%2fx", "%3fx=1", "%23"):
        assert floor.client.get(f"{path}/{odd}", headers=headers).status_code < 500, odd
    with transaction(floor.sessions) as session:
        clusters.cluster(session, bare).dashboard_url = "http://127.0.0.1:9"
    answer = floor.client.get(f"/v1/clusters/{bare}/ray/api/jobs/", headers=headers)
    assert (answer.status_code, answer.json()["hint"]) == (503, "try again")
