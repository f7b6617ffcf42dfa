"""What a local server was asked and what it answered: one record per request.

The log of a server in this process is kept in memory; with a file, each record is also appended
there as a line of JSON, and `RequestLog.read` gives the log of a server in another process.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

from pipeline.demo.server.faults import Fault

__all__ = ["RequestLog", "RequestRecord"]

_SETTLE_SECONDS = 5.0


@dataclass(frozen=True)
class RequestRecord:
    """One request.

    Attributes
    ----------
    monotonic
        Seconds on the monotonic clock when it arrived; comparable within one machine.
    wall
        Seconds since 1970 when it arrived.
    method, path, query
        What was asked; `query` as it stood in the address.
    photo_id
        The photo asked for, if the path names one.
    status
        Status of the answer; None where nothing was sent.
    fault
        The fault injected, if any. A rule of iNaturalist's that was broken is no fault.
    sent
        Bytes of the body that were handed to the kernel.
    complete
        Whether that was all of the body that the answer announced.
    """

    monotonic: float
    wall: float
    method: str
    path: str
    query: str
    photo_id: int | None
    status: int | None
    fault: Fault | None
    sent: int
    complete: bool


class RequestLog:
    """Records in the order in which the requests ended; safe to use from many threads."""

    def __init__(self, records: Iterable[RequestRecord] = (), file: Path | None = None) -> None:
        self._records = list(records)
        self._file = file
        self._in_flight = 0
        self._change = threading.Condition()

    @classmethod
    def read(cls, file: Path) -> RequestLog:
        """The log that a server has written to a file so far."""
        if not file.is_file():
            return cls()
        # A server that was killed may have left half a line.
        whole = file.read_text("utf-8").rpartition("\n")[0]
        rows = [json.loads(line) for line in whole.splitlines()]
        return cls(
            RequestRecord(**{**row, "fault": row["fault"] and Fault(row["fault"])}) for row in rows
        )

    def begin(self) -> None:
        """Note that a request has arrived, whose record `end` will bring."""
        with self._change:
            self._in_flight += 1

    def end(self, record: RequestRecord) -> None:
        """Keep the record of a request that has ended."""
        with self._change:
            self._records.append(record)
            if self._file is not None:
                with self._file.open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(asdict(record)) + "\n")
            self._in_flight -= 1
            self._change.notify_all()

    @property
    def records(self) -> list[RequestRecord]:
        """The records so far, after waiting up to 5 s for the requests that are under way.

        A client reads the last byte of an answer a moment before the record of it is kept.
        """
        with self._change:
            self._change.wait_for(lambda: self._in_flight == 0, timeout=_SETTLE_SECONDS)
            return list(self._records)

    def requests_in_any(self, window_seconds: float, prefix: str = "/v1/") -> int:
        """The largest number of requests below `prefix` that arrived in any one window.

        A window holds what arrives less than `window_seconds` after its first request.
        """
        arrivals = sorted(
            record.monotonic for record in self.records if record.path.startswith(prefix)
        )
        largest = first = 0
        for last, arrival in enumerate(arrivals):
            while arrival - arrivals[first] >= window_seconds:
                first += 1
            largest = max(largest, last - first + 1)
        return largest

    def faults_seen(self) -> Counter[Fault]:
        """How often each fault was injected."""
        return Counter(record.fault for record in self.records if record.fault is not None)

    def completed(self, photo_id: int) -> int:
        """How often a photo was sent whole and without a fault, in any size."""
        return sum(
            record.photo_id == photo_id
            and record.status == HTTPStatus.OK
            and record.fault is None
            and record.complete
            for record in self.records
        )
