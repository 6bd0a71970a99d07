"""Calls about the work of several people: the next image, leases, reviews, and what labeling costs and brings."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from pydantic import TypeAdapter

from labelserver.client.answers import as_object
from labelserver.client.calling import Caller
from labelserver.domain.effort import Sign
from labelserver.wire.proof import BenefitList, CurveShown, PieceShown, TimeLogShown
from labelserver.wire.queue import GivenImage, LeaseGiven, NoImage, WorkRules
from labelserver.wire.review import Decision, ReviewMade

_NEXT: TypeAdapter[GivenImage | NoImage] = TypeAdapter(GivenImage | NoImage)


class WorkCalls(Caller):
    """The queue and what comes of it. An image's id may hold "/"."""

    def next_image(self, strategy: str = "", *, resume: bool = True, again: bool = False) -> GivenImage | NoImage:
        """The next image, leased to this person; `NoImage` says why there is none."""
        asked = {"strategy": strategy, "resume": resume, "again": again}
        return _NEXT.validate_python(self._json("POST", "/api/v1/queue/next", json=asked))

    def heartbeat(self, lease_id: str) -> LeaseGiven:
        """Keep an image. Raises `NothingThere` if it went to somebody else."""
        return self._parsed(LeaseGiven, self._json("POST", f"/api/v1/queue/leases/{lease_id}/heartbeat"))

    def release(self, lease_id: str) -> None:
        """Give an image back."""
        self._json("POST", f"/api/v1/queue/leases/{lease_id}/release")

    def skip(self, lease_id: str, reason: str = "") -> None:
        """Give an image back and be given others."""
        self._json("POST", f"/api/v1/queue/leases/{lease_id}/skip", json={"reason": reason})

    def work_rules(self) -> WorkRules:
        """The project's rules of work."""
        return self._parsed(WorkRules, self._json("GET", "/api/v1/queue/rules"))

    def set_work_rules(self, rules: WorkRules) -> WorkRules:
        """Change them."""
        return self._parsed(WorkRules, self._json("PUT", "/api/v1/queue/rules", json=rules.model_dump()))

    def review(
        self, image_id: str, decision: Decision, comment: str = "", tag: str = "final", revision: int | None = None
    ) -> ReviewMade:
        """Approve a label, or return it with a comment."""
        path = f"/api/v1/images/{quote(image_id)}/labels/{quote(tag)}/review"
        body = {"decision": Decision(decision).value, "comment": comment, "revision": revision}
        return self._parsed(ReviewMade, self._json("POST", path, json=body))

    def tell_activity(self, image_id: str, *signs: Sign) -> None:
        """Say what this person does with an image, now."""
        events = [{"kind": sign.value} for sign in signs]
        self._json("POST", f"/api/v1/images/{quote(image_id)}/activity", json={"events": events})

    def learning_curve(self, model: str = "") -> CurveShown:
        """Of one model, by default the one trained last. Raises `NothingThere` before the first training."""
        return self._parsed(CurveShown, self._json("GET", "/api/v1/learning-curve", params={"model": model}))

    def benefit(self, model: str = "") -> BenefitList:
        """Minutes that proposals save, by version, and each person's work."""
        return self._parsed(BenefitList, self._json("GET", "/api/v1/benefit", params={"model": model}))

    def time_log(self, *, person: str = "", image: str = "", model: str = "") -> Iterator[PieceShown]:
        """All pieces of work that fit, in the order in which they began."""
        after = 0
        while True:
            query = {"person": person, "image": image, "model": model, "after": str(after), "limit": "500"}
            page = self._parsed(TimeLogShown, as_object(self._json("GET", "/api/v1/time-log", params=query)))
            yield from page.pieces
            if page.next is None:
                return
            after = page.next
