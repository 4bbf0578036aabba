"""A person's keys: made, listed and ended by that person or an operator, and never a way to more than one has."""

from typing import Any

from tests.marketplace.conftest import OPERATOR_KEY, Floor, Person, bearer


def listed(floor: Floor, headers: dict[str, str], **query: str) -> list[dict[str, Any]]:
    """The keys that a caller sees."""
    answer = floor.client.get("/v1/keys", headers=headers, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def key_id(floor: Floor, person: Person, role: str) -> str:
    """The id of the person's only key of a role."""
    (found,) = (key for key in listed(floor, person.headers(role)) if key["role"] == role)
    return str(found["key_id"])


def works(floor: Floor, key: str) -> bool:
    """Whether a key opens anything."""
    return floor.client.get("/v1/me", headers=bearer(key)).is_success


def test_a_key_is_replaced(floor: Floor) -> None:
    """A person makes another key, ends the old one with it, and sees both; revoking twice changes nothing."""
    person = floor.person("buyer")
    old_id = key_id(floor, person, "buyer")
    made = floor.client.post("/v1/keys", json={"role": "buyer"}, headers=person.headers("buyer"))
    assert (made.status_code, made.json()["role"]) == (201, "buyer")
    new = made.json()["key"]
    ended = [floor.client.delete(f"/v1/keys/{old_id}", headers=bearer(new)).json() for _ in range(2)]
    assert ended[0]["revoked_at"] is not None
    assert ended[0] == ended[1]
    assert (works(floor, person.keys["buyer"]), works(floor, new)) == (False, True)
    seen = {key["last_four"]: key for key in listed(floor, bearer(new))}
    assert set(seen) == {new[-4:], person.keys["buyer"][-4:]}
    assert seen[new[-4:]]["revoked_at"] is None
    assert seen[person.keys["buyer"][-4:]]["key_id"] == old_id
    assert set(seen[new[-4:]]) == {"key_id", "role", "last_four", "created_at", "revoked_at"}


def test_a_key_opens_no_further_role(floor: Floor) -> None:
    """A key makes keys of roles that its account has; finance's and operators' are made with their own alone."""
    person = floor.person("buyer", "provider", "finance")

    def make(caller: str, role: str) -> int:
        headers = person.headers(caller)
        return floor.client.post("/v1/keys", json={"role": role}, headers=headers).status_code

    assert make("buyer", "provider") == 201
    assert make("finance", "finance") == 201
    assert make("buyer", "finance") == 403
    assert make("finance", "operator") == 403
    assert make("buyer", "head") == 422
    for key in listed(floor, person.headers("finance")):
        if key["role"] == "provider":
            assert floor.client.delete(f"/v1/keys/{key['key_id']}", headers=person.headers("finance")).is_success
    assert make("buyer", "provider") == 403, "the account has no live key of that role any more"


def test_the_calling_key_stays(floor: Floor) -> None:
    """The key that is calling cannot be ended by itself, so nobody is locked out by mistake; the hint says how."""
    person = floor.person("provider")
    mine = key_id(floor, person, "provider")
    answer = floor.client.delete(f"/v1/keys/{mine}", headers=person.headers("provider"))
    assert (answer.status_code, works(floor, person.keys["provider"])) == (409, True)
    assert "spare key create provider" in answer.json()["hint"]


def test_only_ones_own_keys(floor: Floor) -> None:
    """Nobody sees or ends another's keys, or a cluster's; an operator sees and ends any person's."""
    owner, stranger = floor.buyer(), floor.person("buyer")
    program = floor.program_key(floor.cluster(owner), "head")
    mine = key_id(floor, owner, "buyer")
    headers = stranger.headers("buyer")
    assert floor.client.delete(f"/v1/keys/{mine}", headers=headers).status_code == 404
    assert floor.client.get("/v1/keys", params={"account_id": owner.id}, headers=headers).status_code == 403
    assert [key["key_id"] for key in listed(floor, floor.operator, account_id=owner.id)] == [mine]
    for unknown in ("", "%25", "_" * 12, "%00", "0" * 12, mine[:11], f"{mine}0"):
        assert floor.client.delete(f"/v1/keys/{unknown}", headers=floor.operator).status_code in (400, 404, 405), (
            unknown
        )
    assert works(floor, owner.keys["buyer"])
    assert floor.client.delete(f"/v1/keys/{mine}", headers=floor.operator).is_success
    assert (works(floor, owner.keys["buyer"]), works(floor, program)) == (False, True)
    assert works(floor, OPERATOR_KEY)
