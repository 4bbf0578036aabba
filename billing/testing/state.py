"""Everything the fake remembers: objects, saved answers, deliveries, faults and its own clock."""

import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from billing.testing.values import FakeBroken, JsonObject, missing

DAY_SECONDS = 86_400


@dataclass
class State:
    """Plain JSON, so that it can be written to a file and read back."""

    objects: dict[str, JsonObject] = field(default_factory=dict)  # by id, oldest first
    hidden: dict[str, JsonObject] = field(default_factory=dict)  # by id: what Stripe knows and does not show
    answers: dict[str, JsonObject] = field(default_factory=dict)  # saved answers by idempotency key
    deliveries: list[JsonObject] = field(default_factory=list)
    faults: list[JsonObject] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)  # where the fake itself broke Stripe's description
    hold_webhooks: bool = False
    clock_offset_seconds: int = 0
    clock_frozen_at: int | None = None  # epoch seconds; None: the clock runs


@dataclass(frozen=True)
class FakeConfig:
    """Where webhooks go and how they are signed; an empty URL sends nothing."""

    webhook_url: str = ""
    connect_webhook_url: str = ""
    webhook_secret: str = "whsec_platform"  # noqa: S105 - a fake's secret guards nothing
    connect_webhook_secret: str = "whsec_connect"  # noqa: S105 - a fake's secret guards nothing
    state_path: Path | None = None  # JSON, rewritten after each change; a restarted fake reads it
    retry_seconds: tuple[int, ...] = (1, 2, 4, 8, 15, 30, 60, 60, 60)  # pauses between attempts to deliver
    check_openapi: bool | None = None  # None: when the package with Stripe's description is installed


class Fake:
    """The fake's memory, with the few operations every noun needs."""

    def __init__(self, config: FakeConfig) -> None:
        self.config = config
        self.state = State()
        self.request: JsonObject | None = None  # the API request that events of this moment belong to
        self.check_object: Callable[[JsonObject], None] = lambda _: None
        self.wake: Callable[[], None] = lambda: None  # tells the postman that there is something to deliver
        if config.state_path is not None and config.state_path.exists():
            self.state = State(**json.loads(config.state_path.read_text()))

    def save(self) -> None:
        """Write the state file, if there is one; whole or not at all."""
        path = self.config.state_path
        if path is None:
            return
        draft = path.with_suffix(path.suffix + ".new")
        draft.write_text(json.dumps(asdict(self.state)))
        os.replace(draft, path)  # noqa: PTH105 - the atomic one

    def now(self) -> int:
        """Epoch seconds by the fake's clock."""
        frozen_at = self.state.clock_frozen_at
        start = time.time_ns() // 1_000_000_000 if frozen_at is None else frozen_at
        return start + self.state.clock_offset_seconds

    def new_id(self, prefix: str) -> str:
        """An id in Stripe's form, never given out before."""
        return f"{prefix}_{uuid.uuid4().hex[:24]}"

    def add(self, obj: JsonObject, account: str = "", **hidden: object) -> JsonObject:
        """Remember an object of an account ("" is the platform), with what Stripe knows of it and does not show."""
        self.check_object(obj)
        if obj["id"] in self.state.objects:
            raise FakeBroken(f"id given out twice: {obj['id']}")
        self.state.objects[obj["id"]] = obj
        self.state.hidden[obj["id"]] = {"account": account, **hidden}
        return obj

    def get(self, noun: str, object_id: str, *, account: str = "", param: str = "id") -> JsonObject:
        """The object that account sees under this id; resource_missing otherwise."""
        obj = self.state.objects.get(object_id)
        if obj is None or obj["object"] != noun or self.hidden(object_id)["account"] != account:
            raise missing(noun.rsplit(".", 1)[-1], object_id, param)
        return obj

    def hidden(self, object_id: str) -> JsonObject:
        """What Stripe knows of an object and does not show."""
        return self.state.hidden[object_id]

    def all(self, noun: str, account: str | None = "") -> list[JsonObject]:
        """Objects of one noun, oldest first; of every account when account is None."""
        return [
            obj
            for obj in self.state.objects.values()
            if obj["object"] == noun and account in (None, self.hidden(obj["id"])["account"])
        ]
