"""What the members of a group asked of a node, read from its log: the server's own word on who committed what, and when.

A node tells of its requests when it is started with `node.REQUESTS`.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Place = tuple[str, int]


@dataclass(frozen=True)
class Commit:
    """One partition of one commit that the server took."""

    member: str
    generation: int
    place: Place
    offset: int

    def __str__(self) -> str:
        topic, partition = self.place
        return f"{self.member} committed {topic}[{partition}] up to {self.offset} in generation {self.generation}"


class Requests:
    """Of one group, from the whole log so far."""

    def __init__(self, log: Path, group: str = "default") -> None:
        self.commits: list[Commit] = []
        #: By generation, who was given what.
        self.owners: dict[int, dict[Place, str]] = {0: {}}
        #: Times that a member joined, which is once a member and generation.
        self.joins = 0
        for kind, request, response in _requests(log):
            if request.get("groupId") != group:
                continue
            if kind == "OFFSET_COMMIT":
                self.commits += _commits(request, response)
            elif kind == "SYNC_GROUP" and request["assignments"] and response["errorCode"] == 0:
                given = {entry["memberId"]: base64.b64decode(entry["assignment"]) for entry in request["assignments"]}
                self.owners[request["generationId"]] = {p: m for m, text in given.items() for p in _places(text)}
            elif kind == "JOIN_GROUP" and response["errorCode"] == 0:
                self.joins += 1

    def after_a_revoke(self) -> list[Commit]:
        """Commits of a partition that its member had lost.

        What a generation takes from a member is nobody's in that generation, so that the member can finish with it, and
        another's in the next.
        """
        return [commit for commit in self.commits if not self._was_allowed(commit)]

    def steps_back(self) -> list[Commit]:
        """Commits of less than was committed before: somebody else's work was undone."""
        furthest = defaultdict[Place, int](int)
        wrong = []
        for commit in self.commits:
            if commit.offset < furthest[commit.place]:
                wrong.append(commit)
            furthest[commit.place] = max(furthest[commit.place], commit.offset)
        return wrong

    def _was_allowed(self, commit: Commit) -> bool:
        # A generation whose leader left before it had assigned anything leaves to everybody what they had.
        generations = [number for number in sorted(self.owners) if number <= commit.generation]
        now, before = [self.owners[number].get(commit.place) for number in [*generations[:-3:-1], 0]][:2]
        is_being_revoked = now is None and before == commit.member and commit.generation in self.owners
        return now == commit.member or is_being_revoked


def _requests(log: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for line in log.read_text().splitlines():
        _, found, told = line.partition("Completed request:")
        if found and any(name in told for name in ("OFFSET_COMMIT", "SYNC_GROUP", "JOIN_GROUP")):
            request = json.loads(told)
            yield request["requestHeader"]["requestApiKeyName"], request["request"], request["response"]


def _commits(request: dict[str, Any], response: dict[str, Any]) -> Iterator[Commit]:
    for topic, answer in zip(request["topics"], response["topics"], strict=True):
        for partition, taken in zip(topic["partitions"], answer["partitions"], strict=True):
            if taken["errorCode"] == 0:
                place = (topic["name"], partition["partitionIndex"])
                generation = request["generationIdOrMemberEpoch"]
                yield Commit(request["memberId"], generation, place, partition["committedOffset"])


def _places(assignment: bytes) -> Iterator[Place]:
    """The partitions in a ConsumerProtocolAssignment: a version, and an array of topics with their partitions."""
    if not assignment:
        return
    (topics,) = struct.unpack_from(">i", assignment, 2)
    at = 6
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", assignment, at)
        name = assignment[at + 2 : at + 2 + length].decode()
        at += 2 + length
        (count,) = struct.unpack_from(">i", assignment, at)
        for partition in struct.unpack_from(f">{count}i", assignment, at + 4):
            yield name, partition
        at += 4 + 4 * count
