"""A store of 100 000 images against the machine's own speed, and against a store of 100."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelserver.contracts.scores import Look
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance
from labelserver.tasks.strategies import Epistemic, choose_next
from tests.bench.report import Section, quantile
from tests.support.live_server import LiveServer, wait_until
from tests.support.study_folder import put_image, put_label

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

MANY, FEW = 100_000, 100
SAVES = 400
#: the first of each series are left out: connections, caches and the interpreter warm up
WARM_UP = 20
#: s without a request after which a connection is made anew
_IDLE_S = 2

APP = """
from labelserver import LabelApp
from labelserver.tasks.planned import Default, Entropy
from labelserver.tasks.strategies import Epistemic, First, Last, Random


class App(LabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="Bench", description="For benchmarks", labels=["organ"])

    def init_strategies(self):
        found = {"random": Random(), "first": First(), "last": Last(), "epistemic": Epistemic()}
        return {**found, "default": Default(), "entropy": Entropy()}
"""


def image_ids(count: int) -> list[str]:
    """A thousand images a folder."""
    return [f"site-{n // 1000:03}/case-{n:06}" for n in range(count)]


def make_studies(folder: Path, count: int) -> Path:
    data = put_image(folder / "studies", "x.nii.gz").read_bytes()
    (folder / "studies" / "x.nii.gz").unlink()
    for image_id in image_ids(count):
        path = folder / "studies" / f"{image_id}.nii.gz"
        if image_id.endswith("000"):
            path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return folder / "studies"


class Client:
    """One connection that stays open until the `with` block ends, and as little work of its own as possible."""

    def __init__(self, server: LiveServer, label: bytes) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        part = b'--b\r\nContent-Disposition: form-data; name="label"; filename="l.nii.gz"\r\n\r\n'
        self._form = part + label + b"\r\n--b--\r\n"
        self._used = time.monotonic()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json", person: str = "") -> Any:
        if time.monotonic() - self._used > _IDLE_S:  # the server closes connections that rest
            self._connection.close()
        self._used = time.monotonic()
        who = {"X-Labelserver-Person": person} if person else {}
        self._connection.request(method, path, body, {"Content-Type": kind, **who})
        answer = self._connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        return json.loads(data)

    def save(self, image_id: str) -> None:
        self.ask("PUT", f"/datastore/label?image={image_id}", self._form, "multipart/form-data; boundary=b")


class Bench:
    """Two servers, one with many images and one with few, and what their starts took."""

    def __init__(self, folder: Path) -> None:
        self.label = put_label(folder / "label.nii.gz", 3).read_bytes()
        self.label_file = folder / "label.nii.gz"
        self.bare_folder = folder / "bare"
        self.bare_folder.mkdir()
        self.servers: dict[int, LiveServer] = {}
        self.starts: dict[str, list[float]] = {"without": [], "with": []}
        for count in (FEW, MANY):
            home = folder / str(count)
            (home / "app").mkdir(parents=True)
            (home / "app" / "main.py").write_text(APP)
            self.servers[count] = LiveServer(home / "app", make_studies(home, count))
        self.many = self.servers[MANY]
        self.index = self.many.studies / ".labelserver" / "index.sqlite"

    def time_start(self) -> float:
        """Seconds from starting the process to the first answer of ``/info/`` that knows all images."""
        begun = time.perf_counter()
        self.many.start(ready=False)
        info = self.many.http.get("/info/").json()
        seconds = time.perf_counter() - begun
        assert info["datastore"]["total"] == MANY
        return seconds

    def bare_write(self, number: int) -> None:
        descriptor = os.open(self.bare_folder / f"{number}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.write(descriptor, self.label)
        os.fsync(descriptor)
        os.close(descriptor)

    def client(self, count: int) -> Client:
        return Client(self.servers[count], self.label)

    def score_all(self) -> None:
        """As a scoring job would leave it; written at once, because 100 000 saves are not what is measured."""
        chance = random.Random(1)
        values = [(image_id, chance.random()) for image_id in image_ids(MANY)]
        index = sqlite3.connect(self.index, isolation_level=None, timeout=60)
        index.execute("BEGIN IMMEDIATE")
        index.executemany(
            "INSERT OR REPLACE INTO scores (image_id, key, value, waiting) "
            "SELECT id, 'epistemic_entropy', ?2, waiting FROM images WHERE id = ?1",
            values,
        )
        index.executemany("UPDATE images SET info = json_set(info, '$.epistemic_entropy', ?2) WHERE id = ?1", values)
        index.executemany(
            "INSERT OR REPLACE INTO scores SELECT id, 'entropy', ?2, waiting, open FROM images WHERE id = ?1", values
        )
        index.execute("COMMIT")
        index.close()
        self.look_at_all(dict(values))

    def look_at_all(self, entropy: dict[str, float]) -> None:
        """As scoring jobs would leave it: a look of a model at every image, with an embedding."""
        store = LocalDatastore(self.many.studies)
        chance = np.random.default_rng(4)
        embeddings = chance.normal(size=(MANY, 32)).astype("<f4")
        numbers = chance.random((MANY, 3))
        with store._shelf.opened() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO looks (image_id, kind, version, content, signature, ts, scores, classes, embedding) "
                "VALUES (?, 'seg', '1', '', '', 1.0, ?, ?, ?)",
                (
                    (
                        image_id,
                        json.dumps(
                            {"entropy": entropy[image_id], "margin": row[0], "bald": row[1], "foreground": row[2]}
                        ),
                        (row[:2] * entropy[image_id]).astype("<f4").tobytes(),
                        embedding.tobytes(),
                    )
                    for image_id, row, embedding in zip(image_ids(MANY), numbers, embeddings, strict=True)
                ),
            )
            db.execute("COMMIT")
        store.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    made = Bench(folder)
    try:
        made.starts["without"].append(made.time_start())
        for _ in range(3):
            made.many.stop()
            made.starts["with"].append(made.time_start())
        made.servers[FEW].start()
        for server in made.servers.values():
            wait_until("readiness", lambda server=server: server.http.get("/readyz").status_code == 200, 120)
        made.score_all()
        yield made
    finally:
        for server in made.servers.values():
            server.http.close()
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def ms(values: list[float]) -> str:
    return f"p50 {quantile(values, 0.5) * 1e3:.2f} ms, p95 {quantile(values, 0.95) * 1e3:.2f} ms"


def test_saves_starts_and_lists(bench: Bench) -> None:
    with Section(
        f"A store of {MANY:,} images".replace(",", " "),
        "Tiny NIfTI files, a thousand a folder. A save is a new label of a new image; the bare write is open, write, "
        "fsync, close of the same bytes on the same disk. They take turns, save by save.",
    ) as section:
        section.at_most("start to first /info/, with index", max(bench.starts["with"]), 3, "s", "slowest of 3")
        section.at_most("start to first /info/, without index", bench.starts["without"][0], 20, "s")
        with bench.client(MANY) as many, bench.client(FEW) as few:
            measure_saves(bench, section, many, few)
            measure_lists(bench, section, many)
            measure_queue(bench, section, many)
            measure_noticing(bench, section, many)
        section.at_most("memory of the server process", memory_mib(bench.many.pid), 400, "MiB", "peak, after all above")


def measure_saves(bench: Bench, section: Section, many: Client, few: Client) -> None:
    store = LocalDatastore(bench.many.studies)
    taken: dict[str, list[float]] = {"bare": [], "store": [], "many": [], "few": []}
    chosen = random.Random(2).sample(image_ids(MANY), 2 * SAVES)
    for number in range(SAVES):
        by_store, by_http, small = chosen[2 * number], chosen[2 * number + 1], image_ids(FEW)[number % FEW]
        steps: list[tuple[str, Callable[[], object]]] = [
            ("bare", lambda number=number: bench.bare_write(number)),
            (
                "store",
                lambda i=by_store: store.accept_label(ImageId(i), bench.label_file, ".nii.gz", FINAL, Provenance(), {}),
            ),
            ("many", lambda i=by_http: many.save(i)),
            ("few", lambda i=small: few.save(i)),
        ]
        for name, action in steps if number % 2 else [steps[0], *steps[:0:-1]]:
            taken[name].append(timed(action))
    store.close()
    taken = {name: values[WARM_UP:] for name, values in taken.items()}
    p50, p95 = ({name: quantile(values, share) for name, values in taken.items()} for share in (0.5, 0.95))
    section.note("bare write", ms(taken["bare"]))
    section.at_most("save through the Datastore, p95 to p95", p95["store"] / p95["bare"], 8, "x", ms(taken["store"]))
    section.at_most("save over HTTP, p50 to p50", p50["many"] / p50["bare"], 15, "x", ms(taken["many"]))
    section.at_most("save over HTTP, p95 to p95", p95["many"] / p95["bare"], 25, "x")
    section.at_most(
        f"save over HTTP, {MANY} to {FEW} images, p50 to p50", p50["many"] / p50["few"], 1.3, "x", ms(taken["few"])
    )


def measure_lists(bench: Bench, section: Section, client: Client) -> None:
    store = LocalDatastore(bench.many.studies)
    chance = random.Random(3)
    ids = image_ids(MANY)

    def series(action: Callable[[], object], count: int = 120) -> list[float]:
        return [timed(action) for _ in range(count)][WARM_UP:]

    taken = series(lambda: choose_next("epistemic", Epistemic(), {}, store))
    section.at_most("next image by stored score, through the Datastore, p95", quantile(taken, 0.95) * 1e3, 20, "ms")
    store.close()
    client.ask("POST", "/activelearning/default", b"{}")  # its order is worked out beside the answers
    plans = bench.many.studies / ".labelserver" / "plans.jsonl"
    wait_until("the order of the default", plans.exists, 60)
    section.note("order of the next images worked out", f"{plan_seconds(bench):.2f} s", "beside the answers")
    for strategy in ("epistemic", "random", "first", "last", "default", "entropy"):
        taken = series(lambda strategy=strategy: client.ask("POST", f"/activelearning/{strategy}", b"{}"))
        section.at_most(f"next image over HTTP: {strategy}, p95", quantile(taken, 0.95) * 1e3, 20, "ms", ms(taken))
    with scoring_goes_on(bench):
        for strategy in ("default", "entropy", "epistemic"):
            taken = series(lambda strategy=strategy: client.ask("POST", f"/activelearning/{strategy}", b"{}"))
            title = f"next image over HTTP while scoring runs: {strategy}, p95"
            section.at_most(title, quantile(taken, 0.95) * 1e3, 20, "ms", ms(taken))
    for state in ("all", "unlabeled", "labeled"):
        by_id = series(
            lambda state=state: client.ask("GET", f"/api/v1/images?state={state}&after={chance.choice(ids)}")
        )
        section.at_most(f"page of 100 by id: {state}, p95", quantile(by_id, 0.95) * 1e3, 20, "ms", ms(by_id))
        by_score = series(
            lambda state=state: client.ask(
                "GET", f"/api/v1/images?state={state}&sort=epistemic_entropy&after={chance.random()}/x"
            )
        )
        section.at_most(f"page of 100 by score: {state}, p95", quantile(by_score, 0.95) * 1e3, 20, "ms", ms(by_score))


def plan_seconds(bench: Bench) -> float:
    """How long it takes to work out an order of the next images, columns and all."""
    store = LocalDatastore(bench.many.studies)
    seconds = timed(lambda: store._planner.make("default"))
    store.close()
    return seconds


@contextmanager
def scoring_goes_on(bench: Bench) -> Iterator[None]:
    """A look every 20 ms by another process's store, as a scoring job on a fast device would write them."""
    store = LocalDatastore(bench.many.studies)
    ended = threading.Event()
    scores = {"entropy": 0.5, "margin": 0.5, "bald": 0.1, "foreground": 0.2, "epistemic_entropy": 0.5}

    def score() -> None:
        for image_id in image_ids(MANY):
            if ended.wait(0.02):
                return
            content, signature = store.content_of(image_id)
            store.put_look(Look(image_id, "seg", "2", content, signature, time.time(), scores, (0.1, 0.2), (0.0,) * 32))

    thread = threading.Thread(target=score)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        store.close()


def measure_queue(bench: Bench, section: Section, client: Client) -> None:
    """Somebody new asks each time and keeps the image; a fifth of the images are read by two."""
    rules = client.ask("GET", "/api/v1/queue/rules")
    client.ask("PUT", "/api/v1/queue/rules", json.dumps({**rules, "overlap_share": 0.2}).encode())
    with scoring_goes_on(bench):
        for strategy in ("epistemic", "random", "first", "default", "entropy"):
            body = json.dumps({"strategy": strategy}).encode()
            taken, images = [], []
            for number in range(120):
                person = f"{strategy}-{number}"
                begun = time.perf_counter()
                given = client.ask("POST", "/api/v1/queue/next", body, person=person)
                taken.append(time.perf_counter() - begun)
                images.append(given["image"]["id"])
            assert max(Counter(images).values()) <= 2
            taken = taken[WARM_UP:]
            section.at_most(
                f"next image of the queue while scores are written: {strategy}, p95",
                quantile(taken, 0.95) * 1e3,
                20,
                "ms",
                ms(taken),
            )


def measure_noticing(bench: Bench, section: Section, client: Client) -> None:
    data = (bench.many.studies / f"{image_ids(1)[0]}.nii.gz").read_bytes()
    waited, worked = [], []
    for number in range(5):
        cpu = cpu_s(bench.many.pid)
        begun = time.perf_counter()
        (bench.many.studies / "site-001" / f"new-{number}.nii.gz").write_bytes(data)
        path = f"/datastore/image/info?image=site-001/new-{number}"
        wait_until("the new image", lambda path=path: client.ask("GET", path), 30)
        waited.append(time.perf_counter() - begun)
        worked.append(cpu_s(bench.many.pid) - cpu)
    section.at_most("a new file is noticed within", max(waited), 2, "s", "slowest of 5")
    section.at_most(
        "processor time of noticing it", max(worked), 0.25, "s", "a look at all files takes several times as much"
    )


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
